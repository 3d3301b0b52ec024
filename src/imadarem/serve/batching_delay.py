"""How long to wait for more jobs before a batch starts."""

from __future__ import annotations

from collections.abc import Hashable

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
