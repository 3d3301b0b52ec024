"""Repairing rows: judge, try the likely changes, keep the most likely row, judge again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rapidfuzz.distance import OSA
from torch import Tensor

from imadarem.evaluation.judgement import Judgement, encoded_rows, judge_rows
from imadarem.repair.candidates import Candidate, single_edits, swaps
from imadarem.repair.filling import fill
from imadarem.repair.records import (
    CHECKED,
    CLEAN,
    GAVE_UP,
    REPAIRED,
    Repair,
    edits_between,
)
from imadarem.repair.settings import RepairSettings, check_judge, judges_tokens
from imadarem.repair.sites import (
    Row,
    Site,
    error_nats,
    flagged_sites,
    likely_sites,
    place_count,
    protection_flags,
)
from imadarem.row_pool import share_rows
from imadarem.sampling.noise import row_seeds

#: Places of a row whose single edits are tried: the likeliest first, and so many together where
#: these do not make it right; and the share of the doubt about the row that they are to hold.
PLACES, SHARE = (3, 9), 0.97
#: Rows that are judged then, at most, of which the most likely one is kept; and the nats that a
#: candidate may score below the best one.
COMPARED, WORSE = (3, 8), 4.0
#: Nats: candidates that pass the checker and score so little below the first one are compared
#: with it, at most so many. Their scores rank places well and tokens less so.
TIE, TIED = 2.0, 3
#: An edit must make a row likelier by so many nats: a row of 40 tokens has some 2,000 neighbours.
EDIT_NATS = 7.5
#: Of the likeliest places of a row, so many have their token exchanged with each of its neighbours.
SWAPPED = 2
#: What a nat of the judge's doubt about a row counts beside one of its likelihood.
DOUBT = 1.0
#: Shares of the threshold above which places are blanked and filled jointly.
BLANKED = (1.0, 0.3)


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
        candidates: Changes of the row as it is now, the most likely first.
        judged: Candidates of it with their judgements.
        places: How many places of it were tried.
        wide: The first places did not make it right; more of them are tried.
        stuck: Nothing makes it better.
        rounds: Times that it was changed and judged again.
        row_passes: Forward passes so far.
        tried: Token ids that the checker has refused or taken.
        untried: Single edits of the row as it was given.
        passed: The best row that the checker has taken, and its judgement.
    """

    given: Row
    row: Row
    text: str | None
    first: Judgement
    now: Judgement
    reason: str | None = None
    candidates: list[Candidate] = field(default_factory=list)
    judged: list[tuple[Row, Judgement]] = field(default_factory=list)
    places: int = 0
    wide: bool = False
    stuck: bool = False
    rounds: int = 0
    row_passes: int = 1
    tried: set[tuple[int, ...]] = field(default_factory=set)
    untried: list[Candidate] = field(default_factory=list)
    passed: tuple[Row, Judgement] | None = None

    def move(self, row: Row, judgement: Judgement) -> None:
        """Go on from another row."""
        self.row, self.now = row, judgement
        self.candidates, self.judged, self.places, self.wide = [], [], 0, False
        self.rounds += 1

    def merit(self, row: Row, judgement: Judgement) -> float:
        """Nats: how likely the row is, that nothing is wrong in it, and the edits it takes."""
        edits = OSA.distance(self.given.tokens, row.tokens)
        doubt = 0.0 if judgement.missing is None else error_nats(row, judgement)
        return -sum(judgement.surprise) - DOUBT * doubt - EDIT_NATS * edits


def most_passes(settings: RepairSettings) -> int:
    """Most forward passes over a row and its candidates."""
    passing = 0 if settings.checker is None else 2 * TIED
    once = PLACES[-1] + sum(COMPARED) + 2 * SWAPPED + 3 * len(BLANKED) + passing
    return 1 + settings.rounds * once


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
    given = [
        (Row(ids, own), row if isinstance(row, str) else None)
        for row, ids, own in zip(rows, tokens, flags, strict=True)
    ]
    seeds = seed if isinstance(seed, Tensor) else row_seeds(len(given), seed)
    work = partial(_repaired, given=given, seeds=seeds, settings=settings)
    return share_rows(model, work, len(given))


