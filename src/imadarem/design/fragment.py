"""A fragment as a chemist writes it: SMILES with attachment points, or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from imadarem.data.molecules import parse, parse_error
from imadarem.errors import DataError

LONGEST = 1000
"""Characters of a fragment; a longer text is no fragment of a drug-like molecule."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part that must be in every molecule.

    Attributes:
        smiles: As it was given.
        molecule: RDKit's reading of it; attachment points are dummy atoms, each with an
            isotope of its own, so that a centre between two of them keeps its mark.
        ends: Indices of the dummy atoms, in the order of the text.
    """

    smiles: str
    molecule: Any
    ends: tuple[int, ...]

    @property
    def free_atoms(self) -> tuple[int, ...]:
        """Atoms with a hydrogen to give away; stereo centres are left as they are."""
        return tuple(
            atom.GetIdx()
            for atom in self.molecule.GetAtoms()
            if atom.GetTotalNumHs() > 0 and not atom.GetChiralTag() and atom.GetAtomicNum() > 0
        )

    def attached_at(self, atoms: Sequence[int]) -> Fragment:
        """The same fragment with an attachment point in place of a hydrogen of each atom."""
        from rdkit import Chem

        changed = Chem.RWMol(self.molecule)
        ends = list(self.ends)
        for index in atoms:
            atom = changed.GetAtomWithIdx(index)
            if atom.GetNumExplicitHs():
                atom.SetNumExplicitHs(atom.GetNumExplicitHs() - 1)
            dummy = Chem.Atom(0)
            dummy.SetIsotope(len(ends) + 1)
            ends.append(changed.AddAtom(dummy))
            changed.AddBond(index, ends[-1], Chem.BondType.SINGLE)
        molecule = changed.GetMol()
        Chem.SanitizeMol(molecule)
        return Fragment(self.smiles, molecule, tuple(ends))


def without_salts(text: str) -> tuple[str, list[str]]:
    """A SMILES without counter-ions and solvents, and those; neutral where an ion was removed.

    They are RDKit's list of salts (``SaltRemover``). A text of nothing else stays as it is.
    """
    parts = text.strip().split(".")
    removed = [part for part in parts if len(parts) > 1 and _is_salt(part)]
    if not removed or len(removed) == len(parts):
        return text, []
    kept = [part for part in parts if part not in removed]
    if any(sign in part for part in removed for sign in "+-"):
        kept = [_neutral(part) for part in kept]
    return ".".join(kept), removed


def _is_salt(text: str) -> bool:
    from rdkit.Chem.SaltRemover import SaltRemover

    found, remover = parse(text), cast(Any, SaltRemover())
    return found is not None and any(
        found.GetNumAtoms() == salt.GetNumAtoms() and found.HasSubstructMatch(salt)
        for salt in remover.salts
    )


def _neutral(text: str) -> str:
    from rdkit import Chem, rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    found = parse(text)
    if found is None:
        return text
    with rdBase.BlockLogs():
        return str(Chem.MolToSmiles(rdMolStandardize.Uncharger().uncharge(found)))


def read_fragments(texts: Iterable[str]) -> list[Fragment]:
    """Fragments, each a text of its own or several in one text with dots between them."""
    return [read_fragment(part) for text in texts for part in text.split(".")]


def read_fragment(text: str) -> Fragment:
    """Read one fragment.

    Args:
        text: SMILES. An attachment point is a dummy atom with one single bond: ``*``,
            ``[*]``, ``[*:1]`` or ``[1*]``; numbers tell the points apart and mean nothing
            else. Hydrogens that are written out count as all others.

    Raises:
        DataError: It is no molecule, has more than one part, no atom of its own, or an
            attachment point that is none.
        MissingExtraError: RDKit is not installed.
    """
    text = text.strip()
    if not text or len(text) > LONGEST:
        raise DataError(
            f"the fragment {text[:40]!r} has {len(text)} characters; give a SMILES of 1 to "
            f"{LONGEST:,}."
        )
    found = parse(text)
    if found is None:
        raise DataError(f"the fragment {text[:80]!r} cannot be read: {_advice(text)}")
    if "." in text:
        raise DataError(
            f"the fragment {text[:80]!r} has several parts. Leave counter-ions out; two parts "
            "to be joined belong to --linker A B."
        )
    from rdkit import Chem

    molecule = Chem.RWMol(found)
    dummies = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum() == 0]
    if len(dummies) == molecule.GetNumAtoms():
        raise DataError(f"the fragment {text!r} has no atom of its own, only attachment points.")
    for number, dummy in enumerate(dummies, start=1):
        _check_attachment(dummy, text)
        dummy.SetIsotope(number)
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(0)
    return Fragment(text, molecule.GetMol(), tuple(dummy.GetIdx() for dummy in dummies))


def matched_part(smiles: str, patterns: Iterable[str]) -> Fragment | None:
    """The atoms of a molecule that patterns match, as a fragment; None without a pattern.

    An atom next to them becomes an attachment point, by the bonds that it has to them. So a
    molecule that keeps the fragment keeps the hydrogens, the neighbours, the charge and the
    stereo of every matched atom.

    Raises:
        DataError: A pattern cannot be read, matches nothing, or all atoms are matched.
    """
    molecule = parse(smiles)
    assert molecule is not None
    own: set[int] = set()
    for pattern in patterns:
        matches = molecule.GetSubstructMatches(_query(pattern))
        if not matches:
            raise DataError(f"the pattern {pattern!r} matches no atom of {smiles}.")
        own.update(atom for match in matches for atom in match)
    if len(own) == molecule.GetNumAtoms():
        raise DataError(f"the patterns match every atom of {smiles}, so nothing can change.")
    return _cut_out(molecule, own) if own else None


def _query(pattern: str) -> Any:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        query = Chem.MolFromSmarts(pattern)
    if query is None or not query.GetNumAtoms():
        raise DataError(
            f"{pattern[:80]!r} is not a SMARTS pattern. Give a SMILES or SMARTS, such as "
            "'C(=O)N' or 'c1ccncc1'."
        )
    return query


def _cut_out(molecule: Any, own: set[int]) -> Fragment:
    from rdkit import Chem

    changed = Chem.RWMol(molecule)
    near = {n.GetIdx() for i in own for n in molecule.GetAtomWithIdx(i).GetNeighbors()} - own
    for number, index in enumerate(sorted(near), start=1):
        dummy = Chem.Atom(0)
        dummy.SetIsotope(number)
        changed.ReplaceAtom(index, dummy)
    for bond in molecule.GetBonds():
        one, other = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if not own & {one, other}:
            changed.RemoveBond(one, other)
    kept = sorted(own | near)
    for index in sorted(set(range(molecule.GetNumAtoms())) - set(kept), reverse=True):
        changed.RemoveAtom(index)
    part = changed.GetMol()
    part.UpdatePropertyCache(strict=False)
    ends = tuple(kept.index(index) for index in sorted(near))
    return Fragment(Chem.MolToSmiles(part), part, ends)


def _check_attachment(dummy: Any, text: str) -> None:
    from rdkit.Chem import BondType

    bonds = dummy.GetBonds()
    if len(bonds) != 1:
        raise DataError(
            f"an attachment point of {text[:80]!r} has {len(bonds)} bonds; it must have 1. "
            "Write it as an end of the fragment, such as c1ccccc1*."
        )
    if bonds[0].GetBondType() != BondType.SINGLE:
        raise DataError(
            f"an attachment point of {text[:80]!r} has a double or triple bond. Make the atom "
            "behind that bond part of the fragment, and attach to it: CC=C* instead of CC=*."
        )
    if bonds[0].GetOtherAtom(dummy).GetAtomicNum() == 0:
        raise DataError(f"two attachment points of {text[:80]!r} are bonded to each other.")


def _advice(text: str) -> str:
    """RDKit's reason, and what to write instead where that can be found."""
    reason = parse_error(text)
    if "kekulize" in reason.lower():
        instead = _with_hydrogen(text)
        hint = f" Did you mean {instead}?" if instead else ""
        return (
            f"{reason}. An aromatic nitrogen that carries a hydrogen is written [nH], one that "
            f"carries an attachment n(*) or n*.{hint}"
        )
    if "R" in text.upper() and "*" not in text:
        return f"{reason}. Write attachment points as * or [*:1], not as R."
    return f"{reason}. Give a valid SMILES, attachment points as *, [*:1] or [1*]."


def _with_hydrogen(text: str) -> str | None:
    """The text with a hydrogen on one aromatic nitrogen, if that makes it a molecule."""
    for at, letter in enumerate(text):
        if letter == "n" and text[at - 1 : at] != "[":
            changed = f"{text[:at]}[nH]{text[at + 1 :]}"
            if parse(changed) is not None:
                return changed
    return None
