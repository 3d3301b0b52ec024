"""Molecules after equal training: a joint head, independent blanks, and two autoregressive models.

    python benchmarks/molecule_baselines.py --corpus TOKENS --seconds 600
    python benchmarks/molecule_baselines.py --corpus TOKENS --only joint charrnn

``TOKENS`` is a folder that ``imadarem data`` or ``imadarem train`` has prepared. All models
read the same molecules in the same batches, take the same optimiser (Muon for matrices) with
the same rate, and stop at the same CPU time of their own process, the learning rate falling to
nothing over the last fifth; weights are averaged over the last steps alike. Then each writes
``n`` molecules: the refiners in each number of passes, of a length drawn from the data, the
autoregressive ones to their own end, a pass for each token.

- *joint*: a refiner of 3 blocks with a joint head; 3 in 4 rows (``--blank-share``) are entirely
  blank;
- *independent*: plain masked diffusion, a refiner of 4 blocks that draws blanks by themselves,
  in the order of its confidence;
- *gpt2*: Hugging Face's GPT-2, 4 blocks;
- *charrnn*: a recurrent language model (GRU) as MOSES' CharRNN, one layer.

FCD is to the MOSES test set and depends on ``n``: compare within one table.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pareto import reference
from torch import Tensor, nn

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.data.corpus import LengthBuckets, TokenCorpus, collate
from imadarem.evaluation.molecules import evaluate_molecules
from imadarem.tokenizers import load_tokenizer
from imadarem.training.objective import Objective
from imadarem.training.optim import build_optimizer, parameter_groups

WIDTH, LONGEST = 128, 64
RATE, WARM_UP, DECAY = 2e-3, 50, 0.2
AVERAGE = 0.998


class Recurrent(nn.Module):
    """A GRU over the tokens so far; id ``eos`` begins and ends a row."""

    def __init__(self, vocab: int, size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, WIDTH)
        self.recurrence = nn.GRU(WIDTH, size, batch_first=True)
        self.to_logits = nn.Linear(size, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        return self.to_logits(self.recurrence(self.tokens(ids))[0])

    @torch.no_grad()
    def sample(self, count: int, eos: int, generator: torch.Generator) -> list[list[int]]:
        token, hidden = torch.full((count, 1), eos), None
        rows: list[list[int]] = [[] for _ in range(count)]
        going = torch.ones(count, dtype=torch.bool)
        for _ in range(LONGEST):
            output, hidden = self.recurrence(self.tokens(token), hidden)
            probs = self.to_logits(output[:, 0]).softmax(dim=-1)
            token = torch.multinomial(probs, 1, generator=generator)
            going &= token[:, 0] != eos
            for row, kept, new in zip(rows, going.tolist(), token[:, 0].tolist(), strict=True):
                if kept:
                    row.append(new)
        return rows


def gpt2(vocab: int, eos: int) -> nn.Module:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=vocab,
        n_positions=LONGEST + 2,
        n_embd=WIDTH,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=eos,
        eos_token_id=eos,
    )
    return transformers.GPT2LMHeadModel(config)


def refiner(tokenizer: Any, corpus: TokenCorpus, joint_size: int) -> ImplicitRefinementModel:
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_layers=3 if joint_size else 4,
        max_seq_len=LONGEST,
        joint_size=joint_size,
        conv_kernel_size=5,
        dropout=0.0,
        self_conditioning=False,
        length_mode="drawn",
        length_counts=corpus.length_counts(),
        sampling_temperature=1.0,
    )
    return ImplicitRefinementModel(config, tokenizer=tokenizer)


def next_token_loss(logits: Callable[[Tensor], Tensor], ids: Tensor, inside: Tensor, eos: int):
    """Mean cross-entropy of each token and of the end, given those before it."""
    rows = F.pad(ids.masked_fill(~inside.bool(), eos), (1, 1), value=eos)
    counted = F.pad(inside.bool(), (1, 0), value=True)
    found = F.cross_entropy(logits(rows[:, :-1]).transpose(1, 2), rows[:, 1:], reduction="none")
    return found[counted].mean()


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    """As the refiner's own: inner matrices with weight decay and Muon, the rest without."""
    if isinstance(model, ImplicitRefinementModel):
        return parameter_groups(model, RATE, 0.01, 1.0)
    inner = [
        p
        for name, p in model.named_parameters()
        if p.ndim == 2 and (".h." in name or name.startswith("recurrence."))
    ]
    others = [p for p in model.parameters() if all(p is not q for q in inner)]
    return [
        {"params": inner, "role": "matrix", "lr": RATE, "weight_decay": 0.01},
        {"params": others, "role": "other", "lr": RATE, "weight_decay": 0.0},
    ]


def batches(corpus: TokenCorpus, size: int, pad: int) -> Iterator[tuple[Tensor, Tensor]]:
    buckets, step = LengthBuckets(corpus.lengths, size, 0), 0
    while True:
        yield collate([corpus[int(i)] for i in buckets.batch(step)], pad)
        step += 1


