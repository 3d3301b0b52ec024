"""Fragments as SELFIES with blanks.

A ring or branch of SELFIES counts symbols and atoms, so whatever is filled in between them
would move it. The canvas shows the fragment with a branch of exactly n blanks on each
attachment point; what stands in them is decoded by itself, on a mark in place of the
fragment, and then bonded to the fragment as it was given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from imadarem.data.molecules import parse
from imadarem.design.fragment import Fragment
from imadarem.design.prompts import Fill, Notation, Prompt, spelt_towards, split_blanks
from imadarem.errors import DataError
from imadarem.tokenizers import SelfiesTokenizer
from imadarem.tokenizers.safe import join, pieces

CLOSING = -1
MARK = 90
"""Isotope of the chlorine that stands for an attachment point: it takes one single bond."""
COUNTS = (
    *("[C]", "[Ring1]", "[Ring2]", "[Branch1]", "[=Branch1]", "[#Branch1]", "[Branch2]"),
    *("[=Branch2]", "[#Branch2]", "[O]", "[N]", "[=N]", "[=C]", "[#C]", "[S]", "[P]"),
)
"""What a symbol behind ``[Branch1]`` means: a branch of 1, 2, … 16 symbols (SELFIES 2)."""


class SelfiesNotation(Notation):
    """See the module; an attachment point at the end of the string needs no branch."""

    def around(self, fragment: Fragment, blanks: int, rng: np.random.Generator) -> Prompt:
        marks = _marked(fragment, rng)
        counts = split_blanks(blanks, len(fragment.ends), rng)
        parts: list[str | int] = []
        order: list[int] = []
        for token in _tokens(marks, fragment):
            if isinstance(token, str):
                parts.append(token)
                continue
            order.append(token)
            count = counts[token]
            if parts[-2:] == ["[Branch1]", "[C]"]:
                # The branch of one symbol becomes one of as many as there are blanks.
                count = min(count, len(COUNTS))
                parts[-1] = COUNTS[count - 1]
            parts.append(count)
        return self._glued(parts, [fragment], order)

    def between(
        self, one: Fragment, other: Fragment, blanks: int, rng: np.random.Generator
    ) -> Prompt:
        left = _tokens(_marked(one, rng), one)
        right = _tokens(_marked(other, rng, first=True), other)
        parts: list[str | int] = [blanks if isinstance(token, int) else token for token in left]
        parts += [token for token in right if isinstance(token, str)]
        return self._glued(parts, [one, other], [0])

    def closing(self, fragment: Fragment, blanks: int, rng: np.random.Generator) -> Prompt:
        tokens = _tokens(_marked(fragment, rng), fragment)
        last = max(i for i, token in enumerate(tokens) if isinstance(token, int))
        parts: list[str | int] = [token for token in tokens[:last] if isinstance(token, str)]
        return self._glued([*parts, blanks], [fragment], [CLOSING])

    def _glued(
        self, parts: Sequence[str | int], fragments: Sequence[Fragment], order: Sequence[int]
    ) -> Prompt:
        return replace(self.segments(parts), assemble=_Glued(tuple(fragments), tuple(order)))


@dataclass(frozen=True)
class _Glued:
    """Decodes each run of blanks and bonds it to its attachment point.

    Attributes:
        fragments: One, or the two that a single run joins.
        order: The attachment point of each run, or :data:`CLOSING`: the run goes from the
            first to the second.
    """

    fragments: tuple[Fragment, ...]
    order: tuple[int, ...]

    def __call__(self, fill: Fill) -> str | None:
        links = [{end: -1 - k for k, end in enumerate(f.ends)} for f in self.fragments]
        if len(self.fragments) == 2:
            links[1] = {self.fragments[1].ends[0]: -2}
        parts = [
            piece
            for fragment, own in zip(self.fragments, links, strict=True)
            for piece in pieces(fragment.molecule, [], own)
        ]
        for end, symbols in zip(self.order, fill, strict=True):
            both = len(self.fragments) == 2 or end == CLOSING
            wanted = [-1, -2] if both else [-1 - end]
            grown = _decoded(symbols, wanted)
            if grown is None:
                return None
            parts += grown
        return join(parts)


def _decoded(symbols: Sequence[str], links: Sequence[int]) -> Any | None:
    """The fragment that symbols spell between marks, or None if a mark has no bond."""
    marks = [f"[{MARK + k}Cl]" for k in range(len(links))]
    try:
        smiles = SelfiesTokenizer.to_text("".join([marks[0], *symbols, *marks[1:]]))
    except DataError:
        return None
    molecule = parse(smiles)
    if molecule is None:
        return None
    found = {a.GetIsotope() - MARK: a for a in molecule.GetAtoms() if a.GetIsotope() >= MARK}
    if len(found) < len(links) or any(atom.GetDegree() != 1 for atom in found.values()):
        return None
    if molecule.GetNumAtoms() == len(links):
        return None
    return pieces(molecule, [], {found[k].GetIdx(): link for k, link in enumerate(links)})


def _marked(fragment: Fragment, rng: np.random.Generator, *, first: bool = False) -> str:
    """A random SMILES of the fragment, chlorines of odd isotopes as attachment points.

    Args:
        first: It begins with the only attachment point; else it ends with one if it can.
    """
    from rdkit import Chem

    marked = Chem.RWMol(fragment.molecule)
    for number, index in enumerate(fragment.ends):
        atom = marked.GetAtomWithIdx(index)
        atom.SetAtomicNum(17)
        atom.SetIsotope(MARK + number)
        atom.SetNoImplicit(False)
    molecule = marked.GetMol()
    Chem.SanitizeMol(molecule)
    if first:
        return str(Chem.MolToSmiles(molecule, rootedAtAtom=fragment.ends[0]))
    return spelt_towards(fragment.ends, molecule, rng)


def _tokens(smiles: str, fragment: Fragment) -> list[str | int]:
    """SELFIES symbols, the number of the attachment point in place of its mark."""
    tokens: list[str | int] = []
    for symbol in SelfiesTokenizer.split(SelfiesTokenizer.to_notation(smiles)):
        mark = re.fullmatch(r"\[[=#/\\]*(\d+)Cl\d*\]", symbol)
        number = int(mark[1]) - MARK if mark else -1
        tokens.append(number if 0 <= number < len(fragment.ends) else symbol)
    return tokens
