"""A molecule with a part of it blank: what the steps of an evolution are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from imadarem.data.molecules import parse
from imadarem.data.randomised_smiles import respelt
from imadarem.design.fragment import Fragment
from imadarem.design.prompts import Fill, Notation, Prompt
from imadarem.design.verification import atoms_of
from imadarem.errors import DataError
from imadarem.tokenizers import SmilesTokenizer
from imadarem.tokenizers.safe import join, pieces

ATOM, RING = re.compile(r"[A-Za-z\[*]"), re.compile(r"[%\d]")
#: Share of the children that lose a branch, a linker or, the rest, a run of tokens.
BRANCH_SHARE, LINKER_SHARE = 0.4, 0.15
#: A part that grows again has its number of tokens, give or take so many.
LEEWAY = 3
LONGEST_RUN = 8


@dataclass(frozen=True)
class Mutation:
    """Blanks a part of a molecule out, for the model to write it anew.

    A branch behind an acyclic bond, a linker between two of them, or a run of tokens
    wherever it falls: the fragment remasking of GenMol (arXiv:2501.06158), and plain
    infilling beside it.

    Args:
        notation: Of the model.
        scaffold: Must not be touched: only what is outside of it is lost. The canvas of a
            SELFIES or SAFE model shows no place of an atom, so these lose no run of tokens then.
    """

    notation: Notation
    scaffold: Fragment | None = None

    def __call__(self, smiles: str, rng: np.random.Generator) -> Prompt | None:
        """A prompt for a child of ``smiles``; None where nothing of it can be blanked."""
        molecule = parse(smiles)
        if molecule is None:
            return None
        kept = self._kept_atoms(molecule)
        kind = rng.random()
        try:
            if kind < LINKER_SHARE:
                prompt = self._without_linker(molecule, kept, rng)
            elif kind < LINKER_SHARE + BRANCH_SHARE:
                prompt = self._without_branch(molecule, kept, rng)
            else:
                prompt = self._without_run(smiles, molecule, kept, rng)
            prompt = prompt or self._without_run(smiles, molecule, kept, rng)
            prompt = prompt or self._without_branch(molecule, kept, rng)
        except DataError:  # a spelling that the vocabulary does not have
            return None
        return prompt if prompt is None or len(prompt.tokens) <= self.notation.room else None

    def cross(self, one: str, other: str, rng: np.random.Generator) -> str | None:
        """A part of each of two molecules, bonded to each other; None where they have none.

        The parts are what stands on one side of an acyclic single bond. The scaffold is in the
        part of the first molecule.
        """
        parts = []
        for smiles in (one, other):
            molecule = parse(smiles)
            assert molecule is not None
            kept = self._kept_atoms(molecule) if smiles is one else frozenset[int]()
            choices = [
                (bond.GetIdx(), side)
                for bond in _acyclic(molecule)
                for side in _sides(molecule, [bond.GetIdx()])
                if kept.isdisjoint(side)
            ]
            if not choices:
                return None
            bond, lost = choices[int(rng.integers(len(choices)))]
            parts += _fragments(molecule, [bond], lost)
        link = [piece for part in parts for piece in pieces(part.molecule, [], {part.ends[0]: -1})]
        return join(link)

    def _kept_atoms(self, molecule: Any) -> frozenset[int]:
        if self.scaffold is None:
            return frozenset()
        return atoms_of(molecule, self.scaffold)

    def _without_branch(self, molecule: Any, kept: frozenset[int], rng: Any) -> Prompt | None:
        choices = [
            (bond.GetIdx(), side)
            for bond in _acyclic(molecule)
            for side in _sides(molecule, [bond.GetIdx()])
            if not side & kept and len(side) < molecule.GetNumAtoms() - 1
        ]
        if not choices:
            return None
        bond, lost = choices[int(rng.integers(len(choices)))]
        (rest,) = _fragments(molecule, [bond], lost)
        return self.notation.around(rest, _regrown(len(lost), rng), rng)

    def _without_linker(self, molecule: Any, kept: frozenset[int], rng: Any) -> Prompt | None:
        bonds = [bond.GetIdx() for bond in _acyclic(molecule)]
        if len(bonds) < 2:
            return None
        pair = [int(b) for b in rng.permutation(bonds)[:2]]
        middle = next((s for s in _sides(molecule, pair) if _touches(molecule, s, pair) == 2), None)
        if middle is None or middle & kept:
            return None
        rest = _fragments(molecule, pair, middle)
        if len(rest) != 2:
            return None
        return self.notation.between(rest[0], rest[1], _regrown(len(middle), rng), rng)

    def _without_run(
        self, smiles: str, molecule: Any, kept: frozenset[int], rng: Any
    ) -> Prompt | None:
        tokenizer = self.notation.tokenizer
        if tokenizer.notation == "smiles":
            tokens, fixed = _spelt_tokens(molecule, kept, rng)
        elif kept:
            return None
        else:
            tokens = tokenizer.split(respelt(smiles, tokenizer, rng))
            fixed = [False] * len(tokens)
        length = int(rng.integers(1, min(LONGEST_RUN, len(tokens)) + 1))
        starts = [i for i in range(len(tokens) - length + 1) if not any(fixed[i : i + length])]
        if not starts:
            return None
        start = starts[int(rng.integers(len(starts)))]
        parts: list[str | int] = [*tokens[:start], _regrown(length, rng), *tokens[start + length :]]
        shown = self.notation.segments(parts)
        return Prompt(shown.tokens, shown.runs, _Spelt(tuple(parts), tokenizer), shown.shown_by)


def _spelt_tokens(
    molecule: Any, kept: frozenset[int], rng: np.random.Generator
) -> tuple[list[str], list[bool]]:
    """The tokens of a random SMILES, and whether each belongs to an atom of ``kept``.

    A bond or ring mark that stands between two tokens of kept atoms belongs to them.
    """
    from rdkit import Chem

    order = rng.permutation(molecule.GetNumAtoms()).tolist()
    spelt = Chem.RenumberAtoms(molecule, order)
    tokens = SmilesTokenizer.split(Chem.MolToSmiles(spelt, canonical=False))
    written = spelt.GetPropsAsDict(includePrivate=True, includeComputed=True)
    atoms = iter(order[i] for i in written["_smilesAtomOutputOrder"])
    fixed = [ATOM.match(token) is not None and next(atoms) in kept for token in tokens]
    for i, token in enumerate(tokens):
        # The marks behind an atom are its ring closures: to remove one is to change the atom.
        fixed[i] = fixed[i] or (RING.match(token) is not None and fixed[i - 1])
    return tokens, fixed


@dataclass(frozen=True)
class _Spelt:
    """Tokens with a filled run, read as the tokenizer's notation."""

    parts: tuple[str | int, ...]
    tokenizer: Any

    def __call__(self, fill: Fill) -> str | None:
        runs = iter(fill)
        text = "".join("".join(next(runs)) if isinstance(p, int) else p for p in self.parts)
        try:
            return str(self.tokenizer.to_text(text))
        except DataError:
            return None


