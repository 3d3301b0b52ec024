"""Molecules that a command found: filters and ranking, then a table, JSON Lines and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter
from rich.text import Text

from imadarem.cli.console import grid, heading, json_line, note, out
from imadarem.cli.models import SAMPLING, SamplingFlags, Switch
from imadarem.cli.numbers import Positive
from imadarem.cli.results import LISTED, OUTPUT, OutputFlags, write_file

if TYPE_CHECKING:
    from imadarem.design.ranking import Ranking

#: Columns of a row that a terminal shows, their heads and their formats.
SHOWN = {
    "smiles": ("molecule", ""),
    "added": ("now", ""),
    "removed": ("instead of", ""),
    "score": ("score", ".3f"),
    "similarity": ("similarity", ".2f"),
    "qed": ("QED", ".2f"),
    "sa": ("SA", ".1f"),
    "weight": ("weight", ".0f"),
    "new_rings": ("new rings", ""),
    "undefined_stereo": ("open stereo", ""),
    "call": ("call", ""),
    "forward_passes": ("passes", ""),
}
#: What is said of the molecules of a task, and where there are too few; else of fragments.
VERIFIED = {"analogues of": "", "samples": ""}
ADVICE = {
    "analogues of": "widen --similar, protect less, or try --temperature or --model",
    "samples": "relax the filters, or draw more",
}
#: Columns that are shown only where a row has something there.
RARE = ("new_rings", "undefined_stereo")


@Parameter(name="*", group=Group("Filters", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class FilterFlags:
    """Which molecules are wanted; others are counted by reason.

    Attributes:
        where: Conditions such as "QED>0.6, MW<450, new_rings=0". Properties: QED, SA, MW, logP,
            TPSA, HBD, HBA, rotatable, rings, aromatic_rings, heavy_atoms, Fsp3, charge, new_rings
            (ring systems that are not in the reference table), odd_groups and undefined_stereo.
        alerts: Reject molecules with a structural alert of these catalogues: PAINS, BRENK, NIH,
            CHEMBL, with commas between them.
    """

    where: str | None = None
    alerts: str | None = None

    @property
    def given(self) -> list[str]:
        """The flags that were given."""
        return [name.replace("_", "-") for name, value in vars(self).items() if value]

    def accept(self) -> Callable[[str], str | None] | None:
        """Why a molecule is not wanted, as a function; None where no flag was given."""
        if not self.where and not self.alerts:
            return None
        from imadarem.design.filters import Filters

        return Filters.of(self.where or "", self.alerts or "").rejection_reason


@Parameter(name="*", group=Group("Ranking", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class RankingFlags:
    """Which of the molecules come first.

    Attributes:
        score: Sort by qed, sa, logp, similarity:SMILES or a function of your own,
            module:function; the highest first.
        top: Keep this many molecules (of each fragment).
        diverse: Keep those that differ the most from each other (MaxMin); with --score, among
            the best 5 times as many.
        isomers: Write the stereoisomers of a molecule with open stereo centres in its place, at
            most this many.
    """

    score: str | None = None
    top: Positive | None = None
    diverse: Switch = False
    isomers: Positive | None = None

    @property
    def given(self) -> list[str]:
        """The flags that were given."""
        return [name for name, value in vars(self).items() if value]

    def ranking(self) -> Ranking:
        """The ranking that the flags name."""
        from imadarem.design.ranking import Ranking
        from imadarem.design.scores import score_named

        score = None if self.score is None else score_named(self.score)
        return Ranking(score, self.top, self.diverse, self.isomers)


@Parameter(name="*", group=Group("Filters", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class AddedPartFlags(FilterFlags):
    """Which molecules are wanted, where a part of them is given.

    Attributes:
        allow_odd: Keep molecules with odd groups, such as enol ethers, polyenes and peroxides, and
            ring systems that are not in the reference table; those of what was given are
            always kept.
    """

    allow_odd: Switch = False


FILTERS, RANKING, ADDED_PART = FilterFlags(), RankingFlags(), AddedPartFlags()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MoleculeFlags:
    """Which molecules are wanted and come first, how they are drawn, and where they go."""

    filtering: FilterFlags = FILTERS
    ranked: RankingFlags = RANKING
    sampling: SamplingFlags = SAMPLING
    output: OutputFlags = OUTPUT

    @property
    def of_molecules(self) -> list[str]:
        """The flags that were given and are for molecules alone."""
        return [*self.filtering.given, *self.ranked.given]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class GrownFlags(MoleculeFlags):
    """The same for molecules of which a part is given."""

    filtering: AddedPartFlags = ADDED_PART


MOLECULES, GROWN = MoleculeFlags(), GrownFlags()


def summary(task: str, given: str | None, made: Any, asked: int) -> dict[str, Any]:
    """What became of one thing that was given; ``made`` as ``complete`` or ``analogues`` returns.

    ``asked`` is the number of molecules that were wanted.
    """
    return {
        "task": task,
        "given": given,
        "molecules": len(made.rows),
        "asked": asked,
        "draws": made.draws,
        "lost": made.lost,
        "shown_by": made.shown_by,
    }


def molecule_row(
    smiles: str, before: Mapping[str, Any], behind: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of a table: a molecule with its properties, between other columns."""
    from imadarem.design.filters import property_columns

    return {"smiles": smiles, **before, **property_columns(smiles), **behind}


