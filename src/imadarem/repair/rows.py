"""Repairing rows: judge, blank what is flagged, fill, judge again; then ask a checker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from torch import Tensor

from imadarem import checks
from imadarem.errors import ConfigError
from imadarem.evaluation.judgement import Judgement, encoded_rows, judge_rows
from imadarem.repair.filling import fill, single_edits
from imadarem.repair.records import (
    CHECKED,
    CLEAN,
    GAVE_UP,
    REPAIRED,
    Repair,
    edits_between,
)
from imadarem.repair.sites import Row, Site, flagged_sites, likely_sites, protection_flags
from imadarem.sampling.noise import row_seeds

__all__ = ["Checker", "RepairOptions", "RepairSettings", "repair_rows"]

#: Says of a text whether it is right.
Checker = Callable[[str], bool]
#: Forward passes of a judgement.
JUDGE_PASSES = 1
#: Places whose single edits are tried, and what they are flagged by while the budget lasts.
PLACES = 16
LOWER_THRESHOLDS = (0.3, 0.15, 0.07)


class RepairOptions(TypedDict, total=False):
    """The settings of :class:`RepairSettings` that a caller gives."""

    rounds: int
    threshold: float
    checker: Checker | None
    budget: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How to repair.

    Attributes:
        rounds: Times that a row is filled and judged again, at most.
        threshold: Probability above which a place is repaired.
        checker: Says of a text whether it is right; None leaves it to the judge.
        budget: Calls of the checker for each row, at most.
        batch_size: Rows in one pass; no row's result depends on it.

    Raises:
        ConfigError: A setting is out of range.
    """

    rounds: int = 2
    threshold: float = 0.5
    checker: Checker | None = None
    budget: int = 60
    batch_size: int = 256

    def __post_init__(self) -> None:
        checks.whole("rounds", self.rounds, 1)
        checks.whole("budget", self.budget, 1)
        checks.whole("batch_size", self.batch_size, 1)
        checks.share(threshold=self.threshold)


@dataclass
class _Progress:
    """How far a row has come.

    Attributes:
        given: As it was given.
        row: As it is now.
        text: As it was given; None where token ids were.
        first: Judgement of the row as it was given.
        now: Judgement of the row as it is now.
        reason: Why it stopped; None while it goes on.
        rounds: Times that its blanks were filled.
        row_passes: Forward passes so far.
        tried: Token ids that the checker has refused or taken.
    """

    given: Row
    row: Row
    text: str | None
    first: Judgement
    now: Judgement
    reason: str | None = None
    rounds: int = 0
    row_passes: int = JUDGE_PASSES
    tried: set[tuple[int, ...]] = field(default_factory=set)


def check_judge(model: Any, settings: RepairSettings) -> None:
    """Check that something says which rows are right.

    Raises:
        ConfigError: There is neither a judge nor a checker.
    """
    if settings.checker is None and not model.config.judge:
        raise ConfigError(
            "this model has no trained judge, so nothing says which tokens are wrong. Give a "
            "checker, or take a model that has a judge."
        )


def most_passes(settings: RepairSettings, length: int) -> int:
    """Most forward passes over a row of so many tokens and its candidates."""
    rounds = JUDGE_PASSES + settings.rounds * (1 + JUDGE_PASSES)
    return rounds if settings.checker is None else rounds + PLACES + 2 * len(LOWER_THRESHOLDS)


def repair_rows(
    model: Any,
    rows: Sequence[str] | Sequence[Sequence[int]],
    settings: RepairSettings,
    *,
    protected: Sequence[Sequence[int]] | None = None,
    seed: int | Tensor = 0,
) -> list[Repair]:
    """Repair rows; see :meth:`imadarem.ImplicitRefinementModel.repair`.

    ``seed`` may also be ``(N,)`` seeds, one for each row.
    """
    check_judge(model, settings)
    tokens = encoded_rows(model, rows)
    if not tokens:
        return []
    flags = protection_flags(tokens, protected)
    judgements = judge_rows(model, tokens, settings.batch_size)
    states = []
    for given, ids, own, judgement in zip(rows, tokens, flags, judgements, strict=True):
        row, text = Row(ids, own), given if isinstance(given, str) else None
        states.append(_Progress(row, row, text, judgement, judgement))
    seeds = seed if isinstance(seed, Tensor) else row_seeds(len(states), seed)
    run = _Run(model, settings)
    for state in states:
        if run.is_right(state, state.row, state.now):
            state.reason = CLEAN
    # What a token's own probability says is enough to rank places, not to blank them.
    for number in range(settings.rounds if model.config.judge else 0):
        run.round(states, seeds + number)
    if settings.checker is not None:
        for state, own_seed in zip(states, seeds.split(1), strict=True):
            if state.reason is None:
                run.search(state, own_seed)
    return [run.record(state) for state in states]


