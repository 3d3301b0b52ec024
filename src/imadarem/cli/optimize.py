"""``imadarem optimize``: molecules with a high score, written by the model."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from rich.text import Text

from imadarem.cli.console import json_line, note, out, progress_bar
from imadarem.cli.models import SAMPLING, SamplingFlags, Switch, is_molecular, load_model
from imadarem.cli.molecule_table import (
    FILTERS,
    FilterFlags,
    MoleculeFlags,
    molecule_row,
    molecule_table,
    reasons,
)
from imadarem.cli.numbers import Positive, Processes, real
from imadarem.cli.python_call import Code, call, print_program, settings_of
from imadarem.cli.results import OutputFlags, write_file
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.design.evolution import EvolutionSettings
    from imadarem.design.scored_table import Evolution, Generation, Scored
    from imadarem.design.scores import Score
    from imadarem.model import ImplicitRefinementModel

Weight = Annotated[float, real(1e-6, 1e6)]
Seconds = Annotated[float, real(0.001, 1e6)]
#: NaN is not a score that a run could reach.
Target = Annotated[float, real(-math.inf, math.inf)]


@Parameter(name="*", group=Group("Score", sort_key=0))
@dataclass(frozen=True, kw_only=True)
class ScoreFlags:
    """What to search for.

    Attributes:
        score: qed, sa (ease of synthesis), logp, weight, similarity:SMILES, or a Python function of
            your own, module:function, that takes a SMILES and returns a number, or None for no
            number. Higher is better. NAME@LOW..HIGH is the desirability of a window, 0 to 1. Can be
            repeated: the weighted mean counts.
        weight: Weight of each score, in their order; default: equal weights.
        pareto: Search for the molecules that no other one beats in every score.
        score_command: A program that scores: with {smi} for the molecule it runs for each one and
            prints a number last; else it reads a SMILES on each line and prints a number for each.
        score_timeout: Seconds for a molecule, after which its call is given up.
        score_workers: Molecules that are scored at the same time.
    """

    score: Annotated[list[str] | None, Parameter(negative="")] = None
    weight: Annotated[list[Weight] | None, Parameter(negative="")] = None
    pareto: Switch = False
    score_command: str | None = None
    score_timeout: Seconds = 600.0
    score_workers: Processes = 1

    @property
    def names(self) -> list[str]:
        """Of all scores, that of the command last."""
        command = [] if self.score_command is None else [self.score_command]
        return [*(self.score or ()), *command]

    def scores(self) -> list[Score]:
        """The scores."""
        from imadarem.design.score_command import CommandScore
        from imadarem.design.scores import Score, score_named

        if not self.names:
            raise ConfigError("name what to search for with --score or --score-command.")
        found = [score_named(name) for name in self.score or ()]
        if self.score_command is not None:
            command = CommandScore(self.score_command, self.score_timeout)
            found.append(Score(self.score_command, command))
        return found


GOAL = ScoreFlags()


@Parameter(name="*", group=Group("Search", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class SearchFlags:
    """How to search.

    Attributes:
        budget: Maximum number of calls of the score.
        population: Number of best molecules that serve as parents.
        children: Number of molecules scored in each generation.
        prescreen: Rows that the model writes for each of them; the scores of similar molecules
            say which ones are worth a call. 1 scores all of them.
        per_scaffold: Maximum number of parents with the same Murcko scaffold.
        until: Stop at this score.
        start: First parents: moses-sample or a file of molecules, from which --seed draws as
            many as --population; default: samples of the model.
        column: The column of a table that holds the SMILES of --start.
        scaffold: A fragment that every molecule must contain; if it has attachment points,
            nothing is attached elsewhere.
        similar_to: A molecule to which every molecule must be similar.
        least_similarity: Minimum Tanimoto similarity to it, 0 to 1.
    """

    budget: Positive = 2000
    population: Positive = 100
    children: Positive = 64
    prescreen: Positive = 4
    per_scaffold: Positive | None = None
    until: Target | None = None
    start: str | None = None
    column: str | None = None
    scaffold: str | None = None
    similar_to: str | None = None
    least_similarity: float | None = None

    def settings(self, goal: ScoreFlags, seed: int, filters: FilterFlags) -> EvolutionSettings:
        """The same for the search, checked."""
        from imadarem.design.evolution import EvolutionSettings

        own = {k: v for k, v in vars(self).items() if k not in ("start", "column")}
        return EvolutionSettings(
            score=" ".join(goal.names),
            weights=tuple(goal.weight or ()),
            pareto=goal.pareto,
            workers=goal.score_workers,
            seed=seed,
            where=filters.where or "",
            alerts=filters.alerts or "",
            **own,
        )


@Parameter(name="*", group=Group("Output", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class BestFlags:
    """Where the molecules go.

    Attributes:
        out: Every scored molecule, highest score first: in a .csv file that is written after each
            generation, or after the search as .tsv, .smi, .sdf, .sdf.gz, .parquet, .svg or .png.
        resume: Continue the run of --out (.csv), or start it.
        reason: With --resume: why another --score, --weight or --pareto is given. The molecules
            are scored again; the reason is kept in FILE.settings.json.
        top: Number of molecules to show.
        diverse: Show those of the best 5 times as many that differ the most from each other.
        grid: Also draw them in this .svg or .png file.
        json: Print JSON Lines: each generation, then the best molecules.
        python: Print the Python that makes the same search, and do nothing else.
    """

    out: Path | None = None
    resume: Switch = False
    reason: str | None = None
    top: Positive = 10
    diverse: Switch = False
    grid: Path | None = None
    json: Switch = False
    python: Switch = False

    @property
    def table(self) -> Path | None:
        """The file that holds the state of the run."""
        return self.out if self.out is not None and self.out.suffix == ".csv" else None

    def check(self) -> None:
        """Refuse what could not be written."""
        files = OutputFlags(out=self.out, grid=self.grid)
        files.check_molecules()
        files.check_grid()
        if self.resume and self.out is not None and self.table is None:
            raise ConfigError(f"--resume continues a .csv file; --out is {self.out}.")
        if self.reason is not None and not self.resume:
            raise ConfigError("--reason says why a resumed run changes; add --resume.")


SEARCH, BEST = SearchFlags(), BestFlags()


def optimize(
    *,
    goal: ScoreFlags = GOAL,
    search: SearchFlags = SEARCH,
    filtering: FilterFlags = FILTERS,
    output: BestFlags = BEST,
    sampling: SamplingFlags = SAMPLING,
) -> int:
    """Search for molecules with a high score, by an evolutionary search whose mutations the
    model writes.

    **Examples**

    ```
    imadarem optimize --score qed --out best.csv
    imadarem optimize --score similarity:CC(=O)Nc1ccc(O)cc1 --until 1 --start moses-sample
    imadarem optimize --score my_scores:docking --scaffold "*c1ccc2[nH]ccc2c1" --out mine.csv
    imadarem optimize --score logp --similar-to CCOc1ccccc1 --least-similarity 0.4
    imadarem optimize --score qed --score "logp@1..3" --weight 2 --weight 1
    imadarem optimize --score qed --score similarity:CCOc1ccccc1 --pareto
    imadarem optimize --score-command "dock.sh {smi}" --score-workers 8 --out docked.csv
    imadarem optimize --score qed --where "MW<450, new_rings=0" --alerts PAINS,BRENK
    imadarem optimize --score qed --out best.csv --resume --budget 5000
    ```

    In each child the model rewrites a branch, a linker or a run of tokens of its parent. Each
    molecule is scored once; molecules that break a constraint are not scored.
    If a score raises an error, the molecule is recorded and the search continues.
    """
    output.check()
    scores = goal.scores()
    settings = search.settings(goal, sampling.seed, filtering)
    if output.python:
        _print_python(goal, settings, search.start, output, sampling)
        return 0
    continued = output.resume and output.table is not None and output.table.exists()
    start = None
    if search.start is not None and not continued:
        start = _molecules(search.start, search.column, settings)
    model = load_model(sampling.model, sampling.device)
    if not is_molecular(model.tokenizer):
        raise ConfigError(f"the model {sampling.model} writes texts, not molecules.")
    begun = time.perf_counter()
    made = _evolved(model, scores, settings, start, output, sampling)
    seconds = time.perf_counter() - begun
    _deliver(made, output, seconds)
    _note_failures(made)
    if output.table is not None:
        note(f"wrote {len(made.scored):,} scored molecules to {output.out}")
    return 0


def _print_python(
    goal: ScoreFlags,
    settings: EvolutionSettings,
    start: str | None,
    output: BestFlags,
    sampling: SamplingFlags,
) -> None:
    if start is not None:
        raise ConfigError("--python shows no --start; give evolve(start=) a list of SMILES.")
    scores = [call("score_named", name) for name in goal.score or ()]
    if goal.score_command is not None:
        command = call("CommandScore", goal.score_command, goal.score_timeout)
        scores.append(call("Score", goal.score_command, command))
    given = {f.name: getattr(settings, f.name) for f in fields(settings)}
    usual = {f.name: f.default for f in fields(settings)}
    changed = {name: value for name, value in given.items() if value != usual[name]}
    table = None if output.table is None else call("Path", str(output.table))
    options = {k: v for k, v in settings_of(sampling).items() if k != "seed"}
    made = call(
        "evolve",
        Code("model"),
        scores,
        call("EvolutionSettings", **changed),
        out=table,
        resume=output.resume or None,
        reason=output.reason,
        **options,
    )
    best = f"(row.smiles for row in made.best({output.top}))"
    file = output.out if output.table is None else None
    print_program(MoleculeFlags(sampling=sampling, output=OutputFlags(out=file)), made, best)


def _note_failures(made: Evolution) -> None:
    """Say how many calls of the score failed, and the first reason."""
    if made.failures:
        first = made.failures[0]
        note(
            f"the score failed on {len(made.failures):,} molecules, recorded without a number; "
            f"the first, {first.smiles}: {first.failure}",
            style="yellow",
        )


def _evolved(
    model: ImplicitRefinementModel,
    scores: list[Score],
    settings: EvolutionSettings,
    start: list[str] | None,
    output: BestFlags,
    sampling: SamplingFlags,
) -> Evolution:
    """Run the search, with a bar of the calls of the score."""
    from imadarem.design.evolution import evolve

    with progress_bar("score calls", settings.budget) as advance:
        return evolve(
            model,
            scores,
            settings,
            start=start,
            out=output.table,
            resume=output.resume,
            reason=output.reason,
            on_generation=_View(advance, output.json),
            **{k: v for k, v in sampling.settings().items() if k != "seed"},
        )


class _View:
    """Shows each generation."""

    def __init__(self, advance: Any, json: bool) -> None:
        self.advance = advance
        self.json = json
        self.calls = 0

    def __call__(self, now: Generation) -> None:
        self.advance(now.calls - self.calls)
        self.calls = now.calls
        if self.json:
            json_line(
                {
                    "kind": "generation",
                    "number": now.number,
                    "calls": now.calls,
                    "best": _number(now.best.score),
                    "mean": _number(now.mean),
                    "smiles": now.best.smiles,
                }
            )
        elif now.number % 5 == 0:
            note(
                f"generation {now.number}: {now.calls:,} calls, best {now.best.score:.3f}, "
                f"mean of the population {now.mean:.3f}"
            )


def _molecules(source: str, column: str | None, settings: EvolutionSettings) -> list[str]:
    import random

    from imadarem.data.molecule_files import read_smiles
    from imadarem.data.moses import load_moses_sample

    if source == "moses-sample":
        found = load_moses_sample("train")
    else:
        read = read_smiles(source, column=column)
        found = read.smiles
        if read.rejected:
            first = read.rejected[0]
            note(
                f"{len(read.rejected):,} lines of {source} are no molecules, the first one "
                f"line {first.line}: {first.reason}",
                style="yellow",
            )
    count = min(settings.population, len(found))
    return random.Random(settings.seed).sample(found, count)


def _deliver(made: Evolution, output: BestFlags, seconds: float) -> None:
    from imadarem.design.ranking import POOL, Ranking

    rows = [_record(row, made.names) for row in made.best(len(made.scored))]
    best = Ranking(None, output.top, output.diverse)(rows[: POOL * output.top])
    terms = ("score", *made.names)
    best = [molecule_row(row["smiles"], {k: row[k] for k in terms}, {}) | row for row in best]
    if output.out is not None and output.table is None:
        write_file(rows, output.out)
    if output.grid is not None:
        write_file(best, output.grid)
    if output.json:
        for row in best:
            json_line({"kind": "molecule", **row})
        json_line(
            {
                "kind": "summary",
                "calls": len(made.scored),
                "failed": len(made.failures),
                "generations": made.generation,
                "lost": dict(made.lost.most_common()),
                "seconds": seconds,
            }
        )
        return
    out().print(molecule_table(best))
    lost = reasons(dict(made.lost.most_common()))
    text = f"{len(made.scored):,} calls of the score in {made.generation} generations"
    out().print(Text(f"\n{text}; not scored: {lost or 'none'}", style="bold"))


def _record(row: Scored, names: Sequence[str]) -> dict[str, Any]:
    record = {**asdict(row), "score": _number(row.score)}
    terms = record.pop("terms") or (None,) * len(names)
    return {**record, **dict(zip(names, terms, strict=True))}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
