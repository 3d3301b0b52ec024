"""The sudoku part of ``pareto.py``: puzzles solved at equal passes, whatever the policy.

The likeliest digit is taken everywhere (temperature 0, no Gumbel noise), so the policies differ
in their order alone. ``replace`` and ``patch`` are the orchestrator's edits, in which the
network is shown the question in every pass and what it wrote as beliefs, as in its training;
``+ question`` is another policy run that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from imadarem import ImplicitRefinementModel
from imadarem.data.sudoku import sudoku_episodes
from imadarem.data.tasks import Episodes
from imadarem.orchestrator.batch import canvas_of
from imadarem.orchestrator.edits import EDITS
from imadarem.orchestrator.inference import padded
from imadarem.sampling.batching import refine_all
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import (
    POLICIES,
    AdaptiveGate,
    Confidence,
    EntropyBound,
    Gate,
    Policy,
)
from imadarem.sampling.settings import SamplingSettings


@dataclass(frozen=True)
class Contender:
    """A policy, and whether the network is shown the question in every pass."""

    policy: Policy
    reinject: bool = False


CONTENDERS: dict[str, Contender] = {
    **{name: Contender(kind()) for name, kind in POLICIES.items()},
    "gate": Contender(Gate(gumbel=0.0)),
    "gate-adaptive": Contender(AdaptiveGate(gumbel=0.0)),
    "confidence": Contender(Confidence(gumbel=0.0)),
    "entropy-bound, 0.1 nats": Contender(EntropyBound(gamma=0.1)),
    "confidence + question": Contender(Confidence(gumbel=0.0), reinject=True),
    "gate-adaptive + question": Contender(AdaptiveGate(gumbel=0.0), reinject=True),
    "replace": Contender(EDITS["replace"], reinject=True),
    "patch": Contender(EDITS["patch"], reinject=True),
}


@dataclass(frozen=True)
class Solved:
    """How many puzzles a policy solved.

    Attributes:
        puzzles: Name of the set.
        policy: Name of the contender.
        passes: The cap on passes.
        mean_passes: Passes that a row took.
        solved: Puzzles that are right in every cell.
        count: Of how many.
    """

    puzzles: str
    policy: str
    passes: int
    mean_passes: float
    solved: int
    count: int

    @property
    def share(self) -> float:
        return self.solved / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        low, high = binomtest(self.solved, self.count).proportion_ci(method="wilson")
        return low, high


def puzzles(sizes: Sequence[int], count: int, seed: int) -> dict[str, Episodes]:
    """Held-out puzzles that no task trains on, by the name of their kind."""
    kinds = {4: "4x4 minimal", 6: "6x6 minimal", 9: "9x9, 32 givens"}
    return {kinds[size]: sudoku_episodes(size, count, seed=seed) for size in sizes}


def solve_all(
    model: ImplicitRefinementModel,
    sets: dict[str, Episodes],
    names: Iterable[str],
    passes: Sequence[int],
) -> Iterator[Solved]:
    """Every contender on every set at every cap; a policy with a teacher gets half the steps."""
    for kind, episodes in sets.items():
        for name in names:
            for cap in passes:
                yield _solve(model, kind, episodes, name, cap)


def drops(found: Iterable[Solved]) -> list[tuple[Solved, Solved]]:
    """For each policy and set the largest loss from fewer passes to more, where there is one."""
    groups: dict[tuple[str, str], list[Solved]] = {}
    for one in found:
        groups.setdefault((one.puzzles, one.policy), []).append(one)
    worst = []
    for group in groups.values():
        pairs = [(a, b) for a in group for b in group if a.passes < b.passes and a.share > b.share]
        if pairs:
            worst.append(max(pairs, key=lambda pair: pair[0].share - pair[1].share))
    return worst


def _solve(
    model: ImplicitRefinementModel, kind: str, episodes: Episodes, name: str, cap: int
) -> Solved:
    contender = CONTENDERS[name]
    judged = contender.policy.uses_teacher and model.teacher is not None
    settings = SamplingSettings(
        policy=contender.policy,
        steps=max(1, cap // 2) if judged else cap,
        temperature=0.0,
        stop_threshold=0.0,
        may_end=False,
        reinject=contender.reinject,
    )
    inputs = episodes.inputs
    rows = refine_all(
        model,
        canvas_of(inputs, model.special),
        row_seeds(len(inputs), 0),
        settings,
        teacher=model.teacher,
    )
    right = (padded(inputs, rows, model.special.pad) == episodes.labels).all(dim=1)
    mean = sum(row.forward_passes for row in rows) / len(rows)
    return Solved(kind, name, cap, mean, int(right.sum()), len(inputs))