@dataclass(frozen=True)
class _Run:
    """What all rows share.

    Attributes:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        settings: How to repair.
    """

    model: Any
    settings: RepairSettings

    def is_right(self, state: _Progress, row: Row, judgement: Judgement | None) -> bool:
        """By the checker where there is one, else by the judge. A call is counted once a text."""
        checker = self.settings.checker
        if checker is None:
            return judgement is not None and not self.flagged(row, judgement)
        state.tried.add(tuple(row.tokens))
        unchanged = row.tokens == state.given.tokens and state.text is not None
        return bool(checker(state.text if unchanged and state.text else self.decode(row.tokens)))

    def flagged(self, row: Row, judgement: Judgement) -> list[Site]:
        """The places that are repaired."""
        return flagged_sites(row, judgement, self.settings.threshold)

    def round(self, states: Sequence[_Progress], seeds: Tensor) -> None:
        """Fill the flagged places of the rows that go on, and judge them again."""
        sites = {
            number: self.flagged(state.row, state.now)
            for number, state in enumerate(states)
            if state.reason is None
        }
        sites = {number: own for number, own in sites.items() if own}
        if not sites:
            return
        going = list(sites)
        filled = fill(
            self.model,
            [states[number].row for number in going],
            list(sites.values()),
            seeds=seeds[going],
            temperature=0.0,
            batch_size=self.settings.batch_size,
        )
        # A row whose every token was taken out has nothing left to judge.
        rows = {number: row for number, row in zip(going, filled, strict=True) if row.tokens}
        if not rows:
            return
        tokens = [row.tokens for row in rows.values()]
        judgements = judge_rows(self.model, tokens, self.settings.batch_size)
        for (number, row), judgement in zip(rows.items(), judgements, strict=True):
            state = states[number]
            state.row, state.now = row, judgement
            state.rounds += 1
            state.row_passes += 1 + JUDGE_PASSES
            if self.is_right(state, row, judgement):
                state.reason = REPAIRED if self.settings.checker is None else CHECKED

    def search(self, state: _Progress, seeds: Tensor) -> None:
        """Try candidates of the row as it was given until the checker takes one."""
        for candidate in self._candidates(state, seeds):
            if not candidate.tokens or tuple(candidate.tokens) in state.tried:
                continue
            if len(state.tried) >= self.settings.budget:
                return
            if self.is_right(state, candidate, None):
                state.row, state.reason = candidate, CHECKED
                return

    def _candidates(self, state: _Progress, seeds: Tensor) -> Iterator[Row]:
        """Half of the budget of single edits, fills of more and more places, the other edits."""
        given, size = state.given, self.settings.batch_size
        places = likely_sites(given, state.first, PLACES)
        edits, passes = single_edits(self.model, given, places, size)
        state.row_passes += passes
        half = self.settings.budget // 2
        for tokens, _ in edits[:half]:
            yield Row(tokens, [])
        for number, threshold in enumerate(LOWER_THRESHOLDS):
            flagged = flagged_sites(given, state.first, threshold)
            for temperature in (0.0, 0.7) if flagged else ():
                state.row_passes += 1
                yield fill(
                    self.model,
                    [given],
                    [flagged],
                    seeds=seeds + number,
                    temperature=temperature,
                    batch_size=1,
                )[0]
        for tokens, _ in edits[half:]:
            yield Row(tokens, [])

    def decode(self, tokens: list[int]) -> str:
        """The text of a row; empty where the tokenizer cannot decode."""
        decode = getattr(self.model.tokenizer, "decode", None)
        return "" if decode is None else str(decode(tokens))

    def record(self, state: _Progress) -> Repair:
        """What is returned of a row: as it was given unless it was repaired."""
        given, reason = state.given.tokens, state.reason or GAVE_UP
        tokens = given if reason in (CLEAN, GAVE_UP) else state.row.tokens
        if tokens == given and reason != GAVE_UP:
            reason = CLEAN
        unchanged = tokens == given and state.text is not None
        return Repair(
            given=given,
            tokens=tokens,
            text=state.text if unchanged else self.decode(tokens),
            edits=edits_between(given, tokens, state.first),
            reason=reason,
            rounds=state.rounds,
            row_passes=state.row_passes,
            checks=len(state.tried),
        )
