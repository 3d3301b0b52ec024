"""A task that needs an earlier episode, with the memory bank and without.

    python benchmarks/memory_recall.py            three seeds, two to three minutes on one core
    python benchmarks/memory_recall.py --quick    one seed

Worlds with 16 keys and 8 values, drawn anew in each (``recall_worlds.py``). In training a
world is visited twice: the first visit can only be guessed, and what it taught is offered to
the bank with the surprise of that pass; the second visit is answered by looking it up. Judged
on the second visits to 100 held-out worlds, whose first visits go through the same bank by the
same rule, with the weights as they are: beside the same model with an empty bank. Chance is
1 / 8; the score threshold is 0.02, since the rows of a world are much alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from recall_worlds import RecallWorlds
from torch import Tensor

from imadarem import ImplicitRefinementConfig
from imadarem.data.tasks import Episodes
from imadarem.nn import RefinementTransformer
from imadarem.orchestrator.memory import MemoryBank

TRAINED, HELD_OUT = range(900), range(900, 1000)
WORLDS_A_STEP = 4


@dataclass(frozen=True)
class Reading:
    """Where one training run stands.

    Attributes:
        seed: Of the run.
        step: Optimiser steps so far.
        cpu_seconds: Training so far, judging left out.
        with_bank: Accuracy on held-out second visits, 0 to 1.
        empty_bank: The same, of the same weights, with nothing in the bank.
        kept: Share of the first visits' episodes that the bank kept.
        gate: tanh of the gate's parameter.
    """

    seed: int
    step: int
    cpu_seconds: float
    with_bank: float
    empty_bank: float
    kept: float
    gate: float


class Learner:
    """A network, its optimiser and its bank."""

    def __init__(self, worlds: RecallWorlds, threshold: float) -> None:
        tokenizer = worlds.tokenizer
        config = ImplicitRefinementConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            max_seq_len=5,
            dropout=0.0,
            memory=True,
        )
        assert tokenizer.mask_token_id is not None
        self.worlds = worlds
        self.network = RefinementTransformer(config, tokenizer.mask_token_id)
        assert self.network.memory is not None
        self.gate = self.network.memory.gate
        others = [p for p in self.network.parameters() if p is not self.gate]
        # The gate starts at 0 and holds the rest of the memory back: it goes ten times as fast.
        groups = [{"params": [self.gate], "lr": 3e-2}, {"params": others, "lr": 3e-3}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self.bank = MemoryBank(1024, vocab_size=len(tokenizer), threshold=threshold)

    def visit(self, worlds: Sequence[int], number: int) -> Episodes:
        return Episodes.join([self.worlds.episodes(world, number) for world in worlds], pad=0)

    def answer(self, episodes: Episodes) -> Tensor:
        """``(B, V)`` logits of the blank; no episode is answered by itself."""
        known = episodes.inputs == episodes.labels
        recall = self.bank.read(episodes.inputs, known, exclude_task_ids=episodes.task_ids)
        return self.network(episodes.inputs, memory=recall).logits[:, -1]

    def surprise(self, episodes: Episodes) -> Tensor:
        """``(B,)`` nats; the one blank of an episode is its last token."""
        return F.cross_entropy(self.answer(episodes), episodes.labels[:, -1], reduction="none")

    def keep(self, episodes: Episodes, surprise: Tensor) -> int:
        known = episodes.inputs == episodes.labels
        written = self.bank.write(episodes.labels, known, surprise, episodes.task_ids)
        return int(written.sum())

    def train_step(self, worlds: Sequence[int]) -> None:
        met = self.visit(worlds, 0)
        guess = self.surprise(met)
        self.keep(met, guess.detach())
        loss = guess.mean() + self.surprise(self.visit(worlds, 1)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def judge(self) -> tuple[float, float, float]:
        """Accuracy with the bank and with an empty one, and the share kept; the bank as before."""
        before = self.bank.state_dict()
        self.bank.clear()
        empty = self.right(HELD_OUT)
        right = kept = 0.0
        for first in range(0, len(HELD_OUT), WORLDS_A_STEP):
            worlds = HELD_OUT[first : first + WORLDS_A_STEP]
            met = self.visit(worlds, 0)
            kept += self.keep(met, self.surprise(met))
            right += self.right(worlds)
        self.bank.load_state_dict(before)
        count = len(HELD_OUT) * self.worlds.n_keys
        return right / count, empty / count, kept / count

    def right(self, worlds: Sequence[int]) -> int:
        asked = self.visit(worlds, 1)
        return int((self.answer(asked).argmax(-1) == asked.labels[:, -1]).sum())


def run(seed: int, steps: int, every: int, threshold: float) -> list[Reading]:
    torch.manual_seed(seed)
    learner = Learner(RecallWorlds(seed=seed), threshold)
    readings, spent = [], 0.0
    for step in range(steps + 1):
        if step % every == 0:
            with_bank, empty, kept = learner.judge()
            gate = float(learner.gate.detach().tanh())
            readings.append(Reading(seed, step, spent, with_bank, empty, kept, gate))
        start = time.process_time()
        learner.train_step(torch.randperm(len(TRAINED))[:WORLDS_A_STEP].tolist())
        spent += time.process_time() - start
    return readings


def to_markdown(runs: list[list[Reading]]) -> str:
    lines = [
        "| steps | CPU s | with the bank | empty bank | kept | gate |",
        "|---|---|---|---|---|---|",
    ]
    for readings in zip(*runs, strict=True):
        cpu = statistics.median(r.cpu_seconds for r in readings)
        columns = [
            f"{100 * statistics.median(values):.1f} % ({100 * min(values):.1f})"
            for values in (
                [r.with_bank for r in readings],
                [r.empty_bank for r in readings],
                [r.kept for r in readings],
            )
        ]
        gate = statistics.median(abs(r.gate) for r in readings)
        lines.append(f"| {readings[0].step} | {cpu:.0f} | {' | '.join(columns)} | {gate:.2f} |")
    return "\n".join([*lines, "", f"Median (least) of {len(runs)} seeds. Chance: 12.5 %."])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=50, help="steps between two readings")
    parser.add_argument("--threshold", type=float, default=0.02, help="least score to be kept")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", type=Path, help="write every reading here")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    seeds = range(1 if args.quick else args.seeds)
    runs = [run(seed, args.steps, args.every, args.threshold) for seed in seeds]
    print(to_markdown(runs))
    if args.json is not None:
        readings = [asdict(reading) for readings in runs for reading in readings]
        args.json.write_text(json.dumps(readings, indent=2) + "\n")


if __name__ == "__main__":
    main()
