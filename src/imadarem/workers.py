"""The same work on many items, over processes when asked for, with progress told."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing.pool import Pool
from typing import TypeVar

from imadarem.errors import ConfigError

__all__ = ["Progress", "Workers"]

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``, in the calling process."""

CHUNK = 64

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Worker processes for the length of a ``with`` block, started when first needed.

    They are spawned, not forked: a fork of a process in which torch runs threads can
    hang. A script that asks for them therefore needs ``if __name__ == "__main__":``.

    Args:
        processes: How many; ``None`` or 1 works in this process.
        progress: Told after every chunk of items.

    Raises:
        ConfigError: ``processes`` is below 1.
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
        if self.processes == 1 or len(items) <= CHUNK:
            return self._collected(stage, map(work, items), len(items))
        if self._pool is None:
            self._pool = multiprocessing.get_context("spawn").Pool(self.processes)
        return self._collected(stage, self._pool.imap(work, items, CHUNK), len(items))

    def advance(self, stage: str) -> Callable[[int, int], None] | None:
        """``advance(done, total)`` of one stage, for work that is not done in ``map``."""
        return None if self.progress is None else partial(self.progress, stage)

    def _collected(self, stage: str, results: Iterable[Result], total: int) -> list[Result]:
        collected = []
        for done, result in enumerate(results, start=1):
            collected.append(result)
            if self.progress is not None and (done % CHUNK == 0 or done == total):
                self.progress(stage, done, total)
        return collected
