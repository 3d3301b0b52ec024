"""The same work on many items, over processes where there are several, with progress."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.pool import Pool
from time import monotonic
from typing import TypeVar

from imadarem.errors import ConfigError

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``, in the calling process."""

CHUNK = 64
#: Seconds that the calling process works alone: starting the others takes about as long.
PATIENCE = 2.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Worker processes for the length of a ``with`` block, started once work takes two seconds.

    They are spawned, not forked: a fork of a process in which torch runs threads can
    hang. A script that asks for them therefore needs ``if __name__ == "__main__":``.

    Args:
        processes: How many; ``None`` or 1 works in this process.
        progress: Told after every chunk of items.
    """

    def __init__(self, processes: int | None = None, progress: Progress | None = None) -> None:
        if processes is not None and processes < 1:
            raise ConfigError(f"processes is {processes}; give 1 or more, or None for this one.")
        self.processes = processes or 1
        self.progress = progress
        self._pool: Pool | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *reason: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
            self._pool = None

    def map(
        self, stage: str, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> list[Result]:
        """``[work(item) for item in items]``; ``work`` and its results must pickle."""
        collected = []
        for done, result in enumerate(self._results(work, items), start=1):
            collected.append(result)
            if self.progress is not None and (done % CHUNK == 0 or done == len(items)):
                self.progress(stage, done, len(items))
        return collected

    def advance(self, stage: str) -> Callable[[int, int], None] | None:
        """``advance(done, total)`` of one stage, for work that is not done in ``map``."""
        return None if self.progress is None else partial(self.progress, stage)

    def _results(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        start = monotonic()
        for done, item in enumerate(items):
            many = self.processes > 1 and len(items) - done > CHUNK
            if many and self._pool is None and monotonic() - start >= PATIENCE:
                self._pool = multiprocessing.get_context("spawn").Pool(self.processes)
            if many and self._pool is not None:
                yield from self._pool.imap(work, items[done:], CHUNK)
                return
            yield work(item)
