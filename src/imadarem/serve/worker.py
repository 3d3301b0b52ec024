"""The one thread that owns the models: it joins waiting requests into batches for the engine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.sampling.batching import Widths, refine_all
from imadarem.sampling.loop import Step
from imadarem.sampling.trajectory import RowStep, TrajectoryRecorder
from imadarem.serve.canvases import stacked
from imadarem.serve.jobs import Job, Row
from imadarem.serve.limits import Limits
from imadarem.serve.meter import Meter
from imadarem.serve.refusals import Refusal
from imadarem.serve.rhythm import Rhythm

__all__ = ["Worker"]

log = logging.getLogger("imadarem.serve")

#: Rows that one job may have in a batch that others wait for: the long ones take turns.
TURN = 16
#: Tokens times passes of a batch, so that no batch keeps the others waiting for long.
BATCH_WORK = 65_536


@dataclass(frozen=True)
class Share:
    """The part of a batch that belongs to a job: rows of the job, in order."""

    job: Job
    numbers: range


class Worker:
    """Refines jobs in the order they came, those of one key together.

    A row's result follows from its own seed, canvas and settings, never from its batch.

    Args:
        limits: How many jobs may be here, how many rows go into a batch.
        meter: Told what is done.
    """

    def __init__(self, limits: Limits, meter: Meter) -> None:
        self._limits, self._meter = limits, meter
        self._waiting: list[Job] = []
        self._running = 0
        self._rhythm = Rhythm()
        self._change = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="imadarem-worker", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Take no more jobs, finish those that are here, and end; wait at most so long."""
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and not self._stopping

    @property
    def jobs(self) -> int:
        """Jobs that wait or run."""
        return len(self._waiting) + self._running

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue.

        Raises:
            Refusal: 429 where the queue is full, 503 where the server is stopping.
        """
        with self._change:
            if not self.alive:
                raise Refusal(503, "the server is stopping.", headers={"Retry-After": "10"})
            if self.jobs >= self._limits.queue_jobs:
                raise Refusal(
                    429,
                    f"{self.jobs} requests wait or run, the most that are taken at once.",
                    headers={"Retry-After": "1"},
                )
            self._waiting.append(job)
            self._rhythm.came(time.perf_counter())
            self._meter.waiting.set(self.jobs)
            self._change.notify()

    def cancel(self, job: Job) -> None:
        """Drop a job that nobody waits for; rows in the engine end with their batch."""
        with self._change:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
            self._meter.waiting.set(self.jobs)
        self._meter.cancelled.inc()

    # On the thread

    def _work(self) -> None:
        while True:
            with self._change:
                self._gather()
                if not self._waiting:
                    return
                batch = self._next_batch()
                self._running = sum(not share.job.left for share in batch)
            begun = time.perf_counter()
            found: list[Row] | Exception
            try:
                found = self._refine(batch)
            except _Deserted:
                found = []
            except Exception as error:
                log.exception("a batch of %d rows failed", sum(len(s.numbers) for s in batch))
                found = error
            with self._change:
                # Before anybody is answered: who is may ask again at once.
                self._rhythm.ended(batch[0].job.key, self._running, begun, time.perf_counter())
                self._running = 0
                self._meter.waiting.set(self.jobs)
            self._answer(batch, found)

    def _answer(self, batch: list[Share], found: list[Row] | Exception) -> None:
        """Hand the rows of a batch to their jobs, or the error; no rows where nobody waits."""
        if isinstance(found, Exception):
            for share in batch:
                self._drop(share.job, found)
        elif found:
            owners = ((share.job, number) for share in batch for number in share.numbers)
            for (job, number), row in zip(owners, found, strict=True):
                if not job.cancelled:
                    job.finish(number, row)

    def _gather(self) -> None:
        """Wait for a first job and for those that should share its batch, or for the stop."""
        while not self._stopping:
            if not self._waiting:
                self._change.wait()
                continue
            mates = self._mates()
            full = sum(job.left for job in mates) >= self._capacity(mates)
            seconds = self._rhythm.wait(mates[0].key, time.perf_counter())
            if full or seconds == 0:
                return
            self._change.wait(seconds)

    def _mates(self) -> list[Job]:
        """The first job and those that can share its batch."""
        return [job for job in self._waiting if job.key == self._waiting[0].key]

    def _drop(self, job: Job, error: Exception) -> None:
        with self._change:
            if job in self._waiting:
                self._waiting.remove(job)
        job.fail(error)

    def _next_batch(self) -> list[Share]:
        """Shares for the first job and those of its key; who has rows left goes to the end."""
        mates = self._mates()
        free = self._capacity(mates)
        counts: dict[int, int] = {}
        for most in (TURN, free):
            for job in mates:
                given = min(job.left - counts.get(id(job), 0), most, free)
                counts[id(job)] = counts.get(id(job), 0) + given
                free -= given
        batch = [Share(job, job.take(counts[id(job)])) for job in mates if counts[id(job)]]
        served = [share.job for share in batch]
        others = [job for job in self._waiting if job not in served]
        self._waiting = others + [job for job in served if job.left]
        return batch

    def _capacity(self, mates: list[Job]) -> int:
        longest = max(job.canvas.ids.shape[1] for job in mates)
        affordable = BATCH_WORK // (longest * mates[0].settings.steps)
        return max(1, min(self._limits.batch_rows, affordable))

    def _refine(self, batch: list[Share]) -> list[Row]:
        model, settings = batch[0].job.model, batch[0].job.settings
        canvas = stacked([_rows(share.job.canvas, share.numbers) for share in batch])
        seeds = torch.cat(
            [share.job.seeds[share.numbers.start : share.numbers.stop] for share in batch]
        )
        owners = [(share.job, number) for share in batch for number in share.numbers]
        device = next(model.network.parameters()).device
        begun = time.perf_counter()
        rows = refine_all(
            model.network,
            canvas.to(device),
            seeds.to(device),
            settings,
            teacher=model.network.teacher,
            batch_size=self._limits.batch_rows,
            widths=Widths.of(model.network.config),
            on_step=self._observer(batch, canvas, owners),
        )
        self._meter.batch_seconds.observe(time.perf_counter() - begun)
        self._meter.batch_rows.observe(len(rows))
        self._meter.rows.labels(model.id).inc(len(rows))
        self._meter.passes.labels(model.id).inc(sum(row.forward_passes for row in rows))
        return [Row(refined, model.text(refined.ids.tolist())) for refined in rows]

    def _observer(
        self, batch: list[Share], canvas: Canvas, owners: list[tuple[Job, int]]
    ) -> Callable[[Tensor, Step], None]:
        """Ends a batch that nobody waits for; tells the steps of those that are traced."""
        told = None
        if batch[0].job.traced:
            told = _Telling(canvas, owners)

        def observe(numbers: Tensor, step: Step) -> None:
            if all(share.job.cancelled for share in batch):
                raise _Deserted
            if told is not None:
                told(numbers, step)

        return observe


class _Deserted(Exception):
    """Nobody waits for this batch."""


class _Telling(TrajectoryRecorder):
    """A recorder that hands on each record as it is made, with the text so far."""

    def __init__(self, canvas: Canvas, owners: list[tuple[Job, int]]) -> None:
        first = owners[0][0]
        judge = "entropy" if first.settings.policy.uses_teacher else "gate"
        super().__init__(canvas, first.model.network.tokenizer, judge)
        self._owners, self._model = owners, first.model
        for (job, _), row in zip(owners, self._rows, strict=True):
            job.tell({"start": row.start, "given": row.given, "judge": row.judge})

    def __call__(self, numbers: Tensor, step: Step) -> None:
        super().__call__(numbers, step)
        for number in numbers[step.rows].tolist():
            record = self._rows[number].steps[-1]
            self._owners[number][0].tell({**vars(record), "text": self._text(record)})

    def _text(self, record: RowStep) -> str | None:
        live = zip(record.ids, record.states, strict=True)
        return self._model.text([number for number, state in live if state != "FROZEN"])


def _rows(canvas: Canvas, numbers: range) -> Canvas:
    if len(numbers) == len(canvas):
        return canvas
    keep = torch.zeros(len(canvas), dtype=torch.bool)
    keep[numbers.start : numbers.stop] = True
    return canvas.rows(keep)