def _repaired(
    model: Any,
    numbers: Tensor,
    *,
    given: Sequence[tuple[Row, str | None]],
    seeds: Tensor,
    settings: RepairSettings,
) -> list[Repair]:
    """The rows of these numbers, of all rows and their texts where they were given as such."""
    some, seeds = [given[number] for number in numbers.tolist()], seeds[numbers]
    judgements = judge_rows(model, [row.tokens for row, _ in some], settings.batch_size)
    states = [
        _Progress(row, row, text, judgement, judgement)
        for (row, text), judgement in zip(some, judgements, strict=True)
    ]
    run = _Run(model, settings)
    for state in states:
        if run.is_right(state, state.row, state.now):
            if settings.flagged_too and run.looks_wrong(state.row, state.now):
                state.passed = state.row, state.now
            else:
                state.reason = CLEAN
    for _ in range(settings.rounds * len(PLACES)):
        run.round(states, seeds)
    for state in states:
        run.search_on(state)
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
            return judgement is not None and not self.looks_wrong(row, judgement)
        state.tried.add(tuple(row.tokens))
        unchanged = row.tokens == state.given.tokens and state.text is not None
        return bool(checker(state.text if unchanged and state.text else self.decode(row.tokens)))

    def looks_wrong(self, row: Row, judgement: Judgement) -> bool:
        """Whether the judge doubts a row."""
        return -math.expm1(-error_nats(row, judgement)) > self.settings.threshold

    def round(self, states: Sequence[_Progress], seeds: Tensor) -> None:
        """Change the rows that go on where it makes them the most likely, and judge them again."""
        going = [n for n, state in enumerate(states) if self.goes_on(state)]
        if not going:
            return
        batch = self.settings.batch_size
        own = [states[number] for number in going]
        places = [self.places(state) for state in own]
        edits = single_edits(
            self.model, [(s.row, p) for s, p in zip(own, places, strict=True)], batch
        )
        self.add_fills(own, edits, seeds[going])
        chosen = []
        for state, more, sites in zip(own, edits, places, strict=True):
            state.row_passes += len(sites)
            state.places += len(sites)
            # Sorting is stable: fills stand before edits of the same score.
            state.candidates = sorted([*state.candidates, *more], key=lambda c: -c.score)
            if not state.rounds:
                state.untried = state.candidates
            passing = self.passing(state)
            others = [c for c in self.compared(state) if c not in passing]
            chosen.append((passing, others + self.swapped(state, sites)))
        rows = [c.row.tokens for part in chosen for group in part for c in group]
        judgements = iter(judge_rows(self.model, rows, batch) if rows else [])
        for state, part in zip(own, chosen, strict=True):
            accepted, rest = ([(c.row, next(judgements)) for c in group] for group in part)
            state.row_passes += len(accepted) + len(rest)
            state.judged += [*accepted, *rest]
            if accepted:
                known = [] if state.passed is None else [state.passed]
                state.passed = max([*known, *accepted], key=lambda pair: state.merit(*pair))
            self.keep_best(state)

    def goes_on(self, state: _Progress) -> bool:
        """Whether a row is changed further."""
        return state.reason is None and not state.stuck and state.rounds < self.settings.rounds

    def places(self, state: _Progress) -> list[Site]:
        """Where a row may be changed and was not yet, the most likely places first."""
        return likely_sites(state.row, state.now, PLACES[state.wide], SHARE)[state.places :]

    def compared(self, state: _Progress) -> list[Candidate]:
        """The candidates of the best scores, which are not judged yet."""
        if not state.candidates:
            return []
        least = state.candidates[0].score - WORSE
        near = [c for c in state.candidates if c.score >= least]
        judged = {tuple(row.tokens) for row, _ in state.judged}
        most = COMPARED[state.wide] + len(BLANKED)
        return [c for c in near[:most] if tuple(c.row.tokens) not in judged]

    def swapped(self, state: _Progress, sites: Sequence[Site]) -> list[Candidate]:
        """Exchanges of neighbours at the likeliest of these sites; their score is that of none."""
        found = [] if state.wide else swaps(state.row, sites, SWAPPED)
        return [Candidate(row, -math.inf) for row in found]

    def add_fills(
        self, states: Sequence[_Progress], edits: list[list[Candidate]], seeds: Tensor
    ) -> None:
        """Put flagged places filled jointly before the single edits, where it is another row.

        What a small model's own probability says is enough to rank places, not to blank them; and
        one place alone is filled by its best edit, unless its blanks may stay empty.
        """
        if not judges_tokens(self.model):
            return
        least = 2 if self.model.special.nothing is None else 1
        asked: dict[tuple[int, frozenset[Site]], list[Site]] = {}
        for n, state in enumerate(states):
            for share in () if state.wide else BLANKED:
                own = flagged_sites(state.row, state.now, share * self.settings.threshold)
                if len(own) >= least:
                    asked[n, frozenset(own)] = own
        if not asked:
            return
        numbers = [n for n, _ in asked]
        rows = fill(
            self.model,
            [states[n].row for n in numbers],
            list(asked.values()),
            seeds=seeds[numbers],
            batch_size=self.settings.batch_size,
        )
        for n, row in zip(numbers, rows, strict=True):
            states[n].row_passes += 1
            known = [states[n].row.tokens, *(c.row.tokens for c in edits[n][: len(BLANKED)])]
            if row.tokens and row.tokens not in known:
                edits[n].insert(0, Candidate(row, edits[n][0].score if edits[n] else 0.0))

    def passing(self, state: _Progress) -> list[Candidate]:
        """The first candidates that the checker takes and whose scores are nearly the same."""
        if self.settings.checker is None:
            return []
        # Calls are left for the rounds to come, and for the rest of the first one's candidates.
        most = self.settings.budget * (state.rounds + 1) // (self.settings.rounds + 1)
        found: list[Candidate] = []
        for candidate in state.candidates:
            if found and (candidate.score < found[0].score - TIE or len(found) == TIED):
                break
            if len(state.tried) >= most:
                break
            if self.takes(state, candidate.row):
                found.append(candidate)
        return found

    def keep_best(self, state: _Progress) -> None:
        """Go on from the row of most merit, and stop where it is right."""
        now = (state.row, state.now)
        row, judgement = best = max([now, *state.judged], key=lambda pair: state.merit(*pair))
        changed, right = row is not state.row, not self.looks_wrong(row, judgement)
        if changed and self.takes(state, row):
            state.passed = best
        if self.settings.checker is not None:
            right = right and state.passed is not None and row is state.passed[0]
        if not (changed and right) and not state.wide:
            state.wide = True
        elif not changed:
            state.stuck = True
        else:
            state.move(row, judgement)
            if right:
                state.reason = REPAIRED if self.settings.checker is None else CHECKED

    def takes(self, state: _Progress, row: Row) -> bool:
        """Whether the checker takes a row that it was not yet asked for."""
        return (
            self.settings.checker is not None
            and tuple(row.tokens) not in state.tried
            and len(state.tried) < self.settings.budget
            and self.is_right(state, row, None)
        )

    def search_on(self, state: _Progress) -> None:
        """Spend what is left of the budget on the other single edits, the most likely first."""
        if self.settings.checker is None or state.reason is not None:
            return
        if state.passed is not None:
            state.row, state.reason = state.passed[0], CHECKED
            return
        sites = likely_sites(state.given, state.first, place_count(len(state.given.tokens)))
        exchanged = swaps(state.given, sites, PLACES[0])
        for row in [*exchanged, *(candidate.row for candidate in state.untried)]:
            if self.takes(state, row):
                state.row, state.reason = row, CHECKED
                return

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
