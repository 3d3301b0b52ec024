"""Analogues of a molecule: a part of it is blank, and the model writes it anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imadarem.data.molecules import canonical, parse
from imadarem.design.completion import Completed, collect, notation_of, row_seed
from imadarem.design.fragment import matched_part
from imadarem.design.mutation import Mutation
from imadarem.design.odd_groups import Oddities, first_reason
from imadarem.design.prompts import Prompt
from imadarem.design.scores import similarity_to
from imadarem.design.verification import rejection_reason
from imadarem.errors import ConfigError, DataError

#: Seconds that the largest common substructure of two molecules may take.
COMPARING = 1


@dataclass(frozen=True, slots=True)
class Analogue:
    """A molecule that differs from another in a part.

    Attributes:
        smiles: Canonical SMILES.
        similarity: Tanimoto similarity (Morgan, radius 2, 2048 bits) to the other.
        site: Atoms of the other that changed, numbered from 1 in its canonical SMILES: those
            outside of the largest common substructure. Empty where only something was added.
        removed: What was there, as SMILES with ``*`` where it is bonded; parts have a dot
            between them.
        added: What is there now.
        forward_passes: Passes of the network it cost.
    """

    smiles: str
    similarity: float
    site: tuple[int, ...]
    removed: str
    added: str
    forward_passes: int


@dataclass(frozen=True)
class Analogues:
    """Analogues of a molecule, and what became of the other rows.

    Attributes:
        parent: Canonical SMILES of the molecule.
        rows: Distinct analogues by site, the most similar first.
        draws: Rows that were filled.
        lost: Reason → rows that were not returned for it.
        shown_by: Tokens of the molecule that the model does not know, and what it was shown in
            their place.
    """

    parent: str
    rows: list[Analogue]
    draws: int
    lost: dict[str, int]
    shown_by: dict[str, str]


def analogues(
    model: Any,
    smiles: str,
    n: int = 50,
    *,
    protect: Iterable[str] = (),
    similar: tuple[float, float] = (0.4, 1.0),
    seed: int = 0,
    accept: Callable[[str], str | None] | None = None,
    allow_odd: bool = False,
    most_draws: int | None = None,
    on_rows: Callable[[int], None] | None = None,
    **sampling: Any,
) -> Analogues:
    """Molecules that differ from ``smiles`` in a branch, a linker or a run of tokens.

    Each row is a random spelling of the molecule with one part blank. A protected atom keeps
    its element, hydrogens, charge, neighbours, bonds and stereo, verified by substructure.

    Args:
        model: Of molecules, with one of the built-in tokenizers.
        smiles: The molecule.
        n: Analogues wanted.
        protect: SMARTS of what must not change.
        similar: Least and most Tanimoto similarity to the molecule.
        seed: The same seed gives the same analogues.
        accept: Why an analogue is not wanted, or None.
        allow_odd: Return analogues with odd groups and unknown ring systems that the molecule does
            not have, too; see :func:`~imadarem.design.completion.complete`.
        most_draws: Rows to give up after; default 20 for each analogue.
        on_rows: Called with the number of analogues just found.
        sampling: Settings of :meth:`ImplicitRefinementModel.infill`. With ``width`` above 1 a
            model with a judge chooses among so many fillings of each row.

    Raises:
        ConfigError: The model writes no molecules, or a number is out of range.
        DataError: The molecule or a pattern cannot be read, has several parts, or is longer
            than the canvas in every spelling.
    """
    parent = _parent(smiles)
    if not 0 <= similar[0] <= similar[1] <= 1:
        raise ConfigError(f"similar is {similar}; give two numbers from 0 to 1, the least first.")
    kept = matched_part(parent, protect)
    mutate = Mutation(notation_of(model), kept)
    similarity = similarity_to(parent)
    if not allow_odd:
        accept = first_reason(Oddities([parse(parent)]).rejection_reason, accept)

    def lost(child: str) -> str | None:
        if child == parent:
            return "unchanged"
        if "." in child:
            return "in several parts"
        if kept is not None and rejection_reason(child, [kept]) is not None:
            return "protected atoms changed"
        near = similarity(child)
        if not similar[0] <= near <= similar[1]:
            return "not similar enough" if near < similar[0] else "too similar"
        return accept(child) if accept is not None else None

    shown_by: dict[str, str] = {}

    def draw(count: int, first: int) -> list[Completed]:
        prompts = _prompts(mutate, parent, range(first, first + count), seed)
        shown_by.update(pair for p in prompts if p is not None for pair in p.shown_by.items())
        return _filled(model, prompts, row_seed(seed, first), sampling)

    made = collect(draw, n, accept=lost, most_draws=most_draws, on_rows=on_rows)
    rows = [_compared(parent, row, similarity) for row in made.rows]
    rows.sort(key=lambda row: (row.site, -row.similarity))
    return Analogues(parent, rows, made.draws, made.lost, shown_by)


def _parent(smiles: str) -> str:
    form = canonical(smiles)
    if form is None:
        raise DataError(f"{smiles[:80]!r} is not a valid SMILES, so it has no analogues.")
    if "." in form:
        raise DataError(f"{form[:80]} has several parts; leave counter-ions and solvents out.")
    return form


def _prompts(
    mutate: Mutation, parent: str, numbers: Iterable[int], seed: int
) -> list[Prompt | None]:
    """A random spelling of the parent with a part blank for each row number."""
    prompts = [mutate(parent, np.random.default_rng([seed, number])) for number in numbers]
    if not any(prompts):
        raise DataError(
            f"no spelling of {parent} with a blank part fits the {mutate.notation.room} tokens of "
            "this model's canvas and its vocabulary. Use a model of SMILES, a longer canvas, "
            "or protect less."
        )
    return prompts


def _filled(
    model: Any, prompts: Sequence[Prompt | None], seed: int, sampling: dict[str, Any]
) -> list[Completed]:
    tokenizer = model.tokenizer
    rows = [prompt.ids(tokenizer) for prompt in prompts if prompt is not None]
    filled = iter(model.infill(rows, seed=seed, **sampling).rows)
    drawn = []
    for prompt in prompts:
        if prompt is None:
            drawn.append(Completed(None, "nothing to blank", 0))
            continue
        row = next(filled)
        text = prompt.fill(tokenizer.convert_ids_to_tokens(row.ids))
        drawn.append(Completed(canonical(text or ""), None, row.forward_passes))
    return drawn


def _compared(parent: str, row: Completed, similarity: Callable[[str], float]) -> Analogue:
    assert row.smiles is not None
    site, removed, added = _difference(parent, row.smiles)
    near = similarity(row.smiles)
    return Analogue(row.smiles, near, site, removed, added, row.forward_passes)


def _difference(parent: str, child: str) -> tuple[tuple[int, ...], str, str]:
    """The changed atoms of the parent from 1, and what stands there in both molecules."""
    from rdkit import Chem
    from rdkit.Chem import rdFMCS

    molecules: list[Any] = [parse(parent), parse(child)]
    common = rdFMCS.FindMCS(
        molecules, ringMatchesRingOnly=True, completeRingsOnly=True, timeout=COMPARING
    )
    query = Chem.MolFromSmarts(common.smartsString)
    changed = []
    for molecule in molecules:
        match = set(molecule.GetSubstructMatch(query)) if common.numAtoms else set()
        changed.append(sorted(set(range(molecule.GetNumAtoms())) - match))
    site = tuple(index + 1 for index in changed[0])
    return site, _part(molecules[0], changed[0]), _part(molecules[1], changed[1])


def _part(molecule: Any, atoms: Sequence[int]) -> str:
    """SMILES of atoms of a molecule, ``*`` for each bond to another."""
    from rdkit import Chem

    if not atoms:
        return ""
    inside = set(atoms)
    cuts = [
        bond.GetIdx()
        for bond in molecule.GetBonds()
        if (bond.GetBeginAtomIdx() in inside) != (bond.GetEndAtomIdx() in inside)
    ]
    cut = (
        Chem.FragmentOnBonds(molecule, cuts, dummyLabels=[(0, 0)] * len(cuts)) if cuts else molecule
    )
    parts: list[Any] = []
    pieces = Chem.GetMolFrags(cut, asMols=True, sanitizeFrags=False, fragsMolAtomMapping=parts)
    found = [Chem.MolToSmiles(m) for m, own in zip(pieces, parts, strict=True) if inside & set(own)]
    return ".".join(sorted(found))
