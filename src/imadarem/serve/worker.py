"""The one thread that runs the models: it joins waiting jobs into batches."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.sampling.batching import Widths, refine_all
from imadarem.sampling.loop import Step
from imadarem.sampling.trajectory import RowStep, TrajectoryRecorder
from imadarem.serve.api_errors import ApiError
from imadarem.serve.canvases import stack_canvases
from imadarem.serve.jobs import Job, QueuedJob, Review, Row
from imadarem.serve.limits import Limits
from imadarem.serve.metrics import Metrics
from imadarem.serve.reviews import review

log = logging.getLogger("imadarem.serve")

#: Most rows of one job in a batch that other jobs wait for too.
ROWS_PER_TURN = 16
#: Most tokens times passes of a batch: about a second of work, so that no job waits for long.
MAX_BATCH_WORK = 65_536
#: Longest waits as fractions of the duration of the last batch: for the first job after it,
#: between two jobs, and in all.
FIRST_WAIT, NEXT_WAIT, TOTAL_WAIT = 1 / 4, 1 / 8, 1 / 2


class BatchingDelay:
    """Computes how long the next batch should wait for more jobs.

    Clients that send the next request as soon as they have an answer would otherwise split
    into two groups, one refined while the other is answered, in half-full batches. So after a
    batch has ended, the next batch with the same key waits until as many jobs have arrived as
    were answered, or until no more arrive, and at most half the duration of the last batch. A
    job that arrives alone, after a pause, or with another key does not wait.

    All times are seconds of one clock. The caller holds a lock during each call.
    """

    def __init__(self) -> None:
        self._key: Hashable = None
        self._expected_jobs = 0
        self._batch_seconds = 0.0
        self._next_deadline = self._last_deadline = float("-inf")

    def batch_ended(self, key: Hashable, answered: int, began: float, now: float) -> None:
        """A batch with this key has ended and ``answered`` jobs with it."""
        self._key, self._expected_jobs = key, answered
        self._batch_seconds = now - began
        self._next_deadline = now + FIRST_WAIT * self._batch_seconds
        self._last_deadline = now + TOTAL_WAIT * self._batch_seconds

    def job_arrived(self, now: float) -> None:
        """A job was put into the queue."""
        self._expected_jobs -= 1
        self._next_deadline = max(self._next_deadline, now + NEXT_WAIT * self._batch_seconds)

    def seconds_to_wait(self, key: Hashable, now: float) -> float:
        """Seconds until a batch with this key should start unless a job arrives; 0: start now."""
        if key != self._key or self._expected_jobs <= 0:
            return 0.0
        return max(0.0, min(self._next_deadline, self._last_deadline) - now)


@dataclass(frozen=True)
class BatchPart:
    """The rows of one job in a batch, in order."""

    job: QueuedJob
    numbers: range


class Worker:
    """Computes jobs in the order they arrived, those with one key together.

    A row's result depends on its own seed, canvas and settings, never on its batch.

    Args:
        limits: How many jobs may wait or run, how many rows go into a batch.
        metrics: Counts what is done.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._waiting: list[QueuedJob] = []
        self._running = 0
        self._delay = BatchingDelay()
        self._change = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="imadarem-worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Accept no more jobs, finish the accepted ones; wait at most ``seconds`` for that."""
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether jobs are accepted."""
        return self._thread.is_alive() and not self._stopping

    @property
    def jobs(self) -> int:
        """Jobs that wait or run."""
        return len(self._waiting) + self._running

    def check_queue(self) -> None:
        """Check that a job would be accepted now."""
        if not self.alive:
            raise ApiError(503, "the server is stopping.", headers={"Retry-After": "10"})
        if self.jobs >= self._limits.queue_jobs:
            raise ApiError(
                429,
                f"{self.jobs} requests wait or run, the most that are accepted at once.",
                headers={"Retry-After": "1"},
            )

    def submit(self, job: QueuedJob) -> None:
        """Put a job at the end of the queue; errors as in :meth:`check_queue`."""
        with self._change:
            self.check_queue()
            self._waiting.append(job)
            self._delay.job_arrived(time.perf_counter())
            self._metrics.queue_jobs.set(self.jobs)
            self._change.notify()

    def cancel(self, job: QueuedJob) -> None:
        """Drop a job that nobody waits for; rows that are being refined end with their batch."""
        with self._change:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
            self._metrics.queue_jobs.set(self.jobs)
        self._metrics.cancelled.inc()

    # On the thread

    def _work(self) -> None:
        while True:
            with self._change:
                self._gather()
                if not self._waiting:
                    return
                batch = self._next_batch()
                self._running = sum(not part.job.rows_left for part in batch)
            began = time.perf_counter()
            result: list[Any] | Exception
            try:
                result = self._run(batch)
            except _AllCancelled:
                result = []
            except Exception as error:
                log.exception("a batch of %d rows failed", sum(len(p.numbers) for p in batch))
                result = error
            with self._change:
                # Before the clients are answered: they may send the next request at once.
                self._delay.batch_ended(batch[0].job.key, self._running, began, time.perf_counter())
                self._running = 0
                self._metrics.queue_jobs.set(self.jobs)
            self._answer(batch, result)

    def _answer(self, batch: list[BatchPart], result: list[Any] | Exception) -> None:
        """Hand the rows of a batch or its error to the jobs; no rows if all were cancelled."""
        if isinstance(result, Exception):
            for part in batch:
                self._drop(part.job, result)
        elif result:
            owners = ((part.job, number) for part in batch for number in part.numbers)
            for (job, number), row in zip(owners, result, strict=True):
                if not job.cancelled:
                    job.finish(number, row)

    def _gather(self) -> None:
        """Wait for a first job and for those that should share its batch, or for the stop."""
        while not self._stopping:
            if not self._waiting:
                self._change.wait()
                continue
            jobs = self._jobs_of_next_batch()
            full = sum(job.rows_left for job in jobs) >= self._capacity(jobs)
            seconds = self._delay.seconds_to_wait(jobs[0].key, time.perf_counter())
            if full or seconds == 0:
                return
            self._change.wait(seconds)

    def _jobs_of_next_batch(self) -> list[QueuedJob]:
        """The first waiting job and those with the same key."""
        return [job for job in self._waiting if job.key == self._waiting[0].key]

    def _drop(self, job: QueuedJob, error: Exception) -> None:
        with self._change:
            if job in self._waiting:
                self._waiting.remove(job)
        job.fail(error)

    def _next_batch(self) -> list[BatchPart]:
        """Rows of the first job and those with its key; jobs with rows left go to the end."""
        jobs = self._jobs_of_next_batch()
        free = self._capacity(jobs)
        counts: dict[int, int] = {}
        for most in (ROWS_PER_TURN, free):
            for job in jobs:
                count = min(job.rows_left - counts.get(id(job), 0), most, free)
                counts[id(job)] = counts.get(id(job), 0) + count
                free -= count
        batch = [BatchPart(job, job.take(counts[id(job)])) for job in jobs if counts[id(job)]]
        served = [part.job for part in batch]
        others = [job for job in self._waiting if job not in served]
        self._waiting = others + [job for job in served if job.rows_left]
        return batch

    def _capacity(self, jobs: list[QueuedJob]) -> int:
        """Most rows of a batch, at least 1: fewer for long canvases and many steps."""
        work = max(job.longest for job in jobs) * max(job.passes for job in jobs)
        affordable = MAX_BATCH_WORK // work
        return max(1, min(self._limits.batch_rows, affordable))

    def _run(self, batch: list[BatchPart]) -> list[Any]:
        """Compute the rows of a batch and count them."""
        model = batch[0].job.model
        began = time.perf_counter()
        rows: list[Any]
        reviews = [(part.job, part.numbers) for part in batch if isinstance(part.job, Review)]
        if reviews:
            rows, passes = review(reviews)
        else:
            rows, passes = self._refine(batch)
        self._metrics.batch_seconds.observe(time.perf_counter() - began)
        self._metrics.batch_rows.observe(len(rows))
        self._metrics.rows.labels(model.id).inc(len(rows))
        self._metrics.passes.labels(model.id).inc(passes)
        return rows

    def _refine(self, batch: list[BatchPart]) -> tuple[list[Row], int]:
        """The refined rows and their forward passes."""
        jobs = [(part.job, part.numbers) for part in batch if isinstance(part.job, Job)]
        model, settings = jobs[0][0].model, jobs[0][0].settings
        canvas = stack_canvases([_rows(job.canvas, numbers) for job, numbers in jobs])
        seeds = torch.cat([job.seeds[numbers.start : numbers.stop] for job, numbers in jobs])
        device = next(model.network.parameters()).device
        rows = refine_all(
            model.network,
            canvas.to(device),
            seeds.to(device),
            settings,
            teacher=model.network.teacher,
            batch_size=self._limits.batch_rows,
            widths=Widths.of(model.network.config),
            on_step=self._observer(jobs, canvas),
        )
        passes = sum(row.forward_passes for row in rows)
        return [Row(refined, model.text(refined.ids.tolist())) for refined in rows], passes

    def _observer(
        self, jobs: list[tuple[Job, range]], canvas: Canvas
    ) -> Callable[[Tensor, Step], None]:
        """Ends a batch that nobody waits for; publishes the steps of traced jobs."""
        owners = [(job, number) for job, numbers in jobs for number in numbers]
        publisher = _StepPublisher(canvas, owners) if jobs[0][0].traced else None

        def observe(numbers: Tensor, step: Step) -> None:
            if all(job.cancelled for job, _ in jobs):
                raise _AllCancelled
            if publisher is not None:
                publisher(numbers, step)

        return observe


class _AllCancelled(Exception):
    """Nobody waits for this batch."""


class _StepPublisher(TrajectoryRecorder):
    """A recorder that publishes each record with the text so far, as JSON.

    The records become JSON here and not on the event loop, which long ones would block.
    """

    def __init__(self, canvas: Canvas, owners: list[tuple[Job, int]]) -> None:
        first = owners[0][0]
        judge = "entropy" if first.settings.policy.uses_teacher else "gate"
        super().__init__(canvas, first.model.network.tokenizer, judge)
        self._owners, self._model = owners, first.model
        for (job, _), row in zip(owners, self._rows, strict=True):
            job.publish(json.dumps({"start": row.start, "given": row.given, "judge": row.judge}))

    def __call__(self, numbers: Tensor, step: Step) -> None:
        super().__call__(numbers, step)
        for number in numbers[step.rows].tolist():
            record = self._rows[number].steps[-1]
            fields = {**vars(record), "text": self._text(record)}
            self._owners[number][0].publish(json.dumps(fields, allow_nan=False))

    def _text(self, record: RowStep) -> str | None:
        live = zip(record.ids, record.states, strict=True)
        return self._model.text([number for number, state in live if state != "FROZEN"])


def _rows(canvas: Canvas, numbers: range) -> Canvas:
    if len(numbers) == len(canvas):
        return canvas
    keep = torch.zeros(len(canvas), dtype=torch.bool)
    keep[numbers.start : numbers.stop] = True
    return canvas.rows(keep)
