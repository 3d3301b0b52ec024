"""Does GrokFast beat a tuned AdamW? Modular addition, steps until it generalises.

    OMP_NUM_THREADS=1 python benchmarks/grokfast.py            20 CPU minutes
    OMP_NUM_THREADS=1 python benchmarks/grokfast.py --quick    minutes: a corner of the grid
    python benchmarks/grokfast.py --json runs.jsonl            each run is a line of the file

The task is the usual one of grokking (arXiv:2201.02177): all pairs a + b mod p, half of them
for training. Here the answer is a blank that the project's transformer fills: ``a b [MASK]``.
The constant signs between the numbers are left out: they say nothing and cost two fifths of
the time. Everything but the filter is shared: AdamW with weight decay on all parameters;
betas .9 and .98, ten steps of warm-up and no clipping as in the authors' code of GrokFast.

First every cell of the grid runs once, on seed 0, until 95 % of the held-out pairs are right
or the steps are spent. Then the best cell of each contender runs on three fresh seeds, which
had no say in the choice. Plain AdamW gets 12 cells; GrokFast gets 12 for each (alpha, lamb).
Last come the settings of GrokFast's published run, with the filter and without: Adam at 1e-3
with a decay of 0.005 that is added to the gradient. (The published baseline had no decay.)

Runs found in the file of ``--json`` are not repeated, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from imadarem import ImplicitRefinementConfig
from imadarem.nn import RefinementTransformer
from imadarem.training.grokfast import GrokFastEma

RATES = (1e-3, 3e-3, 1e-2)
DECAYS = (0.0, 0.1, 1.0, 3.0)
#: (alpha, lamb): none, and the authors' for algorithmic data and for QM9.
FILTERS = (None, (0.98, 2.0), (0.9, 1.0))
PAPER = FILTERS[1]
GOAL = 0.95
WARMUP = 10
FINAL_SEEDS = (1, 2, 3)
PUBLISHED_RATE, PUBLISHED_DECAY = 1e-3, 0.005


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all runs of a benchmark share.

    Attributes:
        modulus: p; there are p² pairs.
        train_share: Share of the pairs that is trained on.
        batch: Pairs per step, each epoch in a fresh order.
        width: Of the transformer.
        layers: Of the transformer.
        steps: Steps after which a run gives up.
        every: Steps between two looks at the held-out pairs.
    """

    modulus: int = 67
    train_share: float = 0.5
    batch: int = 256
    width: int = 64
    layers: int = 1
    steps: int = 1500
    every: int = 25


@dataclass(frozen=True)
class Cell:
    """One choice of settings.

    Attributes:
        filter: (alpha, lamb) of GrokFast, or None.
        rate: Learning rate.
        decay: Weight decay.
        coupled: The decay is added to the gradient (Adam), not taken off the weights (AdamW).
    """

    filter: tuple[float, float] | None
    rate: float
    decay: float
    coupled: bool = False


@dataclass(frozen=True)
class Outcome:
    """How one run went.

    Attributes:
        steps: Steps until the goal was seen, or None.
        seconds: CPU seconds of training until the goal or the end, without the looks.
        accuracy: Held-out accuracy at the last look.
        train_accuracy: Accuracy on the training pairs at the end.
    """

    steps: int | None
    seconds: float
    accuracy: float
    train_accuracy: float


# ---------------------------------------------------------------- one run


def make_pairs(setting: Setting, seed: int) -> tuple[Tensor, Tensor]:
    """Canvases ``(p², 3)`` with the blank last, answers ``(p²,)``; in an order of the seed."""
    p = setting.modulus
    numbers = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(seed))
    numbers = numbers[order]
    blank = torch.full((p * p, 1), p)
    return torch.cat([numbers, blank], dim=1), numbers.sum(dim=1) % p


def make_model(setting: Setting) -> RefinementTransformer:
    p = setting.modulus
    config = ImplicitRefinementConfig(
        vocab_size=p + 1,
        hidden_size=setting.width,
        num_layers=setting.layers,
        num_heads=4,
        max_seq_len=3,
        dropout=0.0,
        self_conditioning=False,
    )
    return RefinementTransformer(config, mask_token_id=p)


