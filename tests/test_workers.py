"""Work over processes: the same results in the same order, and no process where there is little."""

from __future__ import annotations

import operator
import os

import pytest

from imadarem.workers import Workers


def process_of(item: int) -> int:
    return os.getpid()


def test_little_work_is_done_in_this_process():
    with Workers(2) as workers:
        assert set(workers.map("stage", process_of, range(1_000))) == {os.getpid()}


@pytest.mark.slow
def test_what_takes_long_goes_on_in_other_processes(monkeypatch):
    # The beginning, ten items within the two seconds, an eleventh after three; the next stage.
    times = iter([*[0.0] * 11, 3.0, 4.0])
    monkeypatch.setattr("imadarem.workers.monotonic", lambda: next(times))
    told = []
    with Workers(2, lambda *step: told.append(step)) as workers:
        found = workers.map("stage", operator.neg, range(1_000))
        pids = workers.map("who", process_of, range(1_000))
    assert found == [-n for n in range(1_000)]
    assert told[0] == ("stage", 64, 1_000) and ("stage", 1_000, 1_000) in told
    # The processes are there: the next stage has them from its first item on.
    assert os.getpid() not in pids
