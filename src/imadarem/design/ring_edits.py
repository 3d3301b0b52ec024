"""Small changes of ring systems, which blanks in a text seldom reach.

A ring is fused onto an aromatic bond, an unsubstituted ring is taken off its neighbour, a
substituent moves to another atom of its ring, or an aromatic CH becomes N or the reverse. To
write a fused ring into a SMILES, a model has to change several distant tokens at once; on the
graph it is one step, as in the graph-based genetic algorithm of Jensen (doi:10.1039/C8SC05372C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from imadarem.data.molecules import parse
from imadarem.design.rings import new_ring_systems

#: Atoms that a fused ring has beside the two of the bond, as atomic numbers; 0 is C or N.
BRIDGES = ((0, 0, 0, 0), (0, 0, 7), (7, 0, 0), (0, 0, 8), (8, 0, 0), (0, 0, 16), (16, 0, 0))
#: Share of the fused rings that have six atoms, and of N among the atoms that may be C.
SIX_SHARE, NITROGEN_SHARE = 0.7, 0.15
TRIES = 10


def with_other_rings(smiles: str, rng: np.random.Generator) -> str | None:
    """A molecule with one change of its rings; None where ten tries find none.

    Its ring systems are in the reference table, or those that the molecule had.
    """
    from rdkit import Chem, rdBase

    molecule = parse(smiles)
    assert molecule is not None
    known = set(new_ring_systems(molecule))
    edits: tuple[Edit, ...] = (_fused, _unfused, _moved, _swapped)
    for _ in range(TRIES):
        changed = edits[int(rng.integers(len(edits)))](molecule, rng)
        if changed is None:
            continue
        with rdBase.BlockLogs():
            if Chem.SanitizeMol(changed, catchErrors=True):
                continue
            text = str(Chem.MolToSmiles(changed))
        again = parse(text)
        if again is not None and text != smiles and set(new_ring_systems(again)) <= known:
            return text
    return None


Edit = Callable[[Any, np.random.Generator], Any]


def _fused(molecule: Any, rng: np.random.Generator) -> Any:
    """A ring more on an aromatic bond; what hung on its atoms hangs on the new ones."""
    from rdkit import Chem

    bonds = [b for b in molecule.GetBonds() if b.GetIsAromatic() and _open_ends(b)]
    if not bonds:
        return None
    bond = bonds[int(rng.integers(len(bonds)))]
    ends = [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]
    six = rng.random() < SIX_SHARE
    kinds = BRIDGES[0] if six else BRIDGES[int(rng.integers(1, len(BRIDGES)))]
    changed = Chem.RWMol(molecule)
    bridge = [changed.AddAtom(_ring_atom(kind, rng)) for kind in kinds]
    path = [ends[0], *bridge, ends[1]]
    for one, other in zip(path, path[1:], strict=False):
        changed.AddBond(one, other, Chem.BondType.AROMATIC)
    carbons = [i for i in bridge if changed.GetAtomWithIdx(i).GetAtomicNum() == 6]
    free = rng.permutation(carbons).tolist()
    for end in ends:
        for side in _substituents(molecule, end):
            if not free:
                return None
            _move(changed, side, end, free.pop())
    return changed


def _ring_atom(kind: int, rng: np.random.Generator) -> Any:
    from rdkit import Chem

    number = kind or (7 if rng.random() < NITROGEN_SHARE else 6)
    atom = Chem.Atom(number)
    atom.SetIsAromatic(True)
    if kind == 7:  # of a five-membered ring; the others are pyridine's
        atom.SetNumExplicitHs(1)
    return atom


def _open_ends(bond: Any) -> bool:
    """Whether a ring can be fused onto a bond: both atoms are carbons of one ring alone."""
    ends = (bond.GetBeginAtom(), bond.GetEndAtom())
    rings = bond.GetOwningMol().GetRingInfo()
    return all(a.GetAtomicNum() == 6 and rings.NumAtomRings(a.GetIdx()) == 1 for a in ends)


def _unfused(molecule: Any, rng: np.random.Generator) -> Any:
    """Without a ring whose own atoms carry nothing, on one bond of another ring."""
    from rdkit import Chem

    info = molecule.GetRingInfo()
    choices = []
    for ring in info.AtomRings():
        own = [i for i in ring if info.NumAtomRings(i) == 1]
        bare = all(molecule.GetAtomWithIdx(i).GetDegree() == 2 for i in own)
        if bare and len(ring) - len(own) == 2:
            choices.append(own)
    if not choices:
        return None
    changed = Chem.RWMol(molecule)
    for index in sorted(choices[int(rng.integers(len(choices)))], reverse=True):
        changed.RemoveAtom(index)
    return changed


def _moved(molecule: Any, rng: np.random.Generator) -> Any:
    """A substituent on another carbon of its ring system."""
    from rdkit import Chem

    info = molecule.GetRingInfo()
    choices = []
    for ring in info.AtomRings():
        free = [i for i in ring if _has_hydrogen(molecule.GetAtomWithIdx(i))]
        for index in ring:
            choices += [(side, index, to) for side in _substituents(molecule, index) for to in free]
    if not choices:
        return None
    changed = Chem.RWMol(molecule)
    _move(changed, *choices[int(rng.integers(len(choices)))])
    return changed


def _swapped(molecule: Any, rng: np.random.Generator) -> Any:
    """N in place of an aromatic CH, or the reverse."""
    from rdkit import Chem

    choices = [
        atom.GetIdx()
        for atom in molecule.GetAtoms()
        if atom.GetIsAromatic()
        and atom.GetDegree() == 2
        and not atom.GetFormalCharge()
        and (atom.GetAtomicNum(), atom.GetTotalNumHs()) in ((6, 1), (7, 0))
    ]
    if not choices:
        return None
    changed = Chem.RWMol(molecule)
    atom = changed.GetAtomWithIdx(choices[int(rng.integers(len(choices)))])
    atom.SetAtomicNum(13 - atom.GetAtomicNum())
    return changed


def _has_hydrogen(atom: Any) -> bool:
    return atom.GetAtomicNum() == 6 and atom.GetTotalNumHs() > 0 and not atom.GetChiralTag()


def _substituents(molecule: Any, index: int) -> Iterator[int]:
    """What hangs on an atom without a stereo mark by a single bond outside of rings."""
    from rdkit.Chem import BondType

    atom = molecule.GetAtomWithIdx(index)
    for bond in () if atom.GetChiralTag() else atom.GetBonds():
        if not bond.IsInRing() and bond.GetBondType() == BondType.SINGLE:
            yield bond.GetOtherAtomIdx(index)


def _move(molecule: Any, side: int, start: int, end: int) -> None:
    from rdkit import Chem

    molecule.RemoveBond(side, start)
    molecule.AddBond(side, end, Chem.BondType.SINGLE)
