"""Whether a molecule still has the fragments that it was built around, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from imadarem.data.molecules import parse
from imadarem.design.fragment import Fragment

#: What is filled in has no bond to the fragment, such as a ring symbol of SELFIES alone.
UNFIT = "blanks do not fit the fragment"
#: None of the random spellings of the fragments that were tried fits, with its blanks.
TOO_LONG = "too long for the canvas"
#: Every reason for which a row is lost.
LOST = (
    UNFIT,
    TOO_LONG,
    "no molecule",
    "in several parts",
    "nothing new",
    "fragment changed",
    "stereo changed",
    "charge or isotope changed",
    "attachment points not respected",
    "fragments overlap or touch",
    "ring not closed",
)
MOST_MATCHES = 1000


def rejection_reason(
    smiles: str, fragments: Sequence[Fragment], *, apart: bool = False, closed: bool = False
) -> str | None:
    """Why a molecule cannot be returned, or ``None`` if it has all that was given.

    It has a fragment where RDKit finds it as a substructure with its stereo centres and
    double bonds, and where every atom of the match has the charge, the isotope and the
    number of neighbours, hydrogens included, that it had. Behind every attachment point
    stands a heavy atom, and nothing is bonded to the fragment elsewhere; a fragment without
    attachment points may carry something on every atom in place of hydrogen. A fragment's
    own atoms have no other bonds among themselves.

    Args:
        smiles: The molecule.
        fragments: What was given; several must not share atoms.
        apart: No bond goes from one fragment to another.
        closed: All that is new hangs together, so that it closes a ring between the attachment
            points of the only fragment.

    Returns:
        One of :data:`LOST`, or None.
    """
    molecule = parse(smiles)
    if molecule is None:
        return "no molecule"
    if "." in smiles:
        return "in several parts"
    if molecule.GetNumAtoms() <= sum(_weight(fragment) for fragment in fragments):
        return "nothing new"
    found = []
    for fragment in fragments:
        matches = list(_matches(molecule, fragment))
        if not matches:
            return _reason(molecule, fragment)
        found.append(matches)
    if not any(_disjoint(molecule, chosen, apart) for chosen in _choices(found)):
        return "fragments overlap or touch"
    if closed and not any(_one_piece(molecule, match) for match in found[0]):
        return "ring not closed"
    return None


def _one_piece(molecule: Any, own: frozenset[int]) -> bool:
    """Whether the atoms that are not ``own`` hang together without them."""
    from rdkit import Chem

    rest = Chem.RWMol(molecule)
    for index in sorted(own, reverse=True):
        rest.RemoveAtom(index)
    return len(Chem.GetMolFrags(rest)) == 1


def atoms_of(molecule: Any, fragment: Fragment) -> frozenset[int]:
    """The atoms of an RDKit molecule that are the fragment; empty where it is not there."""
    return next(_matches(molecule, fragment), frozenset())


def _weight(fragment: Fragment) -> int:
    return int(fragment.molecule.GetNumAtoms()) - len(fragment.ends)


def _matches(molecule: Any, fragment: Fragment) -> Iterator[frozenset[int]]:
    """The atoms of each way to find the fragment, its attachment points not among them."""
    for match in _found(molecule, fragment, chirality=True):
        if _same_atoms(molecule, fragment, match) and _same_places(molecule, fragment, match):
            yield _own(match, fragment)


def _found(molecule: Any, fragment: Fragment, *, chirality: bool) -> Any:
    return molecule.GetSubstructMatches(
        _query(fragment), uniquify=False, useChirality=chirality, maxMatches=MOST_MATCHES
    )


def _query(fragment: Fragment) -> Any:
    """The fragment with its attachment points as any atom."""
    from rdkit import Chem

    plain = Chem.RWMol(fragment.molecule)
    for index in fragment.ends:
        plain.GetAtomWithIdx(index).SetIsotope(0)
    wanted: Any = Chem.AdjustQueryParameters.NoAdjustments()
    wanted.makeDummiesQueries = True
    return Chem.AdjustQueryProperties(plain.GetMol(), wanted)


def _own(match: Sequence[int], fragment: Fragment) -> frozenset[int]:
    return frozenset(image for atom, image in enumerate(match) if atom not in fragment.ends)


def _pairs(molecule: Any, fragment: Fragment, match: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    for atom, image in enumerate(match):
        if atom not in fragment.ends:
            yield fragment.molecule.GetAtomWithIdx(atom), molecule.GetAtomWithIdx(image)


def _same_atoms(molecule: Any, fragment: Fragment, match: Sequence[int]) -> bool:
    return all(
        a.GetFormalCharge() == b.GetFormalCharge()
        and a.GetIsotope() == b.GetIsotope()
        and a.GetNumRadicalElectrons() == b.GetNumRadicalElectrons()
        for a, b in _pairs(molecule, fragment, match)
    )


def _same_places(molecule: Any, fragment: Fragment, match: Sequence[int]) -> bool:
    """Whether all that is new hangs on the attachment points, and on each of them."""
    own = _own(match, fragment)
    if any(match[end] in own for end in fragment.ends):
        return False
    inner = frozenset(range(fragment.molecule.GetNumAtoms())) - set(fragment.ends)
    if _bonds_within(molecule, own) != _bonds_within(fragment.molecule, inner):
        return False
    return all(
        a.GetTotalDegree() == b.GetTotalDegree()
        and (not fragment.ends or a.GetDegree() == b.GetDegree())
        for a, b in _pairs(molecule, fragment, match)
    )


def _bonds_within(molecule: Any, atoms: frozenset[int]) -> int:
    return sum(
        b.GetBeginAtomIdx() in atoms and b.GetEndAtomIdx() in atoms for b in molecule.GetBonds()
    )


def _reason(molecule: Any, fragment: Fragment) -> str:
    """Why there is no match: the first demand that no way of finding the fragment meets."""
    flat = _found(molecule, fragment, chirality=False)
    if not flat:
        # With no neighbour behind an attachment point, the rest may still be there.
        bare = Fragment(fragment.smiles, _without_ends(fragment), ())
        there = fragment.ends and _found(molecule, bare, chirality=False)
        return "attachment points not respected" if there else "fragment changed"
    alike = [match for match in flat if _same_atoms(molecule, fragment, match)]
    if not alike:
        return "charge or isotope changed"
    if not any(_same_places(molecule, fragment, match) for match in alike):
        return "attachment points not respected"
    return "stereo changed"


def _without_ends(fragment: Fragment) -> Any:
    from rdkit import Chem

    changed = Chem.RWMol(fragment.molecule)
    for index in sorted(fragment.ends, reverse=True):
        changed.RemoveAtom(index)
    return changed.GetMol()


def _choices(found: Sequence[Sequence[frozenset[int]]]) -> Iterator[list[frozenset[int]]]:
    """One match of each fragment, in every combination without a shared atom."""
    if not found:
        yield []
        return
    for rest in _choices(found[1:]):
        taken = frozenset[int]().union(*rest)
        for match in set(found[0]):
            if not match & taken:
                yield [match, *rest]


def _disjoint(molecule: Any, chosen: Sequence[frozenset[int]], apart: bool) -> bool:
    if not apart:
        return True
    home = {atom: number for number, match in enumerate(chosen) for atom in match}
    ends = ((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds())
    return all(home.get(a, -1) == home.get(b, -1) for a, b in ends if a in home and b in home)
