"""What a person or a program reads: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

#: Columns of output that goes to a file or a pipe: enough never to wrap or cut anything.
UNWRAPPED = 10_000
#: Between two lines of progress that is not shown as a bar.
SECONDS_BETWEEN_LINES = 10.0


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Leave the decision to the command line's exit codes; rich would exit 1."""
        raise BrokenPipeError


def speaks() -> bool:
    """Whether this process prints: of several that train together, only the first does."""
    return int(os.environ.get("RANK", "0")) == 0


def out() -> Console:
    """Results, on stdout; a file or a pipe gets unwrapped lines without colours."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNWRAPPED
    return _Console(width=width, highlight=False, quiet=not speaks())


def help_console() -> Console:
    """What the help is printed on: as wide as the terminal, or 80 columns."""
    return _Console(highlight=False)


def err() -> Console:
    """Notes, warnings and progress, on stderr."""
    return _Console(stderr=True, highlight=False, soft_wrap=True, quiet=not speaks())


def note(text: str, style: str = "dim") -> None:
    """One line on stderr, taken literally: ``[C]`` is no markup here."""
    err().print(Text(text, style=style))


def complain(kind: str, message: str) -> None:
    """``error: …`` on one line of stderr, whichever process it is."""
    label = Text(f"{kind}: ", style="bold red" if kind == "error" else "yellow")
    line = label.append(" ".join(message.split()), style="default not bold")
    _Console(stderr=True, highlight=False, soft_wrap=True).print(line)


def json_line(record: dict[str, Any]) -> None:
    """One JSON object on a line of stdout."""
    if speaks():
        sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")


def heading(text: str) -> None:
    """A bold line on stdout with space above it."""
    out().print(Text(f"\n{text}", style="bold"))


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1) -> Table:
    """A table of plain cells, the first ``left`` columns to the left and the rest right.

    Cells are literal text; a :class:`rich.text.Text` keeps its style. Long words fold
    instead of being cut, so that a molecule can always be copied whole.
    """
    named = any(columns)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        show_header=named,
        collapse_padding=True,
    )
    for number, name in enumerate(columns):
        if number < left:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return table


@contextmanager
def progress_bar(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while the block runs; the value is called with newly done items.

    Where stderr is no terminal, a line every ten seconds.
    """
    lines, ready = _ProgressLines(), 0

    def advance(done: int) -> None:
        nonlocal ready
        ready += done
        bars.advance(task, done)
        lines(label, ready, total)

    with _progress() as bars:
        task = bars.add_task(label, total=total)
        yield advance


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on stderr for work in stages; the value is called as (stage, done, total).

    Where stderr is no terminal, a line every ten seconds.
    """
    lines = _ProgressLines()
    with _progress() as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)
            lines(stage, done, total)

        yield tell


class _ProgressLines:
    """Prints how far the work is where stderr is no terminal, every ten seconds."""

    def __init__(self) -> None:
        self.silent = err().is_terminal
        self.last = time.monotonic()

    def __call__(self, label: str, done: int, total: int | None) -> None:
        if self.silent or time.monotonic() - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = time.monotonic()
        note(f"{label}: {done:,}" + ("" if total is None else f" of {total:,}"))


def _progress() -> Progress:
    console = err()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
