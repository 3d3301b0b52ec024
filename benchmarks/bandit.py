"""Does the bandit find the best edit, and does it notice when another becomes the best?

    python benchmarks/bandit.py

Three synthetic tasks, each with another best arm; a reward is the arm's mean plus Gaussian
noise, clipped to [-1, 1] like a gain in token accuracy. The tasks take turns in one bandit.

- found: share of the best arm in pulls 501 to 1000 of a task (wanted: 0.90 or more).
- recovered: after pull 1000 the best and the worst arm change places; pulls until the new
  best one makes up 90 of the last 100 (wanted: 300 or fewer; never counts as infinity).

Each figure is of one task under one seed: the median, the worst, and the share of them
that miss what is wanted. ``--quick`` measures the default settings alone; ``--delay 9``
tells rewards nine at a time, as the unroll does for the steps of its last bucket.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import asdict, dataclass
from statistics import median

from imadarem.orchestrator.bandit import DiscountedBandit

ARMS = ("replace", "patch", "append")
BEST = {"puzzles": "patch", "text": "append", "molecules": "replace"}
SETTLE, WINDOW, SWAP, LIMIT = 500, 100, 1000, 300
AFTER = 600
HEAD = """\
| exploration | discount | found | worst | missed | recovered | worst | missed |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Outcome:
    """One task under one seed: share of the best arm, and pulls until recovery."""

    task: str
    seed: int
    found: float
    recovered: float


@dataclass(frozen=True)
class Summary:
    """All tasks and seeds of one setting."""

    exploration: float
    discount: float
    gaps: tuple[float, ...]
    noise: float
    delay: int
    found: float
    found_worst: float
    found_missed: float
    recovered: float
    recovered_worst: float
    recovered_missed: float


def means(task: str, gap: float, swapped: bool) -> dict[str, float]:
    """Mean rewards: ``gap`` between best and second, half of it between second and third."""
    best = ARMS.index(BEST[task])
    order = [ARMS[(best + turn) % len(ARMS)] for turn in range(len(ARMS))]
    if swapped:
        order[0], order[-1] = order[-1], order[0]
    return dict(zip(order, (0.05 + gap, 0.05, 0.05 - gap / 2), strict=True))


def play(
    bandit: DiscountedBandit, gaps: dict[str, float], noise: float, delay: int
) -> list[Outcome]:
    """Pull the arms of all tasks in turn, ``delay`` pulls before their rewards are told."""
    luck = random.Random(bandit.seed)
    hits: dict[str, list[bool]] = {task: [] for task in gaps}
    for start in range(0, SWAP + AFTER, delay):
        for task, gap in gaps.items():
            earned = []
            for pull in range(start, start + delay):
                rewards = means(task, gap, swapped=pull >= SWAP)
                arm = bandit.select(task, 1)
                earned.append((arm, luck.gauss(rewards[arm], noise)))
                hits[task].append(arm == max(rewards, key=rewards.__getitem__))
            for arm, reward in earned:
                bandit.update(task, 1, arm, min(1.0, max(-1.0, reward)))
    return [
        Outcome(task, bandit.seed, share(hit[SETTLE:SWAP]), recovery(hit[SWAP:]))
        for task, hit in hits.items()
    ]


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def recovery(hits: list[bool]) -> float:
    """Pulls until 90 % of the last hundred hit; infinite where they never do."""
    for pulls in range(WINDOW, len(hits) + 1):
        if share(hits[pulls - WINDOW : pulls]) >= 0.9:
            return pulls
    return math.inf


def measure(
    exploration: float,
    discount: float,
    gaps: tuple[float, ...],
    noise: float,
    delay: int,
    seeds: range,
) -> Summary:
    outcomes: list[Outcome] = []
    for seed in seeds:
        bandit = DiscountedBandit(ARMS, discount=discount, exploration=exploration, seed=seed)
        outcomes += play(bandit, dict(zip(BEST, gaps, strict=True)), noise, delay)
    found = [outcome.found for outcome in outcomes]
    recovered = [outcome.recovered for outcome in outcomes]
    return Summary(
        exploration, discount, gaps, noise, delay,
        median(found), min(found), share([value < 0.9 for value in found]),
        median(recovered), max(recovered), share([value > LIMIT for value in recovered]),
    )  # fmt: skip


def line(row: Summary) -> str:
    return (
        f"| {row.exploration:g} | {row.discount:g} | {row.found:.3f} "
        f"| {row.found_worst:.3f} | {row.found_missed:.0%} | {row.recovered:.0f} "
        f"| {row.recovered_worst:.0f} | {row.recovered_missed:.0%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--gaps", type=float, nargs=3, default=[0.1, 0.08, 0.08])
    parser.add_argument("--hard-gap", type=float, default=0.05, help="of the second table")
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation of a reward")
    parser.add_argument("--delay", type=int, default=1, help="pulls before rewards are told")
    parser.add_argument("--explorations", nargs="+", type=float, default=[0.3, 0.4, 0.5, 1.0])
    parser.add_argument(
        "--discounts", nargs="+", type=float, default=[0.98, 0.985, 0.99, 0.995, 1.0]
    )
    parser.add_argument("--quick", action="store_true", help="the default settings alone")
    parser.add_argument("--json", help="also write the rows to this file, one a line")
    options = parser.parse_args()
    settings = [
        (exploration, discount)
        for exploration in options.explorations
        for discount in options.discounts
    ]
    if options.quick:
        default = DiscountedBandit(ARMS)
        settings = [(default.exploration, default.discount)]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    kept: list[Summary] = []
    for gaps in (tuple(options.gaps), (options.hard_gap,) * 3):
        gaps_in_words = ", ".join(f"{gap:g}" for gap in gaps)
        print(f"\nGaps {gaps_in_words}; noise {options.noise:g}; delay {options.delay}; ", end="")
        print(f"{len(seeds)} seeds\n\n{HEAD}")
        for setting in settings:
            kept.append(measure(*setting, gaps, options.noise, options.delay, seeds))
            print(line(kept[-1]), flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in kept)


if __name__ == "__main__":
    main()
