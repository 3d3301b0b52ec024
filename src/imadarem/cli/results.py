"""Finished samples: judged, shown as a table or JSON Lines, and written to files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter
from rich.text import Text

from imadarem.cli.console import grid, json_line, note, out
from imadarem.cli.models import Switch, is_molecular
from imadarem.errors import ConfigError, MissingExtraError, MissingLibraryError

if TYPE_CHECKING:
    from imadarem.model import ImplicitRefinementModel
    from imadarem.sampling.batching import Samples

#: Samples listed in a table; more belong in a file.
LISTED = 50
#: How often a row that is no molecule is drawn again.
REDRAWS = 20
ENDINGS = (".smi", ".csv", ".selfies", ".txt")
"""Endings of files that hold every sample, broken ones included; others hold molecules."""


@Parameter(name="*", group=Group("Output", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """Where the samples go.

    Attributes:
        out: Also write the samples to a file ending in .smi, .csv, .selfies or .txt, or the
            valid molecules in .tsv, .sdf, .sdf.gz, .parquet, .svg or .png.
        grid: Also draw the valid molecules in this .svg or .png file.
        json: Print JSON Lines instead of a table.
        python: Print the Python that makes the same molecules, and do nothing else.
    """

    out: Path | None = None
    grid: Path | None = None
    json: Switch = False
    python: Switch = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the files within a ``with`` block."""
        from imadarem.locks import exclusive

        with ExitStack() as locks:
            for path in (self.out, self.grid):
                if path is not None:
                    locks.enter_context(exclusive(path))
            yield

    def check(self, tokenizer: Any) -> None:
        """Refuse what could not be written, before any work is done."""
        notation = getattr(tokenizer, "notation", "text")
        if self.out is not None:
            from imadarem.data.molecule_rows import FORMATS

            ending = file_format(self.out)
            legal = dict.fromkeys((*ENDINGS, *FORMATS))
            if ending not in legal:
                raise ConfigError(f"--out {self.out} must end in one of {', '.join(legal)}.")
            if ending == ".selfies" and notation != "selfies":
                raise ConfigError(f"--out {self.out}: this model writes {notation}, not SELFIES.")
            if ending not in (".csv", ".txt") and not is_molecular(tokenizer):
                raise ConfigError(f"--out {self.out}: this model writes {notation}; use .txt.")
        self.check_grid()
        if self.grid is not None and not is_molecular(tokenizer):
            raise ConfigError(f"--grid draws molecules, and this model writes {notation}.")

    def check_grid(self) -> None:
        """Refuse a picture of another format."""
        if self.grid is not None and self.grid.suffix not in (".svg", ".png"):
            raise ConfigError(f"--grid {self.grid} must end in .svg or .png.")

    def check_molecules(self) -> None:
        """Refuse a file of anything else than molecules with columns."""
        from imadarem.data.molecule_rows import FORMATS

        if self.out is not None and file_format(self.out) not in FORMATS:
            raise ConfigError(
                f"--out {self.out} must end in one of {', '.join(FORMATS)} for molecules with "
                "properties."
            )


