"""Molecules around fragments: the flags, and the rows that are delivered."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from imadarem.cli.console import note, progress_bar
from imadarem.cli.molecule_table import deliver_molecules, molecule_row, summary
from imadarem.cli.numbers import Positive
from imadarem.cli.results import OutputFlags
from imadarem.errors import ConfigError, DataError

if TYPE_CHECKING:
    from imadarem.design.completion import FragmentTask
    from imadarem.design.ranking import Ranking

Repeated = Parameter(negative="")


#: Tasks whose fragments are one text.
ONE_TEXT = ("core", "ring", "motif", "scaffold", "superstructure")


@Parameter(name="*", group=Group("Fragments", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class FragmentFlags:
    """What every molecule must contain; but for --linker, a SMILES or a file of them.

    Attributes:
        linker: Two fragments to join, with one attachment point each.
        core: Two or more substituents with one attachment point each and dots between them; the
            model writes a core that joins them.
        ring: A fragment with two attachment points: close a ring from one to the other.
        motif: A fragment to extend at its attachment point, which is written *.
        scaffold: A fragment to extend at each of its attachment points.
        superstructure: A fragment without attachment points, to extend anywhere.
        min_blanks: Minimum number of tokens that the model writes.
        max_blanks: Maximum number of tokens that the model writes.
    """

    linker: Annotated[list[tuple[str, str]] | None, Repeated] = None
    core: Annotated[list[str] | None, Repeated] = None
    ring: Annotated[list[str] | None, Repeated] = None
    motif: Annotated[list[str] | None, Repeated] = None
    scaffold: Annotated[list[str] | None, Repeated] = None
    superstructure: Annotated[list[str] | None, Repeated] = None
    min_blanks: Positive | None = None
    max_blanks: Positive | None = None

    def tasks(self) -> list[tuple[FragmentTask, dict[str, Any]]]:
        """The tasks that the flags name, read and checked, with the other columns of their file."""
        from imadarem.design.completion import FragmentTask

        if (self.min_blanks or 1) > (self.max_blanks or math.inf):
            raise ConfigError(
                f"--min-blanks {self.min_blanks} is more than --max-blanks {self.max_blanks}."
            )
        tasks: list[tuple[FragmentTask, dict[str, Any]]] = [
            (FragmentTask.of("linker", *pair), {}) for pair in self.linker or ()
        ]
        for kind in ONE_TEXT:
            for row in _rows(getattr(self, kind) or ()):
                tasks.append((FragmentTask.of(kind, row.pop("smiles")), row))
        return tasks

    @property
    def idle(self) -> list[str]:
        """The flags that were given and have an effect on fragments alone."""
        names = ("min_blanks", "max_blanks")
        return [name.replace("_", "-") for name in names if getattr(self, name) is not None]

    @property
    def given(self) -> bool:
        """Whether a fragment was given."""
        return bool(self.linker) or any(getattr(self, kind) for kind in ONE_TEXT)


FRAGMENTS = FragmentFlags()


def _rows(given: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Each text as a row, or the rows of the file that it names."""
    from imadarem.data.molecule_rows import is_file, read_rows

    for text in given:
        if not is_file(text):
            yield {"smiles": text}
            continue
        rows, rejected = read_rows(text)
        if rejected:
            line = rejected[0]
            raise DataError(f"{text}, line {line.line}: {line.text[:60]!r}: {line.reason}.")
        yield from rows


def fill_fragments(
    model: Any,
    flags: FragmentFlags,
    count: int,
    accept: Callable[[str], str | None] | None,
    ranking: Ranking,
    output: OutputFlags,
    settings: dict[str, Any],
) -> int:
    """Complete the fragments, say what was lost and why, and deliver the molecules.

    Returns:
        0, or 1 where a fragment got fewer molecules than requested.
    """
    from imadarem.design.completion import complete

    tasks = flags.tasks()
    found: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    failures: list[str] = []
    start = time.perf_counter()
    with progress_bar("filling", count * len(tasks)) as advance:
        for task, others in tasks:
            made = complete(
                model,
                task,
                count,
                blanks=(flags.min_blanks, flags.max_blanks),
                accept=accept,
                on_rows=advance,
                **settings,
            )
            if task.removed:
                salts = ", ".join(task.removed)
                note(f"left out of {task.kind}: {salts} (a counter-ion or solvent)")
            name = " ".join(fragment.smiles for fragment in task.fragments)
            rows = [
                molecule_row(
                    str(row.smiles),
                    {**others, "given": name},
                    {"forward_passes": row.forward_passes},
                )
                for row in made.rows
            ]
            found += ranking(rows, failures)
            summaries.append(summary(task.kind, name, made, count))
    seconds = time.perf_counter() - start
    return deliver_molecules(found, summaries, output, seconds, failures)
