"""What the tests of the orchestrator share: a copy task, tiny models, and states to compare.

A question is four letters and four blanks; the answer repeats the letters.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imadarem.config import ImplicitRefinementConfig
from imadarem.data.tasks import Episodes, Task, Transform
from imadarem.model import ImplicitRefinementModel
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.memory import MemoryBank
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer.from_corpus(["abcd"])
PAD, MASK, EOS, A = 0, 1, 2, 3
VOCAB, LENGTH, HALF = 7, 8, 4


class Relabel:
    """The letters under other names: a question's answer goes with them."""

    def draw(self, row: Tensor, rng: np.random.Generator) -> Transform:
        names = torch.arange(VOCAB)
        names[A:] = A + torch.from_numpy(rng.permutation(VOCAB - A))
        return Transform(torch.arange(len(row)), names)


def copied(inputs: Tensor, answers: Tensor) -> Tensor:
    """Verifies an answer without its label."""
    letters, copies = inputs[:, :HALF], answers[:, HALF:]
    if copies.shape != letters.shape:
        return torch.zeros(len(answers), dtype=torch.bool)
    return (copies == letters).all(dim=1)


def episodes(count: int, seed: int = 0) -> Episodes:
    """``count`` questions; the first ``n`` of them are the same for every count."""
    rng = np.random.default_rng(seed)
    letters = torch.from_numpy(rng.integers(A, VOCAB, (count, HALF)))
    blanks = torch.full_like(letters, MASK)
    inputs, labels = torch.cat([letters, blanks], 1), torch.cat([letters, letters], 1)
    return Episodes(inputs, labels, torch.arange(count) + 1000 * seed)


def copy_task(train: int = 64, valid: int = 16) -> Task:
    return Task(
        name="copy",
        tokenizer=TOKENIZER,
        train=episodes(train, seed=1),
        valid=episodes(valid, seed=2),
        symmetry=Relabel(),
        verify=copied,
    )


def model(seed: int = 0, **settings: Any) -> ImplicitRefinementModel:
    """One layer of width 16, with carry and halting head; its weights follow from ``seed``."""
    given: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "max_seq_len": LENGTH,
        "dropout": 0.1,
        "carry": True,
        "halting": True,
        "length_mode": "drawn",
        "ema_decay": 0.9,
    }
    torch.manual_seed(seed)
    config = ImplicitRefinementConfig(**{**given, **settings})
    return ImplicitRefinementModel(config, TOKENIZER)


def bank(**settings: Any) -> MemoryBank:
    return MemoryBank(**{"size": 64, "vocab_size": VOCAB, "key_size": 32, **settings})


def orchestrator(
    refiner: ImplicitRefinementModel | None = None,
    memory: MemoryBank | None = None,
    **settings: Any,
) -> UnifiedRefinerOrchestrator:
    """Over a tiny model, eight steps in training, the copy task registered."""
    config = OrchestrationConfig(**{"max_steps_train": 8, "backprop_truncate_steps": 3, **settings})
    made = UnifiedRefinerOrchestrator(refiner or model(), TOKENIZER, memory, config)
    made.register("copy", symmetry=Relabel(), verify=copied)
    return made.train()


def adam(over: UnifiedRefinerOrchestrator, rate: float = 3e-3) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in over.model.parameters() if p.requires_grad], lr=rate)


def learned(over: UnifiedRefinerOrchestrator, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything that a later step follows from, but for the counters of steps and of reads."""
    state = over.checkpoint()
    memory = state["memory_bank"]
    return {
        "model": state["model_state"],
        "optimizer": optimizer.state_dict(),
        "grok_fast": state["grok_fast_state"],
        "bandit": state["bandit"],
        "memory": memory and {key: memory[key] for key in ("ids", "keys", "task_ids", "written")},
        "carried": [own["carried"] for own in state["processes"]],
    }


def frozen(value: Any) -> Any:
    """A copy that later steps do not change; tensors as digests, equal by ``==``."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous()
        held = data.reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{data.dtype} {tuple(data.shape)} {sha256(held).hexdigest()}"
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [frozen(item) for item in value]
    return value


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal to the bit; the part that differs is named."""
    one, other = frozen(one), frozen(other)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