OUTPUT = OutputFlags()


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """One sample.

    Attributes:
        text: What the model wrote, as SMILES where it is a molecule.
        notation: The same in the tokenizer's notation, where that differs.
        canonical: Canonical SMILES of a valid molecule.
        valid: Whether it is a molecule; None where that is no question.
        steps: Refinement steps it took.
        forward_passes: Passes of the network it cost.
        stopping_reason: Why it took no further step.
        candidates: Rows drawn for this one: more than one where some were no molecules.
    """

    text: str
    notation: str | None
    canonical: str | None
    valid: bool | None
    steps: int
    forward_passes: int
    stopping_reason: str
    candidates: int = 1

    @property
    def best_text(self) -> str:
        """Canonical SMILES of a valid molecule, else what the model wrote."""
        return self.text if self.canonical is None else self.canonical


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Judged samples and how long they took.

    Attributes:
        rows: In the order they were asked for.
        seconds: Time of the sampling alone, without loading.
    """

    rows: list[SampleRow]
    seconds: float

    @property
    def drawn(self) -> int:
        """Rows that were drawn for these, those drawn again included."""
        return sum(row.candidates for row in self.rows)

    @property
    def valid(self) -> list[str]:
        """Canonical SMILES of the valid molecules, repetitions included."""
        return [row.canonical for row in self.rows if row.canonical is not None]

    @property
    def are_molecules(self) -> bool:
        """Whether validity was judged."""
        return self.rows[0].valid is not None

    def summary(self) -> dict[str, Any]:
        """Figures of the whole: shares in [0, 1], ``unique`` among the valid ones."""
        n = len(self.rows)
        counted = self.valid if self.are_molecules else [row.text for row in self.rows]
        return {
            "samples": n,
            "valid": len(self.valid) / n if self.are_molecules else None,
            "unique": len(set(counted)) / len(counted) if counted else None,
            "forward_passes": mean(row.forward_passes for row in self.rows),
            "seconds": self.seconds,
            "samples_per_second": n / self.seconds,
            "drawn": self.drawn,
        }

    def show(self) -> None:
        """The table and the line below it, on stdout."""
        console = out()
        console.print(self._table())
        if len(self.rows) > LISTED:
            rest = len(self.rows) - LISTED
            console.print(Text(f"… and {rest:,} more (--out FILE or --json has all)", "dim"))
        console.print(Text(f"\n{self.summary_line()}", style="bold"))

    def summary_line(self) -> str:
        """``16 samples, 100 % valid, …``."""
        figures = self.summary()
        parts = [f"{figures['samples']:,} sample{'s' if figures['samples'] > 1 else ''}"]
        if self.drawn > len(self.rows):
            parts[0] += f" of {self.drawn:,} rows"
        if figures["valid"] is not None:
            parts.append(f"{share(figures['valid'])} valid")
        if figures["unique"] is not None:
            parts.append(f"{share(figures['unique'])} unique")
        parts.append(f"{figures['forward_passes']:.1f} forward passes each")
        parts.append(f"{figures['samples_per_second']:,.1f} samples/s")
        return ", ".join(parts)

    def print_json(self) -> None:
        """One object per sample, then one of the whole."""
        for row in self.rows:
            json_line({"kind": "sample", **vars(row)})
        json_line({"kind": "summary", **self.summary()})

    def write(self, path: Path) -> None:
        """Write the samples in the format of the file's ending.

        A format of text, one of :data:`ENDINGS`, has every sample, the valid ones as canonical
        SMILES. Other formats, such as SDF and pictures, have the valid ones alone.
        """
        from imadarem.files import write_text

        if file_format(path) not in ENDINGS:
            write_file([{"smiles": smiles} for smiles in self.valid], path)
            return
        write_text(self.to_text(path.suffix), path)
        note(f"wrote {len(self.rows):,} samples to {path}")

    def to_text(self, ending: str, *, begins: bool = True) -> str:
        """The samples in the format of a file's ending; a table's head only if it ``begins``."""
        if ending == ".csv":
            return self._csv(begins)
        lines = [row.best_text for row in self.rows]
        if ending == ".selfies":
            lines = [row.notation or "" for row in self.rows]
        return "".join(f"{line}\n" for line in lines)

    def _csv(self, begins: bool) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        name = "smiles" if self.are_molecules else "text"
        if begins:
            writer.writerow([name, "valid", "steps", "forward_passes", "stopping_reason"])
        for row in self.rows:
            valid = "" if row.valid is None else int(row.valid)
            work = (row.steps, row.forward_passes, row.stopping_reason)
            writer.writerow([row.best_text, valid, *work])
        return buffer.getvalue()

    def _table(self) -> Any:
        listed = self.rows[:LISTED]
        if not self.are_molecules:
            cells = [(r.text, r.stopping_reason, _passes(r)) for r in listed]
            return grid(("sample", "stopped", "passes"), cells)
        names = ("molecule", "valid", "QED", "SA", "weight", "stopped", "passes")
        return grid(names, [_molecule_cells(row) for row in listed])


def judge(samples: Samples, tokenizer: Any, seconds: float) -> Outcome:
    """Decode samples and, where they are molecules and RDKit is here, parse them."""
    return judge_by(parser(tokenizer), samples, tokenizer, seconds)


def judge_by(
    parse: Callable[[str], str | None] | None, samples: Samples, tokenizer: Any, seconds: float
) -> Outcome:
    """Decode samples and give them the canonical form that ``parse`` finds, if there is one."""
    spelled = getattr(tokenizer, "notation", None) in ("selfies", "safe")
    rows = []
    for text, refined in zip(samples.texts, samples.rows, strict=True):
        form = parse(text) if parse else None
        rows.append(
            SampleRow(
                text=text,
                notation=tokenizer.decode_notation(refined.ids) if spelled else None,
                canonical=form,
                valid=form is not None if parse else None,
                steps=refined.steps,
                forward_passes=refined.forward_passes,
                stopping_reason=refined.reason.label,
                candidates=refined.candidates,
            )
        )
    return Outcome(rows=rows, seconds=seconds)


def deliver(outcome: Outcome, output: OutputFlags) -> None:
    """Write the files that were asked for, then print: a closed pipe loses no file."""
    if output.out is not None:
        outcome.write(output.out)
    if output.grid is not None:
        write_file([{"smiles": smiles} for smiles in outcome.valid], output.grid)
    if output.json:
        outcome.print_json()
    else:
        outcome.show()


def share(value: float) -> str:
    """A share as a percentage: whole where that is exact enough to be honest."""
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def file_format(path: Path) -> str:
    """The ending of a file, ``.sdf.gz`` as one."""
    return ".sdf.gz" if path.name.endswith(".sdf.gz") else path.suffix


def write_file(rows: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Write molecules in the format of a file; False, with a hint, where it cannot be."""
    from imadarem.data.molecule_rows import write_rows

    if not rows:
        note(f"there is no valid molecule, so {path} was not written", style="yellow")
        return False
    try:
        written = write_rows(rows, path)
    except MissingLibraryError as error:
        note(f"{path} was not drawn: {error}", style="yellow")
        return False
    of_all = f" of {len(rows):,}" if written < len(rows) else ""
    verb = "drew" if path.suffix in (".svg", ".png") else "wrote"
    note(f"{verb} {written:,}{of_all} molecules {'in' if verb == 'drew' else 'to'} {path}")
    return True


