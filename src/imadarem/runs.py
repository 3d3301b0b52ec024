"""One call of ``sample`` or ``infill``: rows, their candidates, and processes that share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.evaluation.judgement import row_verdicts
from imadarem.row_pool import share_rows
from imadarem.sampling.batching import Refined, Run, Samples, refine_run
from imadarem.sampling.width import refine_candidates


def refine_shared(model: Any, canvas: Canvas, seeds: Tensor, run: Run) -> Samples:
    """:func:`refine_rows`, by all processes that share rows; without records of the steps."""

    def by(run: Run) -> Callable[[Any, Tensor], list[Refined]]:
        return partial(_refined, canvas=canvas, seeds=seeds, run=run)

    elsewhere = by(replace(run, on_rows=None, generator=None))
    return Samples(share_rows(model, elsewhere, len(seeds), by(run)), model.tokenizer, None)


def _refined(
    model: Any, numbers: Tensor, *, canvas: Canvas, seeds: Tensor, run: Run
) -> list[Refined]:
    return refine_rows(model, canvas.rows(numbers), seeds[numbers], run).rows


def refine_rows(model: Any, canvas: Canvas, seeds: Tensor, run: Run) -> Samples:
    """Each row as a run asks: once, or as one of several candidates.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        canvas: ``N`` rows on the CPU.
        seeds: ``(N,)`` int64.
        run: How.

    Raises:
        ConfigError: There are several candidates, and nothing says which is right.
    """
    if run.width == 1 and not run.redraws:
        return refine_run(model, canvas, seeds, run)
    verdicts = partial(row_verdicts, model, batch_size=run.batch_size)
    return refine_candidates(model, canvas, seeds, run, verdicts)
