"""Many canvases through the loop: batches of similar length, results in the order asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from imadarem.canvas import Canvas
from imadarem.nn import EmaTeacher
from imadarem.nn.memory import Retrieved
from imadarem.sampling.draw import Truncation
from imadarem.sampling.halting import Halting
from imadarem.sampling.policies import Policy
from imadarem.sampling.refine import Step, StoppingReason, refine

__all__ = ["Refined", "SamplingSettings", "refine_all"]


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How to refine, whatever the canvas.

    Attributes:
        policy: Decides what is written in each pass.
        steps: ``K``, the hard cap on refinement steps.
        temperature: Divides the logits before a token is drawn.
        stop_threshold: A row without blanks stops once a smaller share of it changed.
        may_end: Whether an EOS may be written.
        halting: Further rules by which a row without blanks stops.
        reinject: Show the network the question in every pass; see :func:`refine`.
        schedule: ``linear`` or ``cosine``: how many blanks a step leaves.
        truncation: Cuts the tail of what is drawn from.
    """

    policy: Policy
    steps: int
    temperature: float
    stop_threshold: float
    may_end: bool
    halting: Halting | None = None
    reinject: bool = False
    schedule: str = "linear"
    truncation: Truncation | None = None


@dataclass(frozen=True)
class Refined:
    """One finished row.

    Attributes:
        ids: ``(L,)`` token ids, without padding, EOS and what lies behind it.
        reason: Why it stopped; ``FILLED`` for a row that had no blank.
        steps: Refinement steps it took.
        forward_passes: Passes it cost, the teacher's included.
        quality: Mean probability of the tokens on its writable positions; None for a row
            that had no blank.
        halt: Probability of the halting head that it is entirely right, where there is one.
    """

    ids: Tensor
    reason: StoppingReason
    steps: int
    forward_passes: int
    quality: float | None = None
    halt: float | None = None


def refine_all(
    network: nn.Module,
    canvas: Canvas,
    seeds: Tensor,
    settings: SamplingSettings,
    *,
    teacher: EmaTeacher | None = None,
    memory: Retrieved | None = None,
    batch_size: int = 256,
    on_step: Callable[[Tensor, Step], None] | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> list[Refined]:
    """Refine every row of ``canvas``, in batches of similar length.

    Args:
        network: In evaluation mode.
        canvas: ``(N, L)``; rows keep their order in the result.
        seeds: ``(N,)`` int64, one per row.
        settings: How to refine.
        teacher: Judges the entropy where the policy asks for it.
        memory: Earlier canvases for the network to look at, one set for each row.
        batch_size: Rows refined together; no row's result depends on it.
        on_step: Called with the row numbers of a batch and each of its records.
        on_rows: Called with the number of rows just finished (a progress bar).
    """
    order = canvas.attended.sum(dim=1).argsort(stable=True)
    results: dict[int, Refined] = {}
    for chunk in order.split(batch_size):
        part = canvas.rows(chunk)
        steps = refine(
            network,
            part,
            policy=settings.policy,
            steps=settings.steps,
            seeds=seeds[chunk],
            temperature=settings.temperature,
            stop_threshold=settings.stop_threshold,
            may_end=settings.may_end,
            teacher=teacher,
            halting=settings.halting,
            reinject=settings.reinject,
            schedule=settings.schedule,
            truncation=settings.truncation,
            memory=None if memory is None else memory.rows(chunk),
        )
        results |= _untouched(part, chunk)
        for step in steps:
            if on_step is not None:
                on_step(chunk, step)
            for row, refined in _finished(step):
                results[int(chunk[row])] = refined
        if on_rows is not None:
            on_rows(len(chunk))
    return [results[row] for row in range(len(canvas))]


def _untouched(canvas: Canvas, numbers: Tensor) -> dict[int, Refined]:
    """Rows that have no blank and so never enter the loop."""
    full = ~canvas.open.any(dim=1)
    sequences = canvas.rows(full).sequences() if bool(full.any()) else []
    return {
        int(number): Refined(ids, StoppingReason.FILLED, 0, 0)
        for number, ids in zip(numbers[full.to(numbers.device)], sequences, strict=True)
    }


def _finished(step: Step) -> Iterator[tuple[int, Refined]]:
    done = step.reasons != 0
    if not bool(done.any()):
        return
    rows, reasons = step.rows[done].tolist(), step.reasons[done].tolist()
    quality = step.quality[done].tolist()
    halt = [None] * len(rows) if step.halt is None else step.halt[done].tolist()
    sequences = step.canvas.rows(done).sequences()
    for row, reason, ids, *scores in zip(rows, reasons, sequences, quality, halt, strict=True):
        why = StoppingReason(reason)
        yield row, Refined(ids, why, step.step, step.forward_passes, *scores)
