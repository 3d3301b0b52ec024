"""Candidates of a repair: every change of one token at some places, the most likely first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.repair.sites import Row, Site

#: Tokens tried at a place, the most likely ones.
TOKENS = 32


class Candidate(NamedTuple):
    """A row after a change.

    Attributes:
        row: The tokens, and which of them are protected.
        score: Nats, ``ln P(the place is wrong) + ln P(token | the others)``.
    """

    row: Row
    score: float


@torch.no_grad()
def place_log_probs(
    model: Any, places: Sequence[tuple[list[int], Site]], batch_size: int
) -> list[Tensor]:
    """``(V,)`` log-probabilities, float64, of the tokens that may stand at each place of a row.

    Read in one pass over one canvas a place, in which it is the one blank: with a joint head
    given the tokens left of it. Where a token stands, the blank may stay empty: the
    log-probability of *nothing*, where the tokenizer has it, is that of a deletion.
    """
    found: dict[int, Tensor] = {}
    # Rows of similar length share a batch.
    order = sorted(range(len(places)), key=lambda number: len(places[number][0]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        prompts = [_one_blank(*places[number], model) for number in numbers]
        canvas = Canvas.with_holes(prompts, model.special).to(next(model.parameters()).device)
        # The joint head reads the tokens left of a position alone: what stands in the blank is
        # of no account, and the mask id has no embedding that it was trained on.
        given = canvas.ids.masked_fill(canvas.open, places[numbers[0]][0][0])
        targets = given if model.config.joint_size else None
        output = model(canvas.ids, canvas.attention_mask, targets=targets)
        logits = output.logits if output.joint_logits is None else output.joint_logits
        log_probs = canvas.log_probs(logits, may_end=False)
        at = [places[number][1].position for number in numbers]
        here = log_probs[torch.arange(len(at)), at].double().cpu()
        found |= zip(numbers, here, strict=True)
    return [found[number] for number in range(len(places))]


def single_edits(
    model: Any, asked: Sequence[tuple[Row, Sequence[Site]]], batch_size: int
) -> list[list[Candidate]]:
    """Every change of one token at these sites of each row, the most likely first.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        asked: Rows, and places to try in each; a pass for each place.
        batch_size: Canvases in one pass.
    """
    longest = model.config.max_seq_len
    fits = [
        (number, row, site)
        for number, (row, sites) in enumerate(asked)
        for site in sites
        if len(row.tokens) + site.is_gap <= longest
    ]
    log_probs = place_log_probs(model, [(row.tokens, site) for _, row, site in fits], batch_size)
    found: list[list[Candidate]] = [[] for _ in asked]
    for (number, row, site), here in zip(fits, log_probs, strict=True):
        found[number] += at_site(row, site, here, model.special.nothing)
    return [sorted(candidates, key=lambda c: (-c.score, c.row.tokens)) for candidates in found]


def swaps(row: Row, sites: Sequence[Site], most: int) -> list[Row]:
    """The row with the token of a site and one beside it exchanged, in the order of the sites.

    Those of the first ``most`` sites that are tokens.
    """
    found: list[Row] = []
    for position in [site.position for site in sites if not site.is_gap][:most]:
        for left in (position - 1, position):
            pair = row.tokens[max(left, 0) : left + 2]
            if len(pair) < 2 or pair[0] == pair[1] or any(row.protected[left : left + 2]):
                continue
            tokens = [*row.tokens[:left], pair[1], pair[0], *row.tokens[left + 2 :]]
            if all(tokens != other.tokens for other in found):
                found.append(Row(tokens, row.protected))
    return found


def _one_blank(tokens: list[int], site: Site, model: Any) -> list[int]:
    special = model.special
    blank, behind = special.mask, site.position
    if not site.is_gap:
        behind += 1
        # A hole that may stay empty has a mark behind it.
        if special.nothing is not None and len(tokens) < model.config.max_seq_len:
            blank = special.nothing
    return [*tokens[: site.position], blank, *tokens[behind:]]


def at_site(row: Row, site: Site, log_probs: Tensor, nothing: int | None) -> list[Candidate]:
    """The likely tokens in the blank of a site; for a token's place, nothing in it as well."""
    place = math.log(max(site.probability, 1e-12))
    values, tokens = (each.tolist() for each in log_probs.topk(min(TOKENS, len(log_probs))))
    found = [
        Candidate(row.changed(site.position, site.is_gap, [token]), place + value)
        for token, value in zip(tokens, values, strict=True)
        if value > -math.inf
        and token != nothing
        and (site.is_gap or token != row.tokens[site.position])
    ]
    if not site.is_gap and len(row.tokens) > 1:
        # Without an estimate as likely as the token that is best there.
        empty = -math.inf if nothing is None else float(log_probs[nothing])
        deletion = values[0] if empty == -math.inf else empty
        found.append(Candidate(row.changed(site.position, False, []), place + deletion))
    return found