def train(
    model: nn.Module, loss: Callable[[Tensor, Tensor, int], Tensor], data: Any, seconds: float
) -> tuple[nn.Module, int]:
    """Train for ``seconds`` of this process's CPU time; the averaged model and the steps."""
    optimizer = build_optimizer("muon", groups_of(model), steps=1)
    peaks = [group["lr"] for group in optimizer.param_groups]
    averaged, began, step = copy.deepcopy(model), time.process_time(), 0
    while (used := time.process_time() - began) < seconds:
        left = (seconds - used) / (DECAY * seconds)
        factor = min(1.0, (step + 1) / WARM_UP, max(left, 0.02))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        ids, inside = next(data)
        optimizer.zero_grad()
        loss(ids, inside, step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        weight = 1.0 - min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            for ours, theirs in zip(averaged.parameters(), model.parameters(), strict=True):
                ours.lerp_(theirs, weight)
    return averaged.eval(), step


def build(
    name: str, tokenizer: Any, corpus: TokenCorpus, seed: int, blank_share: float, joint_size: int
) -> tuple[nn.Module, Any]:
    """The model and its loss ``(ids, inside, step) -> scalar``."""
    torch.manual_seed(seed)
    if name in ("joint", "independent"):
        model = refiner(tokenizer, corpus, joint_size if name == "joint" else 0)
        joint = {"blank_share": blank_share, "suffix_share": 0.5} if name == "joint" else {}
        objective = Objective(
            config=model.config, special=model.special, on_policy_share=0.0, **joint
        )
        return (
            model,
            lambda ids, inside, step: (
                objective(model, ids, inside, torch.Generator().manual_seed(step)).total
            ),
        )
    eos = tokenizer.eos_token_id
    other = gpt2(len(tokenizer), eos) if name == "gpt2" else Recurrent(len(tokenizer), 320)
    logits = (lambda ids: other(ids).logits) if name == "gpt2" else other
    return other, lambda ids, inside, step: next_token_loss(logits, ids, inside, eos)


def write(
    name: str, model: Any, tokenizer: Any, count: int, passes: int, seed: int
) -> tuple[list[str], float]:
    """``count`` molecules and the CPU seconds they took."""
    began, eos = time.process_time(), tokenizer.eos_token_id
    if name in ("joint", "independent"):
        policy = "left-to-right" if name == "joint" else "confidence"
        texts = model.sample(count, steps=passes, policy=policy, seed=seed).texts
        return texts, time.process_time() - began
    if name == "charrnn":
        rows = model.sample(count, eos, torch.Generator().manual_seed(seed))
    else:
        torch.manual_seed(seed)
        found = [
            model.generate(
                torch.full((min(256, count - start), 1), eos),
                do_sample=True,
                top_k=0,
                max_new_tokens=LONGEST,
                pad_token_id=tokenizer.pad_token_id,
            )[:, 1:]
            for start in range(0, count, 256)
        ]
        never = {eos, tokenizer.pad_token_id}
        rows = [[t for t in row if t not in never] for part in found for row in part.tolist()]
    return [tokenizer.decode(row) for row in rows], time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", type=Path, required=True, help="prepared tokens")
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU seconds of training")
    parser.add_argument("--only", nargs="+", default=["joint", "independent", "gpt2", "charrnn"])
    parser.add_argument("--passes", nargs="+", type=int, default=[1, 2, 4, 6, 12, 24])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--blank-share", type=float, default=0.75)
    parser.add_argument("--joint-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also append the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(options.corpus / "tokenizer")
    corpus, target = TokenCorpus.load(options.corpus / "train"), reference()
    print(
        f"{'model':<12}{'parameters':>11}{'steps':>7}{'passes':>7}{'FCD':>7}{'filters':>9}"
        f"{'unique':>8}{'valid':>7}{'CPU s':>7}"
    )
    for name in options.only:
        shape = options.blank_share, options.joint_size
        model, loss = build(name, tokenizer, corpus, options.seed, *shape)
        data = batches(corpus, options.batch_size, tokenizer.pad_token_id)
        model, steps = train(model, loss, data, options.seconds)
        size = sum(p.numel() for p in model.parameters())
        for passes in options.passes if name in ("joint", "independent") else [LONGEST]:
            texts, seconds = write(name, model, tokenizer, options.n, passes, options.seed)
            report = evaluate_molecules(texts, reference=target, fcd=True, processes=1)
            shown = str(passes) if name in ("joint", "independent") else "token"
            print(
                f"{name:<12}{size:>11,}{steps:>7,}{shown:>7}{report.fcd:>7.2f}"
                f"{report.filters:>9.3f}{report.unique:>8.3f}{report.valid:>7.3f}{seconds:>7.1f}",
                flush=True,
            )
            if options.json is not None:
                row = {"model": name, "parameters": size, "steps": steps, "passes": shown}
                row |= {"seconds": options.seconds, "n": options.n, **report.to_dict()}
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
