"""When the next batch begins: those who were just answered may be about to ask again."""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["Rhythm"]

#: Shares of the time that the last batch took: how long nobody may come at first, how long
#: between two who come, and the whole wait.
FIRST, BETWEEN, WHOLE = 1 / 4, 1 / 8, 1 / 2


class Rhythm:
    """Says how long to wait for more jobs before a batch is begun.

    Clients that ask again as soon as they are answered would fall into two halves: one is
    refined while the other is answered, in batches half as full as they could be. So once a
    batch has ended, the next one of its key waits until as many jobs have come as were
    answered, or until they stop coming, and never longer than half of what the last batch
    took. A job that comes alone, after a pause, or with other settings than the last batch
    had, waits for nobody.

    All times are seconds of one clock, all calls come from the holder of one lock.
    """

    def __init__(self) -> None:
        self._key: Hashable = None
        self._awaited = 0
        self._seconds = 0.0
        self._hope = self._end = float("-inf")

    def ended(self, key: Hashable, answered: int, begun: float, now: float) -> None:
        """A batch of ``key`` has ended, and ``answered`` jobs with it."""
        self._key, self._awaited = key, answered
        self._seconds = now - begun
        self._hope = now + FIRST * self._seconds
        self._end = now + WHOLE * self._seconds

    def came(self, now: float) -> None:
        """A job was put into the queue."""
        self._awaited -= 1
        self._hope = max(self._hope, now + BETWEEN * self._seconds)

    def wait(self, key: Hashable, now: float) -> float:
        """Seconds until a batch of ``key`` should begin, unless another job comes; 0 for now."""
        if key != self._key or self._awaited <= 0:
            return 0.0
        return max(0.0, min(self._hope, self._end) - now)
