"""``imadarem demo``: molecules in a few seconds, and what to type next."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from imadarem.cli.console import err, heading, note, out
from imadarem.cli.models import device_named
from imadarem.cli.results import Outcome, judge, share, write_file
from imadarem.errors import ImadaremError
from imadarem.viz.text import coloured_text

if TYPE_CHECKING:
    from imadarem.model import ImplicitRefinementModel

SAMPLES, PASSES, SEED = 16, 6, 0
#: Tokens of the molecule whose making is shown.
TRACED = 16
NEXT = (
    ("sample more", "imadarem sample -n 1000 --out molecules.smi"),
    ("watch one", "imadarem trace --seed 7"),
    ("fill holes", 'imadarem infill "CC(=O)Nc1ccc(<gap>)cc1" -n 8'),
    ("repair one", 'imadarem repair "CCN(CCc1ccccc1" --check rdkit'),
    ("in the browser", "imadarem serve"),
    ("train your own", "imadarem train --data yours.csv --out runs/yours"),
)


def demo(*, model: str = "smiles", out: Path = Path("imadarem-demo")) -> None:
    """Sample 16 molecules from a model in the package and show how one is made.

    Args:
        model: Another model of molecules.
        out: Folder for the pictures.
    """
    from imadarem.data.molecules import is_molecule

    with err().status("loading the model"):
        from imadarem.model import ImplicitRefinementModel

        network = ImplicitRefinementModel.from_pretrained(model).to(device_named(None))
    _introduce(network)
    _show_trajectory(network)
    start = time.perf_counter()
    drawn = network.sample(SAMPLES, seed=SEED, verifier=is_molecule, redraws=20)
    outcome = judge(drawn, network.tokenizer, time.perf_counter() - start)
    heading(f"{SAMPLES} molecules; an invalid draft is drawn again")
    outcome.show()
    _show_novelty(outcome)
    _draw(outcome, out)
    _say_next()


def _introduce(network: ImplicitRefinementModel) -> None:
    parameters = sum(p.numel() for p in network.student_parameters())
    out().print(
        Text(
            f"A transformer of {parameters:,} parameters fills blanks in "
            "parallel;\nits gate says which tokens to predict again."
        )
    )


def _show_trajectory(network: ImplicitRefinementModel) -> None:
    """A short canvas, which fits on a screen."""
    length = min(TRACED, network.config.max_seq_len)
    trajectory = network.analyze_refinement_trajectory(length=length, steps=PASSES, seed=SEED)
    heading(f"how one of {length} tokens is made: ↑ written here; gate: probability of an error")
    out().print(coloured_text(trajectory[0], out().width))


def _show_novelty(outcome: Outcome) -> None:
    from imadarem.data.moses import load_moses_sample

    known = set(load_moses_sample("train"))
    distinct = set(outcome.valid)
    if distinct:
        novel = len(distinct - known) / len(distinct)
        against = f"against the shipped sample of {len(known):,} training molecules"
        out().print(Text(f"{share(novel)} novel, {against}"))


def _draw(outcome: Outcome, folder: Path) -> None:
    if not write_file([{"smiles": s} for s in outcome.valid], folder / "molecules.svg"):
        return
    from imadarem.files import write_atomically
    from imadarem.viz.molecules import molecule_grid_png

    try:
        picture = molecule_grid_png(outcome.valid)
    except ImadaremError as error:
        note(f"no PNG was drawn: {error}")
        return
    note(f"drew them in {folder / 'molecules.png'} too")
    write_atomically(folder / "molecules.png", lambda aside: aside.write_bytes(picture))


def _say_next() -> None:
    heading("next")
    for purpose, command in NEXT:
        out().print(Text.assemble(("  " + purpose.ljust(16), "dim"), (command, "cyan")))
