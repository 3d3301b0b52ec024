"""Filling the blanked places of rows under repair, and scoring what may stand in one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.repair.sites import Row, Site, prompt_of
from imadarem.sampling.batching import Widths, refine_all
from imadarem.sampling.draw import forbid
from imadarem.sampling.loop import Step

__all__ = ["Candidate", "fill", "place_log_probs", "single_edits"]

#: A row's tokens after a change, and the logarithm of how likely the change is.
Candidate = tuple[list[int], float]


@torch.no_grad()
def fill(
    model: Any,
    rows: Sequence[Row],
    sites: Sequence[Sequence[Site]],
    *,
    seeds: Tensor,
    temperature: float,
    batch_size: int,
) -> list[Row]:
    """Blank the sites of each row and fill the blanks jointly, in one pass from the left.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        rows: ``N`` rows.
        sites: Of each row, at least one.
        seeds: ``(N,)``; a row's result depends on its own seed alone.
        temperature: 0 takes the most likely token.
        batch_size: Rows refined together.

    Returns:
        The rows after it. Protected tokens stand as they were.
    """
    longest = model.config.max_seq_len
    prompts = [
        prompt_of(row, own, model.special, longest) for row, own in zip(rows, sites, strict=True)
    ]
    canvas = Canvas.with_holes([ids for ids, _ in prompts], model.special)
    settings = model.sampling_settings(steps=1, temperature=temperature, policy="left-to-right")
    written: dict[int, list[int]] = {}

    def keep(numbers: Tensor, step: Step) -> None:
        for row, ids in zip(step.rows.tolist(), step.canvas.ids.tolist(), strict=True):
            written[int(numbers[row])] = ids

    device = next(model.parameters()).device
    refine_all(
        model,
        canvas.to(device),
        seeds.to(device),
        settings,
        batch_size=batch_size,
        widths=Widths.of(model.config),
        on_step=keep,
    )
    return [
        _filled(canvas, number, written.get(number), kept)
        for number, (_, kept) in enumerate(prompts)
    ]


def _filled(canvas: Canvas, number: int, written: list[int] | None, kept: list[bool]) -> Row:
    """A row of the canvas with what was written in it; the tokens that stayed keep their flags."""
    states, ids = canvas.state[number].tolist(), canvas.ids[number].tolist()
    if written is not None:
        ids[: len(written)] = written[: len(ids)]
    stayed = iter(kept)
    tokens: list[int] = []
    protected: list[bool] = []
    for token, state in zip(ids, states, strict=True):
        if state != State.PAD and token != canvas.special.nothing:
            tokens.append(token)
            protected.append(next(stayed) if state == State.GIVEN else False)
    return Row(tokens, protected)


@torch.no_grad()
def place_log_probs(
    model: Any, tokens: list[int], sites: Sequence[Site], batch_size: int
) -> Tensor:
    """``(N, V)`` log-probabilities of the tokens that may stand at each of ``N`` sites.

    Read in one pass over one canvas a site, in which it is the one blank: with a joint head
    given the tokens left of it.
    """
    special, longest = model.special, model.config.max_seq_len
    assert all(len(tokens) + site.is_gap <= longest for site in sites), "a site does not fit"
    found: list[Tensor] = []
    for start in range(0, len(sites), batch_size):
        part = sites[start : start + batch_size]
        prompts = [_one_blank(tokens, site, special.mask) for site in part]
        canvas = Canvas.with_holes(prompts, special).to(next(model.parameters()).device)
        # The joint head reads the tokens left of a position alone: what stands in the blank is
        # of no account, and the mask id has no embedding that it was trained on.
        given = canvas.ids.masked_fill(canvas.open, tokens[0])
        targets = given if model.config.joint_size else None
        output = model(canvas.ids, canvas.attention_mask, targets=targets)
        logits = output.logits if output.joint_logits is None else output.joint_logits
        log_probs = forbid(logits, canvas, may_end=False)
        rows = torch.arange(len(part))
        found.append(log_probs[rows, [site.position for site in part]].double().cpu())
    return torch.cat(found)


def single_edits(
    model: Any, row: Row, sites: Sequence[Site], batch_size: int
) -> tuple[list[Candidate], int]:
    """Every change of one token at these sites, the most likely first.

    A candidate's score is ``ln P(the place is wrong) + ln P(token | the others)``.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        row: Its tokens.
        sites: Places to try.
        batch_size: Canvases in one pass.

    Returns:
        The candidates, and the row-passes they took.
    """
    longest = model.config.max_seq_len
    fits = [site for site in sites if len(row.tokens) + site.is_gap <= longest]
    if not fits:
        return [], 0
    found: list[Candidate] = []
    for site, here in zip(fits, place_log_probs(model, row.tokens, fits, batch_size), strict=True):
        found += _of_site(row.tokens, site, here.tolist())
    return sorted(found, key=lambda candidate: (-candidate[1], candidate[0])), len(fits)


def _one_blank(tokens: list[int], site: Site, mask: int) -> list[int]:
    behind = site.position if site.is_gap else site.position + 1
    return [*tokens[: site.position], mask, *tokens[behind:]]


def _of_site(tokens: list[int], site: Site, log_probs: list[float]) -> list[Candidate]:
    """Every token in the blank of a site; for a token's place, nothing in it as well."""
    place = math.log(max(site.probability, 1e-12))
    behind = site.position if site.is_gap else site.position + 1
    left, right = tokens[: site.position], tokens[behind:]
    found = [
        ([*left, token, *right], place + value)
        for token, value in enumerate(log_probs)
        if value > -math.inf and (site.is_gap or token != tokens[site.position])
    ]
    if not site.is_gap and len(tokens) > 1:
        # As likely as the token that is best there: which of the two it is, nothing tells.
        found.append(([*left, *right], place + max(log_probs)))
    return found
