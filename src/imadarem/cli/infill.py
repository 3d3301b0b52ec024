"""``imadarem infill``: fill the holes of prompts, or grow molecules around fragments."""

from __future__ import annotations

import time

from imadarem.cli.console import progress_bar
from imadarem.cli.fragments import FRAGMENTS, FragmentFlags, fill_fragments
from imadarem.cli.models import Switch, is_molecular, load_model
from imadarem.cli.molecule_table import GROWN, GrownFlags
from imadarem.cli.numbers import Count
from imadarem.cli.python_call import (
    Code,
    accepting,
    call,
    print_program,
    redrawing_code,
    settings_of,
)
from imadarem.cli.results import deliver, judge, redrawing
from imadarem.errors import ConfigError


def infill(
    *prompts: str,
    count: Count | None = None,
    keep_invalid: Switch = False,
    fragments: FragmentFlags = FRAGMENTS,
    flags: GrownFlags = GROWN,
) -> int:
    """Fill the blanks of prompts, or build molecules that contain given fragments.

    **Examples**

    ```
    imadarem infill --scaffold "c1ccc(*)cc1" -n 8
    imadarem infill --linker "*N1CCOCC1" "*c1ccc(F)cc1" --score qed --top 5 --grid joined.svg
    imadarem infill --motif "[*:1]c1ccncc1" --superstructure "c1ccc2[nH]ccc2c1" --out new.sdf
    imadarem infill --core "*c1ccc(F)cc1.*N1CCOCC1.*OC" --model smiles
    imadarem infill --ring "*NCC(=O)Nc1cccc(C*)c1" --min-blanks 4
    imadarem infill --scaffold scaffolds.csv -n 8 --out new.csv
    imadarem infill --motif "*c1ccncc1" --where "QED>0.6, new_rings=0" --alerts PAINS,BRENK
    imadarem infill "CC<mask><mask><mask>O"
    imadarem infill "CC(=O)Nc1ccc(<gap>)cc1" -n 8
    imadarem infill --model runs/text/model "a <mask><mask><mask> day" -n 8 --json
    ```

    The given tokens and fragments never change. Fragments are SMILES with attachment points
    `*`, `[*:1]` or `[1*]`. RDKit checks every molecule: it contains each fragment, attached
    where it was marked, with its stereo and charges. Rejected molecules are counted by
    reason. A fragment flag can be repeated.

    Args:
        prompts: Texts with `<mask>` (or the tokenizer's own mask, such as `[MASK]`) for each
            blank token, `<gap>` for 0 to 16 tokens or `<gap:3-8>` for 3 to 8 (by a model
            trained with such holes); molecules in the model's notation, such as SELFIES.
        count: Fillings of each prompt [default: 1], or different molecules for each fragment
            [default: 16].
        keep_invalid: Fill each prompt once, even if no molecule comes out of it; else it is
            filled again, up to 20 times.
    """
    if fragments.given == bool(prompts):
        both = f"Both were given, and one prompt is {prompts[0]!r}. " if prompts else ""
        raise ConfigError(
            "give either prompts with <mask> for each blank, or fragments with --linker, --core, "
            f"--ring, --motif, --scaffold or --superstructure. {both}See: imadarem infill --help"
        )
    sampling, output = flags.sampling, flags.output
    idle = [*fragments.idle, *flags.of_molecules]
    if prompts and idle:
        raise ConfigError(f"--{idle[0]} has no effect on prompts; it needs a fragment.")
    if fragments.given and keep_invalid:
        raise ConfigError("--keep-invalid has no effect on fragments: every molecule is verified.")
    accept, ranking = flags.filtering.accept(), flags.ranked.ranking()
    if fragments.given:
        output.check_molecules()
        fragments.tasks()  # before the model is loaded, which takes longer
    model = load_model(sampling.model, sampling.device)
    output.check(model.tokenizer)
    if output.python and fragments.given:
        _print_tasks(count or 16, fragments, flags)
        return 0
    if output.python:
        repeated = [prompt for prompt in prompts for _ in range(count or 1)]
        options = {**settings_of(sampling), **redrawing_code(model, keep_invalid)}
        made = call("model.infill", repeated, **options)
        print_program(flags, made, "made")
        return 0
    if fragments.given:
        if not is_molecular(model.tokenizer):
            raise ConfigError(f"the model {sampling.model} writes texts; fragments are molecules.")
        with output.locked():
            settings = {**sampling.settings(), "allow_odd": flags.filtering.allow_odd}
            return fill_fragments(model, fragments, count or 16, accept, ranking, output, settings)
    repeated = [prompt for prompt in prompts for _ in range(count or 1)]
    with output.locked():
        start = time.perf_counter()
        with progress_bar("filling", len(repeated)) as advance:
            settings = {**sampling.settings(), **redrawing(model, keep_invalid)}
            drawn = model.infill(repeated, on_rows=advance, **settings)
        deliver(judge(drawn, model.tokenizer, time.perf_counter() - start), output)
    return 0


def _print_tasks(count: int, fragments: FragmentFlags, flags: GrownFlags) -> None:
    for task, _ in fragments.tasks():
        blanks = (fragments.min_blanks, fragments.max_blanks)
        made = call(
            "complete",
            Code("model"),
            call("FragmentTask.of", task.kind, *(part.smiles for part in task.fragments)),
            count,
            blanks=blanks if any(blanks) else None,
            accept=accepting(flags.filtering),
            allow_odd=flags.filtering.allow_odd or None,
            **settings_of(flags.sampling),
        )
        print_program(flags, made, "made.smiles")