def batches(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Rows of one batch after another, for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(size)


@torch.no_grad()
def accuracy(model: RefinementTransformer, canvases: Tensor, answers: Tensor) -> float:
    right = [
        (model(rows).logits[:, -1].argmax(-1) == truth).sum()
        for rows, truth in zip(canvases.split(1024), answers.split(1024), strict=True)
    ]
    return int(torch.stack(right).sum()) / len(answers)


def run(setting: Setting, cell: Cell, seed: int) -> Outcome:
    """Train until the goal or the end of the steps."""
    torch.manual_seed(seed)
    model = make_model(setting)
    canvases, answers = make_pairs(setting, seed)
    split = int(setting.train_share * len(answers))
    family = torch.optim.Adam if cell.coupled else torch.optim.AdamW
    optimizer = family(model.parameters(), lr=cell.rate, betas=(0.9, 0.98), weight_decay=cell.decay)
    grokfast = None if cell.filter is None else GrokFastEma(*cell.filter)
    seconds, right, reached = 0.0, 0.0, None
    started = time.process_time()
    for step, rows in enumerate(batches(split, setting.batch, seed), start=1):
        for group in optimizer.param_groups:
            group["lr"] = cell.rate * min(step / WARMUP, 1.0)
        loss = cross_entropy(model(canvases[rows]).logits[:, -1], answers[rows])
        if not torch.isfinite(loss):
            break
        optimizer.zero_grad()
        loss.backward()
        if grokfast is not None:
            grokfast.filter_(model.named_parameters())
        optimizer.step()
        if step % setting.every == 0 or step == setting.steps:
            seconds += time.process_time() - started
            right = accuracy(model, canvases[split:], answers[split:])
            started = time.process_time()
            if right >= GOAL:
                reached = step
            if reached or step >= setting.steps:
                break
    learned = accuracy(model, canvases[:split], answers[:split])
    return Outcome(reached, round(seconds, 2), right, learned)


# ---------------------------------------------------------------- the sweep


class Record:
    """Outcomes by what was run, kept as lines of a file where there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, Outcome] = {}
        if path is not None and path.exists():
            for line in path.read_text("utf-8").splitlines():
                entry = json.loads(line)
                self._known[json.dumps(entry["run"])] = Outcome(**entry["outcome"])

    def outcome(self, setting: Setting, cell: Cell, seed: int) -> Outcome:
        """What is on record, or else what a run says."""
        about: dict[str, Any] = {**asdict(setting), **asdict(cell), "seed": seed}
        key = json.dumps(about)
        if key not in self._known:
            self._known[key] = run(setting, cell, seed)
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    entry = {"run": about, "outcome": asdict(self._known[key])}
                    file.write(json.dumps(entry) + "\n")
        return self._known[key]


def rank(outcome: Outcome, setting: Setting) -> tuple[float, float]:
    """Fewest steps first; of those that never arrive, the most accurate."""
    return (outcome.steps or setting.steps + 1, -outcome.accuracy)


def best(found: dict[Cell, Outcome], setting: Setting) -> Cell:
    return min(found, key=lambda cell: rank(found[cell], setting))


def contenders(found: dict[Cell, Outcome]) -> dict[str, dict[Cell, Outcome]]:
    """The parts of the grid from which one cell each goes on."""
    filters = {cell.filter for cell in found}
    parts = {
        "AdamW": [c for c in found if c.filter is None],
        "GrokFast (0.98, 2)": [c for c in found if c.filter == PAPER],
        "AdamW, weight decay 0": [c for c in found if c.filter is None and not c.decay],
        "GrokFast (0.98, 2), weight decay 0": [
            c for c in found if c.filter == PAPER and not c.decay
        ],
    }
    if len(filters) > 2:
        parts["GrokFast, any filter"] = [c for c in found if c.filter is not None]
    return {name: {c: found[c] for c in cells} for name, cells in parts.items() if cells}


# ---------------------------------------------------------------- reporting


def shown(outcome: Outcome, setting: Setting) -> str:
    if outcome.steps is not None:
        return f"{outcome.steps:,}"
    return f"– ({outcome.accuracy:.0%})"


def grid_table(found: dict[Cell, Outcome], setting: Setting) -> list[str]:
    decays = sorted({cell.decay for cell in found})
    lines = [
        "| filter (α, λ) | learning rate | " + " | ".join(f"decay {d:g}" for d in decays) + " |",
        "|---" * (2 + len(decays)) + "|",
    ]
    rows = dict.fromkeys((cell.filter, cell.rate) for cell in found)
    for chosen, rate in rows:
        name = "none" if chosen is None else f"({chosen[0]:g}, {chosen[1]:g})"
        cells = [shown(found[Cell(chosen, rate, d)], setting) for d in decays]
        lines.append(f"| {name} | {rate:g} | " + " | ".join(cells) + " |")
    return lines


def median_steps(outcomes: Sequence[Outcome], setting: Setting) -> str:
    middle = statistics.median_low([o.steps or setting.steps + 1 for o in outcomes])
    return f"{middle:,}" if middle <= setting.steps else f"> {setting.steps:,}"


def final_row(name: str, cell: Cell, outcomes: Sequence[Outcome], setting: Setting) -> str:
    chosen = "" if cell.filter is None else f", α {cell.filter[0]:g}, λ {cell.filter[1]:g}"
    each = ", ".join(shown(o, setting) for o in outcomes)
    seconds = statistics.median(o.seconds for o in outcomes)
    return (
        f"| {name} | rate {cell.rate:g}, decay {cell.decay:g}{chosen} "
        f"| **{median_steps(outcomes, setting)}** | {each} | {seconds:.1f} |"
    )


def benchmark(
    setting: Setting, grid: Sequence[Cell], seeds: Sequence[int], record: Record
) -> list[str]:
    found = {cell: record.outcome(setting, cell, 0) for cell in grid}
    chosen = {name: best(part, setting) for name, part in contenders(found).items()}
    chosen["Adam, decay in the gradient"] = Cell(None, PUBLISHED_RATE, PUBLISHED_DECAY, True)
    chosen["GrokFast as published"] = Cell(PAPER, PUBLISHED_RATE, PUBLISHED_DECAY, True)
    lines = [
        f"a + b mod {setting.modulus}, {setting.train_share:.0%} of the pairs for training, "
        f"{setting.layers} block of width {setting.width}, batches of {setting.batch}, "
        f"at most {setting.steps:,} steps, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread.",
        "",
        f"Steps to {GOAL:.0%} of the held-out pairs, seed 0; – (accuracy at the end) if never:",
        "",
        *grid_table(found, setting),
        "",
        f"The best cell of each contender, on the fresh seeds {', '.join(map(str, seeds))}:",
        "",
        "| contender | setting | median steps | each seed | CPU s of training |",
        "|---|---|---|---|---|",
    ]
    for name, cell in chosen.items():
        outcomes = [record.outcome(setting, cell, seed) for seed in seeds]
        lines.append(final_row(name, cell, outcomes, setting))
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modulus", type=int, default=Setting.modulus)
    parser.add_argument("--steps", type=int, default=Setting.steps, help="after which to give up")
    parser.add_argument("--quick", action="store_true", help="mod 31, one filter, 6 cells each")
    parser.add_argument(
        "--json", type=Path, help="keep every run as a line here, and go on from it"
    )
    args = parser.parse_args(arguments)
    rates, decays, filters = RATES, DECAYS, FILTERS
    setting = Setting(modulus=args.modulus, steps=args.steps)
    if args.quick:
        rates, decays, filters = RATES[1:], (0.0, 1.0, 3.0), FILTERS[:2]
        setting = Setting(modulus=31, batch=128, steps=600)
    torch.set_num_threads(1)
    grid = [Cell(f, r, d) for f, r, d in itertools.product(filters, rates, decays)]
    print("\n".join(benchmark(setting, grid, FINAL_SEEDS, Record(args.json))))


if __name__ == "__main__":
    main()