def _regrown(atoms: int, rng: np.random.Generator) -> int:
    return max(1, atoms + int(rng.integers(-LEEWAY, LEEWAY + 1)))


def _acyclic(molecule: Any) -> list[Any]:
    from rdkit.Chem import BondType

    return [
        bond
        for bond in molecule.GetBonds()
        if not bond.IsInRing() and bond.GetBondType() == BondType.SINGLE
    ]


def _sides(molecule: Any, bonds: list[int]) -> list[frozenset[int]]:
    """The atoms of each part that is left when bonds are cut."""
    from rdkit import Chem

    cut = Chem.FragmentOnBonds(molecule, bonds, addDummies=False)
    return [frozenset(part) for part in Chem.GetMolFrags(cut)]


def _touches(molecule: Any, side: frozenset[int], bonds: list[int]) -> int:
    found = (molecule.GetBondWithIdx(index) for index in bonds)
    return sum((b.GetBeginAtomIdx() in side) + (b.GetEndAtomIdx() in side) for b in found)


def _fragments(molecule: Any, bonds: list[int], lost: frozenset[int]) -> list[Fragment]:
    """What is left of a molecule without a part, an attachment point where it hung."""
    from rdkit import Chem

    count = molecule.GetNumAtoms()
    # Labels by the number of the cut keep a centre between two of them a centre.
    labels = [(k + 1, k + 1) for k in range(len(bonds))]
    cut = Chem.FragmentOnBonds(molecule, bonds, dummyLabels=labels)
    atoms: list[Any] = []
    parts = Chem.GetMolFrags(cut, asMols=True, fragsMolAtomMapping=atoms)
    left = []
    for part, mapping in zip(parts, atoms, strict=True):
        if lost.isdisjoint(mapping):
            ends = tuple(i for i, atom in enumerate(mapping) if atom >= count)
            left.append(Fragment(Chem.MolToSmiles(part), part, ends))
    return left
