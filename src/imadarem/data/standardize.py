"""Molecules as one would register them: the parent structure, neutral, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imadarem.data.molecules import parse
from imadarem.errors import DataError
from imadarem.workers import Workers


@dataclass(frozen=True, slots=True)
class Standardized:
    """A molecule and what was changed to get it.

    Attributes:
        smiles: Canonical SMILES with stereo and isotopes.
        fragments: Other fragments, such as counter-ions and solvents, were left out.
        charges: Charges were neutralised.
        tautomer: Another tautomer was chosen.
    """

    smiles: str
    fragments: bool
    charges: bool
    tautomer: bool


def standardize(smiles: str, *, tautomer: bool = False) -> Standardized:
    """The parent structure of a molecule, by RDKit's rdMolStandardize.

    The largest fragment, its charges neutralised where hydrogen can, and on request its
    canonical tautomer. Stereo marks and isotopes stay.

    Args:
        smiles: One molecule, or a salt or mixture.
        tautomer: Also choose RDKit's canonical tautomer. It takes milliseconds a molecule, and
            stereo marks next to bonds that move are lost.

    Raises:
        DataError: ``smiles`` is no molecule.
        MissingExtraError: RDKit is not installed.
    """
    molecule = parse(smiles)
    if molecule is None:
        raise DataError(f"{smiles!r} is not a molecule. Read files with read_smiles first.")
    from rdkit import Chem, rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    fragments = charges = False
    with rdBase.BlockLogs():
        # Without these, there is one neutral fragment.
        if "." in smiles or "[" in smiles:
            parent = rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(molecule)
            fragments = parent.GetNumAtoms() < molecule.GetNumAtoms()
            molecule = rdMolStandardize.Uncharger().uncharge(parent)
            charges = _charges(molecule) != _charges(parent)
        form = str(Chem.MolToSmiles(molecule))
        if tautomer:
            molecule = rdMolStandardize.TautomerEnumerator().Canonicalize(molecule)
    final = str(Chem.MolToSmiles(molecule))
    return Standardized(final, fragments, charges, final != form)


def standardize_all(
    smiles: Sequence[str], workers: Workers, *, tautomer: bool = False
) -> tuple[list[str], dict[str, int]]:
    """Standardized molecules, each once, in the order of their first appearance.

    Returns:
        The molecules, and how many had ``fragments_removed``, were ``neutralised`` or became
            another ``tautomer``, and how many ``duplicates_removed``; counts above zero only.
    """
    found = workers.map("standardize", _Standardize(tautomer), smiles)
    distinct = list(dict.fromkeys(row.smiles for row in found))
    counts = Counter(
        {
            "fragments_removed": sum(row.fragments for row in found),
            "neutralised": sum(row.charges for row in found),
            "tautomer": sum(row.tautomer for row in found),
            "duplicates_removed": len(found) - len(distinct),
        }
    )
    return distinct, dict(+counts)


@dataclass(frozen=True)
class _Standardize:
    """:func:`standardize`; it travels to worker processes."""

    tautomer: bool

    def __call__(self, smiles: str) -> Standardized:
        return standardize(smiles, tautomer=self.tautomer)


def _charges(molecule: Any) -> int:
    return sum(abs(atom.GetFormalCharge()) for atom in molecule.GetAtoms())
