"""Where a row is repaired: tokens that look wrong, gaps, and the prompts that blank them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from imadarem.errors import DataError
from imadarem.evaluation.judgement import Judgement
from imadarem.tokenizers import SpecialIds

#: Blanks that a gap is given, each of which may stay empty.
GAP_BLANKS = 2


@dataclass(frozen=True)
class Row:
    """A row under repair.

    Attributes:
        tokens: Token ids.
        protected: One flag a token: it may neither change nor be removed, and nothing is inserted
            between two of them.
    """

    tokens: list[int]
    protected: list[bool]

    def changed(self, position: int, is_gap: bool, tokens: list[int]) -> Row:
        """The row with ``tokens`` in the place of one token, or in a gap before it."""
        behind = position if is_gap else position + 1
        return Row(
            [*self.tokens[:position], *tokens, *self.tokens[behind:]],
            [*self.protected[:position], *[False] * len(tokens), *self.protected[behind:]],
        )

    def may_insert(self, position: int) -> bool:
        """Whether tokens may be inserted before a position, or behind the last token."""
        left = position > 0 and self.protected[position - 1]
        right = position < len(self.tokens) and self.protected[position]
        return not (left and right)


@dataclass(frozen=True, order=True)
class Site:
    """A place where a row may be wrong.

    Attributes:
        probability: That it is, by the judge.
        position: Index of the token; of a gap, of the token behind it.
        is_gap: Whether tokens are missing before the position.
    """

    probability: float
    position: int
    is_gap: bool


def place_count(length: int) -> int:
    """Tokens and gaps of a row of so many tokens."""
    return 2 * length + 1


def every_site(row: Row, judgement: Judgement) -> Iterator[Site]:
    """Every place of a row that may be changed.

    Without a judge a token's probability of being wrong is ``1 - p`` of the token in its place,
    and gaps stand beside the tokens to their right at half of it. Where a gate says which tokens
    are wrong, nothing speaks for a gap.
    """
    wrong = judgement.wrong
    missing = judgement.missing or []
    if wrong is None:
        wrong = [1.0 - math.exp(-nats) for nats in judgement.surprise]
        missing = [0.5 * p for p in [*wrong, wrong[-1]]]
    for position, probability in enumerate(wrong):
        if not row.protected[position]:
            yield Site(probability, position, False)
    for position, probability in enumerate(missing):
        if row.may_insert(position):
            yield Site(probability, position, True)


def flagged_sites(row: Row, judgement: Judgement, threshold: float) -> list[Site]:
    """The places whose probability is above the threshold."""
    return [site for site in every_site(row, judgement) if site.probability > threshold]


def likely_sites(row: Row, judgement: Judgement, count: int, share: float = 1.0) -> list[Site]:
    """The most likely wrong places that hold this share of the doubt, at most ``count`` of them.

    The doubt about a row is the sum of the probabilities of its places: few of them are worth
    a try where the judge is sure, more where it is not.
    """
    sites = _ranked(every_site(row, judgement))
    rest = share * sum(site.probability for site in sites)
    found: list[Site] = []
    for site in sites[:count]:
        if found and rest <= 0:
            break
        found.append(site)
        rest -= site.probability
    return found


def error_nats(row: Row, judgement: Judgement) -> float:
    """``-ln P(no place of the row is wrong)``, places taken as independent of each other.

    A gate that says nothing of gaps is no calibrated judge: the likeliest place alone counts.
    """
    probabilities = [site.probability for site in every_site(row, judgement)]
    if judgement.missing is None:
        probabilities = [max(probabilities, default=0.0)]
    return -sum(math.log1p(-min(p, 1 - 1e-9)) for p in probabilities)


def _ranked(sites: Iterable[Site]) -> list[Site]:
    return sorted(sites, key=lambda site: (-site.probability, site.position, site.is_gap))


def prompt_of(
    row: Row, sites: Sequence[Site], special: SpecialIds, longest: int
) -> tuple[list[int], list[bool]]:
    """The row with its sites blanked, as :meth:`Canvas.with_holes` takes it, and what is protected.

    A flagged token becomes a blank that may stay empty, a gap becomes :data:`GAP_BLANKS` of them.
    Without the token *nothing* a flagged token becomes one blank and gaps are left alone. Where
    the canvas would be longer than ``longest``, gaps are left out, the least likely first, then
    the blanks of the least likely tokens must be filled.

    Returns:
        Token ids, and one flag for each token that stays: whether it is protected.
    """
    gaps = {site.position for site in sites if site.is_gap and special.nothing is not None}
    tokens = {site.position for site in sites if not site.is_gap}
    # A hole whose blanks may stay empty has a mark behind it.
    room = max(longest - len(row.tokens), 0)
    ranked = sorted((site for site in sites if not site.is_gap), reverse=True)
    optional = {site.position for site in ranked[: room if special.nothing is not None else 0]}
    room -= len(optional)
    for site in sorted(site for site in sites if site.is_gap):
        if len(gaps) * (GAP_BLANKS + 1) <= room:
            break
        gaps.discard(site.position)
    empty = special.mask if special.nothing is None else special.nothing
    ids: list[int] = []
    for position in range(len(row.tokens) + 1):
        ids += [empty] * (GAP_BLANKS if position in gaps else 0)
        if position in optional:
            ids.append(empty)
        elif position < len(row.tokens):
            ids.append(special.mask if position in tokens else row.tokens[position])
    kept = [flag for position, flag in enumerate(row.protected) if position not in tokens]
    return ids, kept


def protection_flags(
    tokens: Sequence[list[int]], protected: Sequence[Sequence[int]] | None
) -> list[list[bool]]:
    """One flag a token of each row."""
    if protected is None:
        return [[False] * len(row) for row in tokens]
    if len(protected) != len(tokens):
        raise DataError(
            f"protected has positions for {len(protected)} rows, and {len(tokens)} rows are to be "
            "repaired. Give one list of positions for each row."
        )
    flags = []
    for number, (row, positions) in enumerate(zip(tokens, protected, strict=True)):
        outside = [position for position in positions if not 0 <= position < len(row)]
        if outside:
            raise DataError(
                f"row {number} has {len(row)} tokens, and position {outside[0]} of it is to be "
                f"protected. Legal positions are 0 to {len(row) - 1}."
            )
        chosen = set(positions)
        flags.append([position in chosen for position in range(len(row))])
    return flags