def deliver_molecules(
    found: Sequence[Mapping[str, Any]],
    summaries: Sequence[Mapping[str, Any]],
    output: OutputFlags,
    seconds: float,
    failures: Sequence[str] = (),
) -> int:
    """Write the files that were asked for, then print.

    Args:
        found: Rows; ``given`` says to which summary one belongs.
        summaries: One of :func:`summary` for each thing that was given.
        output: Where everything goes.
        seconds: That it took.
        failures: Of the score.

    Returns:
        The exit code: 1 where fewer molecules were found than requested.
    """
    for path in (output.out, output.grid):
        if path is not None:
            write_file(found, path)
    if output.json:
        for row in found:
            json_line({"kind": "molecule", **row})
        for line in summaries:
            json_line({"kind": "summary", **line})
        json_line({"kind": "time", "seconds": seconds})
    else:
        for line in summaries:
            _show([row for row in found if row.get("given") == line["given"]], line)
    if failures:
        note(f"{len(failures):,} molecules have no score: {failures[0]}", "yellow")
    return 0 if all(line["molecules"] >= line["asked"] for line in summaries) else 1


def _show(rows: Sequence[Mapping[str, Any]], line: Mapping[str, Any]) -> None:
    heading(f"{line['task']} {line['given'] or ''}".rstrip())
    out().print(molecule_table(rows[:LISTED]))
    if len(rows) > LISTED:
        rest = f"… and {len(rows) - LISTED:,} more (--out FILE or --json has all)"
        out().print(Text(rest, "dim"))
    out().print(Text(_sentence(line, len(rows)), "bold"))
    if line["shown_by"]:
        pairs = ", ".join(f"{b or 'nothing'} for {a}" for a, b in line["shown_by"].items())
        note(f"the model's vocabulary lacks part of what was given, so it read {pairs}")


def molecule_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The columns of rows that are worth showing, as a table for a terminal."""
    names = [n for n in SHOWN if any(n in row for row in rows)]
    names = [n for n in names if n not in RARE or any(row.get(n) for row in rows)]
    cells = [[_cell(row.get(name), SHOWN[name][1]) for name in names] for row in rows]
    left = 1 + sum(name in ("added", "removed") for name in names)
    return grid([SHOWN[name][0] for name in names], cells, left=left)


def _cell(value: Any, form: str) -> str:
    return "none" if value is None else format(value, form)


def _sentence(line: Mapping[str, Any], shown: int) -> str:
    """``16 molecules of 21 drawn, each with all fragments; rejected: 5 repeated``."""
    n = line["molecules"]
    text = f"{n:,} molecule{'s' * (n != 1)} of {line['draws']:,} drawn"
    text += VERIFIED.get(line["task"], ", each with all fragments") if n else ""
    text += f", {shown:,} kept" if shown < n else ""
    text += f"; rejected: {reasons(line['lost'])}" if line["lost"] else ""
    if n < line["asked"]:
        hint = ADVICE.get(line["task"], "try --max-blanks, --temperature or --model")
        text += f". {line['asked']:,} were requested: {hint}"
    return text


def reasons(lost: Mapping[str, int]) -> str:
    """``5 repeated, 2 not MW<450``."""
    return ", ".join(f"{count:,} {reason}" for reason, count in lost.items())
