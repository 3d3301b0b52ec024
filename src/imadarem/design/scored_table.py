"""The molecules that a search has scored: a table, and the file that holds it."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imadarem.design.pareto import pareto_order
from imadarem.errors import CheckpointError
from imadarem.files import write_text

#: Molecules up to which the fronts of a Pareto search are computed.
FRONTS = 1000
COLUMNS = ("smiles", "score", "call", "generation", "parent", "failure")


@dataclass(frozen=True, slots=True)
class Scored:
    """A molecule that was scored.

    Attributes:
        smiles: Canonical SMILES.
        score: Higher is better; ``-inf`` where the score had no number for it.
        call: Number of the call, from 1.
        generation: 0 for those at the start.
        parent: What it was made from; "" at the start.
        failure: The error that the score raised; "" where it raised none.
        terms: The scores that ``score`` is the weighted mean of, where there are several.
    """

    smiles: str
    score: float
    call: int
    generation: int
    parent: str
    failure: str = ""
    terms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """How far a run is.

    Attributes:
        number: 0 for the start.
        calls: Calls of the score so far.
        best: The best molecule so far.
        mean: Mean score of the population, those without a number left out.
    """

    number: int
    calls: int
    best: Scored
    mean: float


@dataclass
class Evolution:
    """The table of a run.

    Attributes:
        scored: Canonical SMILES → molecule, in the order of the calls.
        lost: Reason → children that were not scored.
        generation: Number of the last one.
        names: Of the terms, where there are several.
        pareto: Whether the best molecules are those that no other one beats in every term.
    """

    scored: dict[str, Scored] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    generation: int = 0
    names: tuple[str, ...] = ()
    pareto: bool = False

    @property
    def failures(self) -> list[Scored]:
        """The molecules for which the score raised an error, in the order of the calls."""
        return [row for row in self.scored.values() if row.failure]

    def best(self, count: int, before: float = math.inf) -> list[Scored]:
        """The molecules of highest score, the earlier one first where they are equal.

        Of a Pareto search, those of the first fronts, as many as a population may have.
        """
        found = (row for row in self.scored.values() if row.generation < before)
        rows = sorted(found, key=lambda row: (-row.score, row.call))
        if self.pareto:
            known = [row for row in rows if math.isfinite(row.score)]
            first = pareto_order(np.array([row.terms for row in known]), min(count, FRONTS))
            chosen = dict.fromkeys(known[i].smiles for i in first)
            rows = [self.scored[s] for s in chosen] + [r for r in rows if r.smiles not in chosen]
        return rows[:count]

    def status(self, population: int) -> Generation:
        """How far the run is."""
        top = self.best(population)
        known = [row.score for row in top if math.isfinite(row.score)]
        mean = sum(known) / len(known) if known else -math.inf
        return Generation(self.generation, len(self.scored), top[0], mean)

    def save(self, path: Path) -> None:
        """Write the table as CSV, best first, whole or not at all."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([*COLUMNS, *self.names])
        for row in self.best(len(self.scored)):
            score = repr(row.score) if math.isfinite(row.score) else ""
            place = (row.call, row.generation, row.parent)
            terms = [repr(term) for term in row.terms] or [""] * len(self.names)
            writer.writerow([row.smiles, score, *place, row.failure, *terms])
        write_text(buffer.getvalue(), path)

    @classmethod
    def load(cls, path: Path) -> Evolution:
        """Read what :meth:`save` wrote. The last generation may be incomplete, so it is repeated.

        Raises:
            CheckpointError: There is no such file, or it is another.
        """
        try:
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                if not set(reader.fieldnames or ()) >= {"smiles", "call"}:
                    raise KeyError("smiles, call")
                names = tuple(n for n in reader.fieldnames or () if n not in COLUMNS)
                table = [_scored(row, names) for row in reader]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not the table of a run: {type(error).__name__}: {error}."
            ) from None
        table.sort(key=lambda row: row.call)
        last = max((row.generation for row in table), default=0)
        scored = {row.smiles: row for row in table}
        return cls(scored, generation=max(last - 1, 0), names=names)


def _scored(row: dict[str, str], names: Sequence[str]) -> Scored:
    return Scored(
        row["smiles"],
        float(row["score"]) if row["score"] else -math.inf,
        int(row["call"]),
        int(row["generation"]),
        row["parent"],
        row.get("failure") or "",
        tuple(float(row[name]) for name in names if row[name]),
    )
