"""``imadarem optimize``: molecules with a high score, written by the model."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from imadarem.cli.console import grid, json_line, note, out, progress_bar
from imadarem.cli.fragments import described
from imadarem.cli.models import SAMPLING, SamplingFlags, Switch, is_molecular, load_model
from imadarem.cli.numbers import Positive, real
from imadarem.cli.results import write_grid
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.design.scored_table import Evolution, Generation

__all__ = ["optimize"]

SHOWN = 10
#: NaN is not a score that a run could reach.
Target = Annotated[float, real(-math.inf, math.inf)]


def optimize(
    *,
    score: str,
    budget: Positive = 2000,
    population: Positive = 100,
    children: Positive = 64,
    until: Target | None = None,
    start: str | None = None,
    column: str | None = None,
    scaffold: str | None = None,
    similar_to: str | None = None,
    least_similarity: float | None = None,
    out_file: Annotated[Path | None, Parameter(name="--out")] = None,
    resume: Switch = False,
    top: Positive = SHOWN,
    grid_file: Annotated[Path | None, Parameter(name="--grid")] = None,
    json: Switch = False,
    sampling: SamplingFlags = SAMPLING,
) -> int:
    """Search for molecules of high score: the best have children, which the model writes.

    **Examples**

    ```
    imadarem optimize --score qed --out best.csv
    imadarem optimize --score similarity:CC(=O)Nc1ccc(O)cc1 --until 1 --start moses-sample
    imadarem optimize --score my_scores:docking --scaffold "*c1ccc2[nH]ccc2c1" --out mine.csv
    imadarem optimize --score logp --similar-to CCOc1ccccc1 --least-similarity 0.4
    imadarem optimize --score qed --out best.csv --resume --budget 5000
    ```

    Every child has a branch, a linker or a run of tokens of its parent written anew. A
    molecule that is known is not scored again, and one that breaks a constraint not at all.

    Args:
        score: Higher is better: qed, sa (ease of synthesis), logp, similarity:SMILES, or a
            Python function of your own, module:function, that takes a SMILES and returns a
            number (None: no number). Where it
            raises an error, the molecule is recorded and the search continues.
        budget: Most calls of the score.
        population: Best molecules that have children.
        children: Rows that the model fills in a generation.
        until: Stop at this score.
        start: moses-sample or a file of molecules to begin with; default is a population
            of the model's own. As many as the population are drawn by --seed.
        column: The column of a table that holds the SMILES.
        scaffold: Every molecule has this fragment; with attachment points, nothing is
            attached elsewhere.
        similar_to: Every molecule is similar to this one.
        least_similarity: By at least this Tanimoto similarity.
        out_file: A .csv file of every scored molecule, best first, written after each
            generation.
        resume: Continue the run in that file, or begin it.
        top: Molecules to show.
        grid_file: Draw them into this .svg file.
        json: Print JSON Lines: each generation, then the best molecules.
    """
    from imadarem.design.evolution import EvolutionSettings, evolve
    from imadarem.design.scores import score_named

    _check_endings(out_file, grid_file)
    settings = EvolutionSettings(
        score=score,
        budget=budget,
        population=population,
        children=children,
        seed=sampling.seed,
        until=until,
        scaffold=scaffold,
        similar_to=similar_to,
        least_similarity=least_similarity,
    )
    function = score_named(score)
    continued = resume and out_file is not None and out_file.exists()
    given = None if start is None or continued else _molecules(start, column, settings)
    model = load_model(sampling.model, sampling.device)
    if not is_molecular(model.tokenizer):
        raise ConfigError(f"the model {sampling.model} writes texts, not molecules.")
    begun = time.perf_counter()
    with progress_bar("score calls", budget) as advance:
        view = _View(advance, json)
        made = evolve(
            model,
            function,
            settings,
            start=given,
            out=out_file,
            resume=resume,
            on_generation=view,
            **{k: v for k, v in sampling.settings().items() if k != "seed"},
        )
    seconds = time.perf_counter() - begun
    _deliver(made, score, top, json, seconds)
    _note_failures(made)
    if out_file is not None:
        note(f"wrote {len(made.scored):,} scored molecules to {out_file}")
    if grid_file is not None:
        write_grid([row.smiles for row in made.best(top)], grid_file)
    return 0


def _check_endings(out_file: Path | None, grid_file: Path | None) -> None:
    for file, ending in ((out_file, ".csv"), (grid_file, ".svg")):
        if file is not None and file.suffix != ending:
            raise ConfigError(f"{file} must end in {ending}.")


def _note_failures(made: Evolution) -> None:
    """Say how many calls of the score failed, and the first reason."""
    if made.failures:
        first = made.failures[0]
        note(
            f"the score failed on {len(made.failures):,} molecules, recorded without a number; "
            f"the first, {first.smiles}: {first.failure}",
            style="yellow",
        )


class _View:
    """Tells how far a run is."""

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


def _molecules(source: str, column: str | None, settings: Any) -> list[str]:
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


def _deliver(made: Evolution, name: str, top: int, json: bool, seconds: float) -> None:
    best = made.best(top)
    if json:
        for row in best:
            features = vars(described(row.smiles, "", None, 0))
            shown = {k: features[k] for k in ("qed", "sa", "weight")}
            record = {"smiles": row.smiles, "score": _number(row.score), "call": row.call}
            json_line({"kind": "molecule", **record, "parent": row.parent, **shown})
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
    cells = []
    for row in best:
        found = described(row.smiles, "", None, 0)
        values = (f"{found.qed:.2f}", f"{found.sa:.1f}", f"{found.weight:.0f}")
        cells.append((row.smiles, f"{row.score:.3f}", *values, row.call))
    columns = ("molecule", name.partition(":")[0], "QED", "SA", "weight", "call")
    out().print(grid(columns, cells))
    lost = ", ".join(f"{count:,} {reason}" for reason, count in made.lost.most_common())
    text = f"{len(made.scored):,} calls of the score in {made.generation} generations"
    out().print(Text(f"\n{text}; not scored: {lost or 'none'}", style="bold"))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
