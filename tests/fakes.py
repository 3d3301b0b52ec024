"""Small parts for the tests: a tokenizer of letters and networks with known answers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.model import ImplicitRefinementModel
from imadarem.nn import RefinementOutput
from imadarem.tokenizers import SelfiesTokenizer, SpecialIds

#: pad 0, mask 1, eos 2, tokens from 3 on.
SPECIAL = SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1))
IDS = SimpleNamespace(mask_token_id=1, pad_token_id=0, eos_token_id=2)
#: Short and long rows, on both sides of every multiple of 16.
COUNTS = [0, 1, *[0] * 11, 1, 1, 1, 1, 1, *[0] * 13, 1, 1, 1, 0, 2, 2, 2, *[0] * 8, 1, 1, 1, 1, 1]
MOLECULES = [
    "CCO", "CCN", "CC(=O)O", "c1ccccc1", "CC(C)O", "CCOC(C)=O", "c1ccncc1", "CCCl", "NCCO",
    "C1CCCCC1", "CC#N", "OCC(O)CO",
]  # fmt: skip


class Scripted(nn.Module):
    """A network whose answers are given: ``answer(ids, call) -> (logits, gate logits)``."""

    def __init__(self, answer: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.answer = answer
        self.calls = 0
        self.masks: list[Tensor | None] = []

    def forward(
        self, ids: Tensor, attention_mask: Tensor | None = None, prev_probs: Tensor | None = None
    ) -> RefinementOutput:
        self.calls += 1
        self.masks.append(attention_mask)
        return RefinementOutput(*self.answer(ids, self.calls))


def peaked(tokens: Tensor, vocab: int, height: float = 50.0) -> Tensor:
    """Logits ``(B, L, V)`` that leave no doubt about ``tokens`` ``(B, L)``."""
    return torch.nn.functional.one_hot(tokens, vocab).double() * height


def tiny_model(seed: int = 0, **settings: object) -> ImplicitRefinementModel:
    """A two-layer model over the SELFIES of :data:`MOLECULES`."""
    tokenizer = SelfiesTokenizer.from_corpus(MOLECULES)
    given: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "max_seq_len": 12,
        "dropout": 0.0,
    }
    torch.manual_seed(seed)
    config = ImplicitRefinementConfig(**{**given, **settings})  # type: ignore[arg-type]
    return ImplicitRefinementModel(config, tokenizer=tokenizer)


def shaken(model: ImplicitRefinementModel, scale: float = 0.3) -> ImplicitRefinementModel:
    """The model with noise on every weight: blocks start as the identity otherwise."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def gap_model() -> ImplicitRefinementModel:
    """A tiny model for holes of unknown length, whose blanks become nothing every few tokens."""
    plain = tiny_model(length_mode="drawn", joint_size=6)
    larger = plain.with_vocabulary(plain.tokenizer.with_nothing()).enlarged(max_seq_len=40)
    larger = shaken(larger)
    with torch.no_grad():
        larger.network.backbone.to_logits.bias[larger.special.nothing] = 4.0
    return larger


def grid_model(
    seed: int = 0, sizes: tuple[int, ...] = (4,), **settings: object
) -> ImplicitRefinementModel:
    """A one-block model of sudoku grids that knows a cell by its row, column and box alone.

    The digits 1, 2, … have the ids 3, 4, …; pad, mask and EOS are those of :data:`SPECIAL`.
    """
    from imadarem.data.sudoku import relations, sudoku_tokenizer

    tokenizer = sudoku_tokenizer()
    given: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "max_seq_len": max(sizes) ** 2,
        "dropout": 0.0,
        "positions": False,
        "attention": False,
        "relations": [relations(size) for size in sizes],
        "length_mode": "drawn",
    }
    torch.manual_seed(seed)
    config = ImplicitRefinementConfig(**{**given, **settings})  # type: ignore[arg-type]
    return ImplicitRefinementModel(config, tokenizer=tokenizer)


def uneven_model(**given: object) -> ImplicitRefinementModel:
    """A network for rows of :data:`COUNTS`, with random weights everywhere, its first zeros too."""
    torch.manual_seed(0)
    config = {"vocab_size": 12, "hidden_size": 32, "num_layers": 2, "num_heads": 2}
    config |= {"max_seq_len": len(COUNTS) - 1, "conv_kernel_size": 3, "length_counts": COUNTS}
    settled = ImplicitRefinementConfig(**{**config, "length_mode": "drawn", **given})
    built = ImplicitRefinementModel(settled, IDS).eval()
    with torch.no_grad():
        for weight in built.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return built


def records(refiner: ImplicitRefinementModel, n: int, **given: object) -> list[list[object]]:
    """Every number of every step, by row: what is exact to the bit can be compared whole."""
    found: list[list[object]] = [[] for _ in range(n)]

    def note(numbers, step):
        for i, row in enumerate(step.rows.tolist()):
            live = step.canvas.attended[i]
            figures = (step.gate[i][live], step.confidence[i][live], step.canvas.ids[i][live])
            found[int(numbers[row])].append([part.tolist() for part in figures])

    samples = refiner.sample(n, on_step=note, **given)
    for row, steps in zip(samples.rows, found, strict=True):
        steps.append((row.ids.tolist(), row.steps, row.reason))
    return found
