"""Groups of random cases in which no fault may be found: resumable, in several processes.

A group is a pure function of its number: a run that was stopped goes on from the lines of
``--out``. The exit code is 1 if a fault was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

GROUP = 100
#: ``run(number, size)``: the cases of a group, and how many of them have each fault.
Run = Callable[[int, int], dict[str, Any]]


def run_groups(
    about: str | None,
    run: Run,
    faults: Sequence[str],
    arguments: Sequence[str] | None,
    quick: int,
) -> None:
    """The command line; ends the process with the exit code.

    ``quick`` is the number of cases of each of the six groups of ``--quick``.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="one line for each group; goes on where it ends")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help=f"six groups of {quick} cases")
    given = parser.parse_args(arguments)
    size, count = (quick, 6) if given.quick else (GROUP, -(-given.cases // GROUP))
    before = finished(given.out)
    todo = [number for number in range(count) if number not in before]
    begun = time.monotonic()
    lines = list(before.values())[:count]
    for line in run_all(run, todo, size, given.processes):
        lines.append(line)
        if given.out is not None:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    sys.exit(report(lines, faults, size * len(todo), time.monotonic() - begun))


def finished(path: Path | None) -> dict[int, dict[str, Any]]:
    """The groups of earlier runs; a line that a stopped run left unfinished does not count."""
    if path is None or not path.is_file():
        return {}
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return {line["group"]: line for line in map(json.loads, whole.splitlines())}


def run_all(
    run: Run, numbers: Sequence[int], size: int, processes: int
) -> Iterator[dict[str, Any]]:
    sizes = [size] * len(numbers)
    if processes == 1:
        yield from map(run, numbers, sizes)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run, numbers, sizes)


def report(lines: list[dict[str, Any]], faults: Sequence[str], tried: int, seconds: float) -> int:
    """Print the counts; 1 if a fault was found."""
    totals: Counter[str] = Counter()
    for line in lines:
        totals.update({fault: line[fault] for fault in faults})
        if any(line[fault] for fault in faults):
            print(f"FAULT {json.dumps(line)}")
    counts = ", ".join(f"{totals[fault]} {fault}" for fault in faults)
    print(f"{sum(line['cases'] for line in lines)} cases: {counts}")
    if tried:
        print(f"{seconds / tried / 60 * 10_000:.1f} minutes for 10,000 cases")
    return int(any(totals.values()))
