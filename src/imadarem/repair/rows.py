"""Repairing rows: judge, try the likely changes, keep the most likely row, judge again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rapidfuzz.distance import Levenshtein
from torch import Tensor

from imadarem.evaluation.judgement import Judgement, encoded_rows, judge_rows
from imadarem.repair.candidates import Candidate, single_edits
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
    flagged_sites,
    likely_sites,
    protection_flags,
    suspect_sites,
)
from imadarem.row_pool import share_rows
from imadarem.sampling.noise import row_seeds

#: Places of a row whose single edits are tried in a round: by the judge alone those that are
#: flagged and their neighbours, with a checker the likeliest.
PLACES, CHECKED_PLACES = 16, 8
#: Rows of a round that are judged, of which the most likely one is kept.
COMPARED = 8
#: Nats: candidates that pass the checker and score so little below the first one are compared
#: with it, at most so many. Their scores rank places well and tokens less so.
TIE, TIED = 2.0, 3
#: An edit must make a row likelier by so many nats.
EDIT_NATS = 6.0
#: Times as many places and candidates where no change made a rejected row better.
WIDER = 3
#: Share of the threshold above which places of a row that was changed are repaired too.
LATER = 0.3


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
        wide: No change made it better; more of them are tried.
        stuck: Nor did these.
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
    wide: bool = False
    stuck: bool = False
    rounds: int = 0
    row_passes: int = 1
    tried: set[tuple[int, ...]] = field(default_factory=set)
    untried: list[Candidate] = field(default_factory=list)
    passed: tuple[Row, Judgement] | None = None

    def merit(self, row: Row, judgement: Judgement) -> float:
        """Nats: how likely the row is, and the edits that lead to it."""
        edits = Levenshtein.distance(self.given.tokens, row.tokens)
        return -sum(judgement.surprise) - EDIT_NATS * edits


def most_passes(settings: RepairSettings) -> int:
    """Most forward passes over a row and its candidates."""
    if settings.checker is None:
        return 1 + settings.rounds * (PLACES + 1 + COMPARED)
    # One round of a row at most is a wider one.
    wider = (WIDER - 1) * (CHECKED_PLACES + COMPARED)
    return 1 + settings.rounds * (CHECKED_PLACES + 1 + COMPARED + TIED) + wider


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
            if settings.flagged_too and run.flagged(state.row, state.now, 0):
                state.passed = state.row, state.now
            else:
                state.reason = CLEAN
    for _ in range(settings.rounds):
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
            return judgement is not None and not self.flagged(row, judgement, 0)
        state.tried.add(tuple(row.tokens))
        unchanged = row.tokens == state.given.tokens and state.text is not None
        return bool(checker(state.text if unchanged and state.text else self.decode(row.tokens)))

    def threshold(self, rounds: int) -> float:
        """Errors seldom come alone: in a row that was changed less doubt is enough."""
        return self.settings.threshold * (LATER if rounds else 1.0)

    def flagged(self, row: Row, judgement: Judgement, rounds: int) -> list[Site]:
        """The places that are repaired in a row that was changed so many times."""
        return flagged_sites(row, judgement, self.threshold(rounds))

    def round(self, states: Sequence[_Progress], seeds: Tensor) -> None:
        """Change the rows that go on where it makes them the most likely, and judge them again."""
        going = [n for n, state in enumerate(states) if state.reason is None and not state.stuck]
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
        for state, candidates, sites in zip(own, edits, places, strict=True):
            state.row_passes += len(sites)
            if not state.rounds:
                state.untried = candidates
            passing = self.passing(state, candidates)
            compared = COMPARED * (WIDER if state.wide else 1)
            others = [c for c in candidates[:compared] if c not in passing]
            chosen.append((passing, others))
        rows = [c.row.tokens for part in chosen for group in part for c in group]
        judgements = iter(judge_rows(self.model, rows, batch) if rows else [])
        for state, part in zip(own, chosen, strict=True):
            judged = [[(c.row, next(judgements)) for c in group] for group in part]
            self.keep_best(state, *judged)

    def places(self, state: _Progress) -> list[Site]:
        """Where a row may be changed, the most likely places first."""
        if self.settings.checker is not None:
            count = CHECKED_PLACES * (WIDER if state.wide else 1)
            return likely_sites(state.row, state.now, count)
        return suspect_sites(state.row, state.now, self.threshold(state.rounds))[:PLACES]

    def add_fills(
        self, states: Sequence[_Progress], edits: list[list[Candidate]], seeds: Tensor
    ) -> None:
        """Put all flagged places filled jointly before the single edits, where it is another row.

        What a small model's own probability says is enough to rank places, not to blank them; and
        one place alone is filled by its best edit, unless its blanks may stay empty.
        """
        if not judges_tokens(self.model):
            return
        least = 2 if self.model.special.nothing is None else 1
        sites = {
            n: self.flagged(state.row, state.now, state.rounds) for n, state in enumerate(states)
        }
        sites = {n: own for n, own in sites.items() if len(own) >= least}
        if not sites:
            return
        numbers = list(sites)
        rows = fill(
            self.model,
            [states[n].row for n in numbers],
            list(sites.values()),
            seeds=seeds[numbers],
            batch_size=self.settings.batch_size,
        )
        for n, row in zip(numbers, rows, strict=True):
            states[n].row_passes += 1
            if row.tokens and row.tokens != states[n].row.tokens:
                edits[n].insert(0, Candidate(row, edits[n][0].score if edits[n] else 0.0))

    def passing(self, state: _Progress, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The first candidates that the checker takes and whose scores are nearly the same."""
        if self.settings.checker is None:
            return []
        # Calls are left for the rounds to come, and for the rest of the first one's candidates.
        most = self.settings.budget * (state.rounds + 1) // (self.settings.rounds + 1)
        found: list[Candidate] = []
        for candidate in candidates:
            if found and (candidate.score < found[0].score - TIE or len(found) == TIED):
                break
            if len(state.tried) >= most:
                break
            if self.takes(state, candidate.row):
                found.append(candidate)
        return found

    def keep_best(
        self,
        state: _Progress,
        passing: Sequence[tuple[Row, Judgement]],
        others: Sequence[tuple[Row, Judgement]],
    ) -> None:
        """Go on from the row of most merit, and stop where it is right."""
        state.row_passes += len(passing) + len(others)
        if passing:
            known = [] if state.passed is None else [state.passed]
            state.passed = max([*known, *passing], key=lambda pair: state.merit(*pair))
        now = (state.row, state.now)
        best = max([now, *passing, *others], key=lambda pair: state.merit(*pair))
        row, judgement = best
        if row is state.row:
            # A row that is known to be wrong is worth a second, wider try.
            state.stuck = state.wide or state.passed is not None or self.settings.checker is None
            state.wide = True
            return
        if self.takes(state, row):
            state.passed = best
        state.row, state.now = row, judgement
        state.rounds += 1
        if not self.flagged(row, judgement, state.rounds):
            if self.settings.checker is None:
                state.reason = REPAIRED
            elif state.passed is not None and row is state.passed[0]:
                state.reason = CHECKED

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
        for candidate in state.untried:
            if self.takes(state, candidate.row):
                state.row, state.reason = candidate.row, CHECKED
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