def _molecule_cells(row: SampleRow) -> tuple[object, ...]:
    work = (row.stopping_reason, _passes(row))
    if row.canonical is None:
        return (Text(row.text, "red"), Text("no", "red"), "", "", "", *work)
    from imadarem.evaluation.chemistry import describe

    found = describe(row.canonical, filters=False)
    values = (f"{found.qed:.2f}", f"{found.sa:.1f}", f"{found.weight:.0f}") if found else ("",) * 3
    return (row.canonical, Text("yes", "green"), *values, *work)


def _passes(row: SampleRow) -> str:
    """``6``, or ``12 in 6 steps`` where a teacher or a gate round took passes of its own."""
    if row.steps == row.forward_passes:
        return str(row.steps)
    return f"{row.forward_passes} in {row.steps} steps"


def redrawing(model: ImplicitRefinementModel, keep_invalid: bool) -> dict[str, Any]:
    """The settings of ``sample`` and ``infill`` under which invalid molecules are drawn again."""
    if keep_invalid and not is_molecular(model.tokenizer):
        raise ConfigError("--keep-invalid is for molecules; this model writes texts.")
    if keep_invalid or parser(model.tokenizer) is None:
        return {}
    from imadarem.data.molecules import is_molecule

    # The canonical forms are found once, of the rows that are kept.
    return {"verifier": is_molecule, "redraws": REDRAWS}


def parser(tokenizer: Any) -> Callable[[str], str | None] | None:
    """``canonical``, or None where texts are no molecules or, with a hint, RDKit is missing."""
    if not is_molecular(tokenizer):
        return None
    from imadarem.data.molecules import canonical

    try:
        canonical("C")
    except MissingExtraError as error:
        note(f"validity was not checked: {error}", style="yellow")
        return None
    return canonical
