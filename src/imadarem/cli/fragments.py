"""The flags of constrained generation, and its results as a table, JSON Lines and files."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from rich.text import Text

from imadarem.cli.console import grid, heading, json_line, note, out, progress_bar
from imadarem.cli.numbers import Positive
from imadarem.cli.results import LISTED, OutputFlags, write_grid
from imadarem.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from imadarem.design.completion import Completions, FragmentTask
    from imadarem.design.scores import Score

__all__ = ["FRAGMENTS", "Found", "FragmentFlags", "described", "fill_fragments", "molecule_file"]


Repeated = Parameter(negative="")


@Parameter(name="*", group=Group("Fragments", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class FragmentFlags:
    """What every molecule must contain.

    Attributes:
        linker: Two fragments to join, with one attachment point each.
        motif: A fragment to extend at its attachment point.
        scaffold: A fragment to extend at each of its attachment points.
        superstructure: A fragment without attachment points, to extend anywhere.
        min_blanks: Minimum number of tokens that the model writes.
        max_blanks: Maximum number of tokens that the model writes.
        score: Sort by qed, sa, logp, similarity:SMILES or a function of your own,
            module:function; the highest first.
        top: Keep the molecules with the highest scores, this many for each fragment.
    """

    linker: Annotated[list[tuple[str, str]] | None, Repeated] = None
    motif: Annotated[list[str] | None, Repeated] = None
    scaffold: Annotated[list[str] | None, Repeated] = None
    superstructure: Annotated[list[str] | None, Repeated] = None
    min_blanks: Positive | None = None
    max_blanks: Positive | None = None
    score: str | None = None
    top: Positive | None = None

    def tasks(self) -> list[FragmentTask]:
        """The tasks that the flags name, read and checked.

        Raises:
            ConfigError: A number is out of range.
            DataError: A fragment cannot be read.
        """
        from imadarem.design.completion import FragmentTask

        if (self.min_blanks or 1) > (self.max_blanks or math.inf):
            raise ConfigError(
                f"--min-blanks {self.min_blanks} is more than --max-blanks {self.max_blanks}."
            )
        tasks = [FragmentTask.of("linker", *pair) for pair in self.linker or ()]
        for kind in ("motif", "scaffold", "superstructure"):
            tasks += [FragmentTask.of(kind, text) for text in getattr(self, kind) or ()]
        return tasks

    @property
    def idle(self) -> list[str]:
        """The flags that were given and have an effect on fragments alone."""
        names = ("min_blanks", "max_blanks", "score", "top")
        return [name.replace("_", "-") for name in names if getattr(self, name) is not None]

    @property
    def given(self) -> bool:
        """Whether a fragment was given."""
        return any((self.linker, self.motif, self.scaffold, self.superstructure))


FRAGMENTS = FragmentFlags()


@dataclass(frozen=True, kw_only=True)
class Found:
    """A molecule that has what was given.

    Attributes:
        smiles: Canonical SMILES.
        given: The fragments, as they were given.
        score: What it was ranked by.
        qed: Drug-likeness in [0, 1].
        sa: Synthetic accessibility, 1 (easy) to 10.
        weight: In daltons.
        forward_passes: Passes of the network it cost.
    """

    smiles: str
    given: str
    score: float | None
    qed: float
    sa: float
    weight: float
    forward_passes: int


def fill_fragments(
    model: Any, flags: FragmentFlags, count: int, output: OutputFlags, settings: dict[str, Any]
) -> int:
    """Complete the fragments, say what was lost and why, and deliver the molecules.

    Returns:
        0, or 1 where a fragment got fewer molecules than requested.
    """
    from imadarem.design.completion import complete
    from imadarem.design.scores import score_named

    tasks = flags.tasks()
    score = None if flags.score is None else score_named(flags.score)
    value = _Values(score)
    found: list[Found] = []
    summaries: list[dict[str, Any]] = []
    start = time.perf_counter()
    with progress_bar("filling", count * len(tasks)) as advance:
        for task in tasks:
            made = complete(
                model,
                task,
                count,
                blanks=(flags.min_blanks, flags.max_blanks),
                on_rows=advance,
                **settings,
            )
            name = " ".join(fragment.smiles for fragment in task.fragments)
            rows = [
                described(row.smiles, name, value(row.smiles), row.forward_passes)
                for row in made.rows
                if row.smiles is not None
            ]
            rows.sort(key=lambda row: -math.inf if row.score is None else row.score, reverse=True)
            found += rows[: flags.top]
            summaries.append(_summary(task, name, made, count))
    seconds = time.perf_counter() - start
    _deliver(found, summaries, output, seconds, score)
    if value.failures:
        note(f"{len(value.failures):,} molecules have no score: {value.failures[0]}", "yellow")
    return 0 if all(line["molecules"] == count for line in summaries) else 1


class _Values:
    """The score of each molecule, None where there is no score or it failed.

    Attributes:
        failures: Why it failed, one text for each molecule.
    """

    def __init__(self, score: Score | None) -> None:
        self.score = score
        self.failures: list[str] = []

    def __call__(self, smiles: str) -> float | None:
        try:
            return None if self.score is None else self.score(smiles)
        except TrainingError as error:
            self.failures.append(str(error))
            return None


def described(smiles: str, given: str, score: float | None, passes: int) -> Found:
    """A molecule with what a chemist wants to know of it."""
    from imadarem.evaluation.chemistry import describe

    features = describe(smiles, filters=False)
    assert features is not None
    return Found(
        smiles=smiles,
        given=given,
        score=score,
        qed=features.qed,
        sa=features.sa,
        weight=features.weight,
        forward_passes=passes,
    )


def _summary(task: FragmentTask, name: str, made: Completions, count: int) -> dict[str, Any]:
    return {
        "task": task.kind,
        "given": name,
        "molecules": len(made.rows),
        "asked": count,
        "draws": made.draws,
        "lost": made.lost,
        "shown_by": made.shown_by,
    }


def _deliver(
    found: Sequence[Found],
    summaries: Sequence[dict[str, Any]],
    output: OutputFlags,
    seconds: float,
    score: Score | None,
) -> None:
    if output.out is not None:
        molecule_file(found, output.out)
    if output.grid is not None:
        write_grid([row.smiles for row in found], output.grid)
    if output.json:
        for row in found:
            # JSON has no infinity: a molecule that the score had no number for.
            known = row.score is not None and math.isfinite(row.score)
            json_line({"kind": "molecule", **vars(row), "score": row.score if known else None})
        for line in summaries:
            json_line({"kind": "summary", **line})
        json_line({"kind": "time", "seconds": seconds})
        return
    _show(found, summaries, score)


def _show(found: Sequence[Found], summaries: Sequence[dict[str, Any]], score: Score | None) -> None:
    for line in summaries:
        rows = [row for row in found if row.given == line["given"]]
        heading(f"{line['task']} {line['given']}")
        names = ["molecule", "QED", "SA", "weight", "passes"]
        cells = [_cells(row) for row in rows[:LISTED]]
        if score is not None:
            names.insert(1, score.name.partition(":")[0])
            cells = [(c[0], _score(r), *c[1:]) for c, r in zip(cells, rows, strict=False)]
        out().print(grid(names, cells))
        if len(rows) > LISTED:
            rest = f"… and {len(rows) - LISTED:,} more (--out FILE or --json has all)"
            out().print(Text(rest, "dim"))
        out().print(Text(_sentence(line), "bold"))
        if line["shown_by"]:
            pairs = ", ".join(f"{b or 'nothing'} for {a}" for a, b in line["shown_by"].items())
            note(f"the model's vocabulary lacks part of the fragment, so it read {pairs}")


def _score(row: Found) -> str:
    return "failed" if row.score is None else f"{row.score:.3f}"


def _cells(row: Found) -> tuple[object, ...]:
    values = (f"{row.qed:.2f}", f"{row.sa:.1f}", f"{row.weight:.0f}")
    return (row.smiles, *values, row.forward_passes)


def _sentence(line: dict[str, Any]) -> str:
    """``16 molecules of 21 drawn, each with all fragments; rejected: 5 repeated``."""
    n = line["molecules"]
    text = f"{n:,} molecule{'s' * (n != 1)} of {line['draws']:,} drawn"
    text += ", each with all fragments" if n else ""
    lost = ", ".join(f"{count:,} {reason}" for reason, count in line["lost"].items())
    text += f"; rejected: {lost}" if lost else ""
    if n < line["asked"]:
        requested = f"{line['asked']:,} were requested"
        text += f". {requested}: try --max-blanks, --temperature or --model"
    return text


def molecule_file(found: Sequence[Found], path: Path) -> None:
    """Write the molecules: .csv with all that is known of them, else a SMILES a line."""
    from imadarem.files import write_text

    if path.suffix == ".csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        names = ("smiles", "given", "score", "qed", "sa", "weight", "forward_passes")
        writer.writerow(names)
        for row in found:
            values = (getattr(row, name) for name in names)
            writer.writerow("" if value is None else value for value in values)
        write_text(buffer.getvalue(), path)
    else:
        write_text("".join(f"{row.smiles}\n" for row in found), path)
    note(f"wrote {len(found):,} molecules to {path}")
