"""Filling all blanked places of rows under repair jointly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.repair.sites import Row, Site, prompt_of
from imadarem.sampling.batching import Widths, refine_all
from imadarem.sampling.loop import Step


@torch.no_grad()
def fill(
    model: Any,
    rows: Sequence[Row],
    sites: Sequence[Sequence[Site]],
    *,
    seeds: Tensor,
    batch_size: int,
) -> list[Row]:
    """Blank the sites of each row and fill the blanks jointly, in one pass from the left.

    The most likely token is taken, given those left of it.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        rows: ``N`` rows.
        sites: Of each row, at least one.
        seeds: ``(N,)``, one for each row.
        batch_size: Rows refined together.

    Returns:
        The rows after it. Protected tokens stand as they were.
    """
    longest = model.config.max_seq_len
    prompts = [
        prompt_of(row, own, model.special, longest) for row, own in zip(rows, sites, strict=True)
    ]
    canvas = Canvas.with_holes([ids for ids, _ in prompts], model.special)
    settings = model.sampling_settings(steps=1, temperature=0.0, policy="left-to-right")
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
