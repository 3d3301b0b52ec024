"""Ring systems of molecules, and a table of those that known molecules have."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from imadarem.data.molecules import parse


def ring_systems(molecule: Any) -> list[str]:
    """SMILES of each ring system of an RDKit molecule, without stereo and substituents.

    Rings that share an atom are one system. Atoms that are double-bonded to it belong to it, so
    a pyridone is no pyridine.
    """
    return [_alone(molecule, atoms) for atoms in _systems(molecule)]


def new_ring_systems(molecule: Any) -> list[str]:
    """The ring systems of an RDKit molecule that the reference table does not have."""
    known = known_ring_systems()
    return [system for system in ring_systems(molecule) if system not in known]


@cache
def known_ring_systems() -> frozenset[str]:
    """Ring systems of at least two molecules of a sample of ChEMBL 31;
    ``docs/how-to/filters.md`` says what counts as one.
    """
    packed = files("imadarem.data").joinpath("files/ring_systems.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode().split())


def count_ring_systems(smiles: Iterable[str]) -> Counter[str]:
    """In how many molecules each ring system occurs; what is no molecule is left out."""
    counts: Counter[str] = Counter()
    for text in smiles:
        molecule = parse(text)
        if molecule is not None:
            counts.update(set(ring_systems(molecule)))
    return counts


def _systems(molecule: Any) -> list[set[int]]:
    systems: list[set[int]] = []
    for ring in molecule.GetRingInfo().AtomRings():
        merged = set(ring)
        apart = []
        for system in systems:
            if merged & system:
                merged |= system
            else:
                apart.append(system)
        systems = [*apart, merged]
    return systems


def _alone(molecule: Any, system: set[int]) -> str:
    """SMILES of a ring system with hydrogens in place of what hangs on it by single bonds."""
    from rdkit import Chem

    atoms = [molecule.GetAtomWithIdx(index) for index in system]
    hydrogens = dict.fromkeys(system, 0)
    bonds: dict[int, Any] = {}
    for atom in atoms:
        for bond in atom.GetBonds():
            inside = bond.GetOtherAtomIdx(atom.GetIdx()) in system
            if inside or bond.GetBondType() == Chem.BondType.DOUBLE:
                bonds[bond.GetIdx()] = bond
            elif atom.GetNoImplicit() or (atom.GetIsAromatic() and atom.GetAtomicNum() != 6):
                hydrogens[atom.GetIdx()] += 1
    part = Chem.RWMol()
    places: dict[int, int] = {}
    for bond in bonds.values():
        for atom in (bond.GetBeginAtom(), bond.GetEndAtom()):
            index = atom.GetIdx()
            if index not in places:
                places[index] = part.AddAtom(atom)
                added = part.GetAtomWithIdx(places[index])
                added.SetNumExplicitHs(added.GetNumExplicitHs() + hydrogens.get(index, 0))
        ends = (places[bond.GetBeginAtomIdx()], places[bond.GetEndAtomIdx()])
        part.AddBond(*ends, bond.GetBondType())
    return str(Chem.MolToSmiles(part, isomericSmiles=False))
