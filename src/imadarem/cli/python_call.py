"""The Python that does what a command line does, as text for ``--python``."""

from __future__ import annotations

import re
from typing import Any

from imadarem.cli.console import out
from imadarem.cli.models import SamplingFlags
from imadarem.cli.molecule_table import FilterFlags, MoleculeFlags
from imadarem.cli.results import redrawing

#: What the printed names are imported from.
HOMES = {
    "CommandScore": "imadarem.design.score_command",
    "EvolutionSettings": "imadarem.design.evolution",
    "Filters": "imadarem.design.filters",
    "FragmentTask": "imadarem",
    "ImplicitRefinementModel": "imadarem",
    "Path": "pathlib",
    "Ranking": "imadarem.design.ranking",
    "Score": "imadarem.design.scores",
    "analogues": "imadarem",
    "is_molecule": "imadarem.data.molecules",
    "complete": "imadarem.design.completion",
    "evolve": "imadarem.design.evolution",
    "sample_molecules": "imadarem.design.completion",
    "score_named": "imadarem.design.scores",
    "write_rows": "imadarem.data.molecule_rows",
}


class Code(str):
    """Text that is Python already, not a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def call(function: str, *given: Any, **options: Any) -> Code:
    """``function(given, name=value)``; an option that is None is left out."""
    parts = [repr(value) for value in given]
    parts += [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return Code(f"{function}({', '.join(parts)})")


def settings_of(sampling: SamplingFlags) -> dict[str, Any]:
    """The sampling settings that are not the default, and the seed."""
    usual = SamplingFlags().settings()
    found = sampling.settings().items()
    return {name: value for name, value in found if name == "seed" or value != usual.get(name)}


def redrawing_code(model: Any, keep_invalid: bool) -> dict[str, Any]:
    """What :func:`~imadarem.cli.results.redrawing` says, as arguments."""
    found = redrawing(model, keep_invalid)
    return {**found, "verifier": Code("is_molecule")} if found else {}


def accepting(filtering: FilterFlags) -> Code | None:
    """The filters as an argument."""
    if not filtering.where and not filtering.alerts:
        return None
    made = call("Filters.of", filtering.where or "", filtering.alerts or "")
    return Code(f"{made}.rejection_reason")


def print_program(flags: MoleculeFlags, made: Code, smiles: str) -> None:
    """Print a program that makes, ranks and writes molecules.

    Args:
        flags: Of the command.
        made: The call that makes the result ``made``.
        smiles: The molecules of ``made``, as an expression.
    """
    sampling, ranked, file = flags.sampling, flags.ranked, flags.output.out
    model = call("ImplicitRefinementModel.from_pretrained", sampling.model)
    device = f".to({sampling.device!r})" if sampling.device else ""
    lines = [f"model = {model}{device}", f"made = {made}"]
    lines.append(f"rows = [{{'smiles': smiles}} for smiles in {smiles}]")
    if ranked.given:
        score = None if ranked.score is None else call("score_named", ranked.score)
        given = (score, ranked.top, ranked.diverse)
        lines.append(f"rows = {call('Ranking', *given, isomers=ranked.isomers)}(rows)")
    place = None if file is None else call("Path", str(file))
    lines.append("print(rows)" if place is None else f"write_rows(rows, {place})")
    text = "\n".join(lines)
    # A method such as model.sample is no imported name.
    names = [name for name in HOMES if re.search(rf"(?<![.'\w]){name}\b(?!')", text)]
    imports = sorted(f"from {HOMES[name]} import {name}" for name in names)
    out().print("\n".join([*imports, "", text]), markup=False, soft_wrap=True)
