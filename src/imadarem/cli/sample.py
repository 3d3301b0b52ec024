"""``imadarem sample``: draw samples from blank canvases."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from imadarem.cli.console import progress_bar
from imadarem.cli.models import Switch, load_model
from imadarem.cli.molecule_table import (
    MOLECULES,
    MoleculeFlags,
    deliver_molecules,
    molecule_row,
    summary,
)
from imadarem.cli.numbers import Positive, whole
from imadarem.cli.python_call import (
    Code,
    accepting,
    call,
    print_program,
    redrawing_code,
    settings_of,
)
from imadarem.cli.results import OutputFlags, deliver, judge, redrawing
from imadarem.cli.streaming import STREAMED, stream
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.design.ranking import Ranking
    from imadarem.model import ImplicitRefinementModel

#: Most samples that are held in memory; a file may hold more.
MOST_IN_MEMORY = 1_000_000
ManyRows = Annotated[int, whole(1, 10**12, name=("--count", "-n"))]


def sample(
    *,
    count: ManyRows = 16,
    length: Positive | None = None,
    resume: Switch = False,
    keep_invalid: Switch = False,
    flags: MoleculeFlags = MOLECULES,
) -> int:
    """Draw samples from blank canvases.

    With --out, more than 10,000 samples are written as they are drawn, and the settings go to
    FILE.json. An interrupted run continues with the same command and --resume.

    **Examples**

    ```
    imadarem sample
    imadarem sample -n 1000 --steps 6 --seed 1 --out molecules.smi
    imadarem sample -n 1000000 --out molecules.smi --resume
    imadarem sample --model runs/mine/model --grid molecules.svg
    imadarem sample --model smiles --keep-invalid -n 1000 --out molecules.csv
    imadarem sample -n 100 --where "QED>0.7, new_rings=0" --alerts PAINS,BRENK --out new.sdf
    imadarem sample -n 500 --score qed --top 20 --diverse --grid best.png
    imadarem sample -n 100 --json > samples.jsonl
    ```

    A row that is no molecule is drawn again, up to 20 times, on a canvas of the same length.

    Args:
        count: Number of samples.
        length: Tokens per canvas; default: drawn from the lengths of the training data.
        resume: Continue the file of --out where it ends, or start it.
        keep_invalid: Draw every row once, molecule or not.
    """
    sampling, output = flags.sampling, flags.output
    _check(count, resume, keep_invalid, flags)
    accept, ranking = flags.filtering.accept(), flags.ranked.ranking()
    model = load_model(sampling.model, sampling.device)
    output.check(model.tokenizer)
    if output.python:
        options = {**settings_of(sampling), **redrawing_code(model, keep_invalid)}
        if flags.of_molecules:
            code = accepting(flags.filtering)
            made = call("sample_molecules", Code("model"), count, accept=code, **options)
            print_program(flags, made, "made.smiles")
        else:
            print_program(flags, call("model.sample", count, length=length, **options), "made")
        return 0
    settings = {"length": length, **sampling.settings(), **redrawing(model, keep_invalid)}
    if output.out is not None and (resume or count > STREAMED):
        stream(model, count, settings, output, resume=resume)
        return 0
    with output.locked():
        if flags.of_molecules:
            return _selected(model, count, settings, accept, ranking, output)
        start = time.perf_counter()
        with progress_bar("sampling", count) as advance:
            drawn = model.sample(count, on_rows=advance, **settings)
        deliver(judge(drawn, model.tokenizer, time.perf_counter() - start), output)
    return 0


def _check(count: int, resume: bool, keep_invalid: bool, flags: MoleculeFlags) -> None:
    """Refuse what could not be done, before the model is loaded."""
    output, chosen = flags.output, flags.of_molecules
    if output.out is None and count > MOST_IN_MEMORY:
        raise ConfigError(
            f"--count is {count:,}: at most {MOST_IN_MEMORY:,} samples are held in memory. Add "
            "--out FILE, which is written as they are drawn."
        )
    if resume and output.out is None:
        raise ConfigError("--resume continues a file; name it with --out.")
    if not chosen:
        return
    if resume or count > STREAMED:
        raise ConfigError(
            f"--{chosen[0]} compares molecules in memory: it takes -n up to {STREAMED:,} and no "
            "--resume."
        )
    if keep_invalid:
        raise ConfigError(f"--{chosen[0]} is for molecules: leave --keep-invalid out.")
    output.check_molecules()


def _selected(
    model: ImplicitRefinementModel,
    count: int,
    settings: dict[str, Any],
    accept: Callable[[str], str | None] | None,
    ranking: Ranking,
    output: OutputFlags,
) -> int:
    """Draw until there are ``count`` different molecules that are wanted; rank and deliver them."""
    from imadarem.design.completion import sample_molecules

    failures: list[str] = []
    start = time.perf_counter()
    with progress_bar("sampling", count) as advance:
        made = sample_molecules(model, count, accept=accept, on_rows=advance, **settings)
    rows = [
        molecule_row(str(row.smiles), {}, {"forward_passes": row.forward_passes})
        for row in made.rows
    ]
    found = ranking(rows, failures)
    seconds = time.perf_counter() - start
    of_all = summary("samples", None, made, count)
    return deliver_molecules(found, [of_all], output, seconds, failures)
