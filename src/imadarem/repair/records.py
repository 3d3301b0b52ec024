"""What a repair returns: the row, what was changed in it, and why it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rapidfuzz.distance import Levenshtein

from imadarem.evaluation.judgement import Judgement

#: Why a row stopped: nothing looks wrong in it; it was changed and nothing looks wrong any more;
#: it was changed and the checker takes it; it is returned as it was given.
CLEAN, REPAIRED, CHECKED, GAVE_UP = "clean", "repaired", "checked", "gave_up"


@dataclass(frozen=True)
class Edit:
    """One change of one token.

    Attributes:
        position: Index of the token in the row as it was given; an inserted token stands before
            the token with this index.
        kind: ``replace``, ``insert`` or ``delete``.
        before: Id of the token that was there; None for an insertion.
        after: Id of the token that is there now; None for a deletion.
        probability: What the judge said of the place, before the repair; None without a judge.
    """

    position: int
    kind: str
    before: int | None
    after: int | None
    probability: float | None

    def to_dict(self) -> dict[str, Any]:
        """The edit as JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Repair:
    """A row after a repair.

    Attributes:
        given: Token ids of the row as it was given.
        tokens: Token ids now.
        text: The row now, where the tokenizer can decode; a row that was not changed is returned
            exactly as it was given.
        edits: What was changed, from left to right.
        reason: ``clean``, ``repaired``, ``checked`` or ``gave_up``.
        rounds: Times that blanks were filled.
        row_passes: Forward passes over this row and its candidates, judging included.
        checks: Calls of the checker.
    """

    given: list[int]
    tokens: list[int]
    text: str | None
    edits: list[Edit]
    reason: str
    rounds: int
    row_passes: int
    checks: int

    @property
    def changed(self) -> bool:
        """Whether the row is another one than was given."""
        return self.tokens != self.given

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {
            "text": self.text,
            "changed": self.changed,
            "reason": self.reason,
            "edits": [edit.to_dict() for edit in self.edits],
            "rounds": self.rounds,
            "row_passes": self.row_passes,
            "checks": self.checks,
        }

    def spelled(self, tokenizer: Any) -> dict[str, Any]:
        """The record as JSON values, with the tokens of each edit as strings."""
        record = self.to_dict()
        for edit in record["edits"]:
            for key in ("before", "after"):
                if edit[key] is not None:
                    (edit[key],) = spelled_tokens(tokenizer, [edit[key]])
        return record


def spelled_tokens(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The strings of token ids; the numbers themselves where the tokenizer has no strings."""
    convert = getattr(tokenizer, "convert_ids_to_tokens", None)
    return [str(token) for token in (ids if convert is None else convert(list(ids)))]


def edits_between(
    given: Sequence[int], tokens: Sequence[int], judgement: Judgement | None
) -> list[Edit]:
    """The fewest edits that turn ``given`` into ``tokens``, from left to right."""
    found = []
    for operation in Levenshtein.editops(list(given), list(tokens)):
        kind, position, place = operation.tag, operation.src_pos, operation.dest_pos
        before = None if kind == "insert" else given[position]
        after = None if kind == "delete" else tokens[place]
        stated = None
        if judgement is not None:
            stated = judgement.missing if kind == "insert" else judgement.wrong
        found.append(
            Edit(position, kind, before, after, None if stated is None else stated[position])
        )
    return found
