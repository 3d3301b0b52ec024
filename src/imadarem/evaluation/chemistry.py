"""What is measured on one molecule.

Fragments, scaffolds, fingerprints and the substructure filters are those of MOSES
(arXiv:1811.12823, ``moses/metrics/utils.py`` of ``molsets==0.3.1``).
"""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imadarem.data.molecules import parse
from imadarem.errors import MissingExtraError

try:
    from rdkit import Chem, rdBase
    from rdkit.Chem import QED, Crippen, Descriptors, rdFingerprintGenerator
    from rdkit.Chem.rdmolops import FragmentOnBRICSBonds
    from rdkit.Chem.Scaffolds import MurckoScaffold
    from rdkit.Contrib.SA_Score import sascorer
except ImportError as error:
    raise MissingExtraError("rdkit", "mol") from error

NARROW, WIDE = 1024, 2048
"""Bits of MOSES' Morgan fingerprint, and of the one under GenMol's diversity."""

ALLOWED_ATOMS = frozenset({"C", "N", "S", "O", "F", "Cl", "Br", "H"})
LARGEST_RING = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Measurements on one molecule.

    Attributes:
        narrow: Morgan fingerprint, radius 2, 1024 bits, packed into 128 bytes.
        wide: The same with 2048 bits, in 256 bytes.
        fragments: SMILES of its BRICS fragments.
        scaffold: SMILES of its Murcko scaffold if that has at least two rings.
        logp: Crippen's logP.
        sa: Synthetic accessibility, 1 (easy) to 10 (Ertl and Schuffenhauer 2009).
        qed: Quantitative estimate of drug-likeness, in [0, 1] (Bickerton 2012).
        weight: Molecular weight in daltons.
        passes: Whether it passes MOSES' filters; ``None`` if that was not asked for.
    """

    narrow: bytes
    wide: bytes
    fragments: tuple[str, ...]
    scaffold: str | None
    logp: float
    sa: float
    qed: float
    weight: float
    passes: bool | None


def describe(smiles: str, *, filters: bool = True) -> Features | None:
    """Measure one molecule; ``None`` if the string is none.

    Args:
        smiles: One molecule. Give the canonical form to agree with MOSES to the last
            digit: BRICS and Murcko see the order of the atoms.
        filters: Also match MOSES' 502 substructures, which takes longer than the rest.
    """
    molecule = parse(smiles)
    if molecule is None:
        return None
    with rdBase.BlockLogs():
        return Features(
            narrow=_fingerprint(molecule, NARROW),
            wide=_fingerprint(molecule, WIDE),
            fragments=_fragments(molecule),
            scaffold=_scaffold(molecule),
            logp=Crippen.MolLogP(molecule),  # type: ignore[attr-defined]
            sa=_synthetic_accessibility(molecule),
            qed=QED.qed(molecule),
            weight=Descriptors.MolWt(molecule),  # type: ignore[attr-defined]
            passes=_passes(molecule) if filters else None,
        )


def fingerprint(smiles: str) -> NDArray[np.uint8]:
    """``(256,)``: :attr:`Features.wide` of a molecule, as an array."""
    return np.packbits(_morgan(WIDE).GetFingerprintAsNumPy(parse(smiles)))


def passes_filters(smiles: str) -> bool:
    """MOSES' ``Filters`` for one molecule; a string that is no molecule does not pass.

    Refused are rings of eight or more atoms, any charged atom, any element other than
    C, N, S, O, F, Cl, Br, H, and the 22 medicinal-chemistry and 480 PAINS patterns.
    """
    molecule = parse(smiles)
    if molecule is None:
        return False
    with rdBase.BlockLogs():
        return _passes(molecule)


def _fingerprint(molecule: Any, bits: int) -> bytes:
    return np.packbits(_morgan(bits).GetFingerprintAsNumPy(molecule)).tobytes()


def _fragments(molecule: Any) -> tuple[str, ...]:
    return tuple(Chem.MolToSmiles(FragmentOnBRICSBonds(molecule)).split("."))


def _scaffold(molecule: Any) -> str | None:
    try:
        scaffold = MurckoScaffold.GetScaffoldForMol(molecule)
    except (ValueError, RuntimeError):  # a few unusual valences do not survive the cutting
        return None
    text: str = Chem.MolToSmiles(scaffold)
    return text if text and scaffold.GetRingInfo().NumRings() >= 2 else None


def _synthetic_accessibility(molecule: Any) -> float:
    """SA score; 10, the hardest, for what the scorer has no fragments for (lone atoms)."""
    try:
        score = sascorer.calculateScore(molecule)
    except (ValueError, ZeroDivisionError):
        score = None
    return 10.0 if score is None else float(score)


def _passes(molecule: Any) -> bool:
    rings = molecule.GetRingInfo().AtomRings()
    if any(len(ring) > LARGEST_RING for ring in rings):
        return False
    atoms = molecule.GetAtoms()
    if any(a.GetFormalCharge() != 0 or a.GetSymbol() not in ALLOWED_ATOMS for a in atoms):
        return False
    if _has_pattern(Chem.AddHs(molecule)):
        return False
    # MOSES also asks whether the molecule survives the loss of its stereo marks.
    return parse(Chem.MolToSmiles(molecule, isomericSmiles=False)) is not None


def _has_pattern(molecule: Any) -> bool:
    """Whether one of MOSES' 502 substructures occurs in a molecule with explicit hydrogens.

    A substructure's pattern fingerprint is contained in that of every molecule that has
    it (RDKit's screen for substructure libraries), so most patterns need no matching.
    """
    patterns, screen = _patterns()
    possible = ~(screen & ~_pattern_bits(molecule)).any(axis=1)
    return any(molecule.HasSubstructMatch(patterns[row]) for row in np.flatnonzero(possible))


def _pattern_bits(molecule: Any) -> NDArray[np.uint8]:
    """(256,) packed pattern fingerprint of a molecule or a query."""
    text = Chem.PatternFingerprint(molecule).ToBitString()
    return np.packbits(np.frombuffer(text.encode(), dtype=np.uint8) - ord("0"))


# --- loaded once in each process


@cache
def _patterns() -> tuple[list[Any], NDArray[np.uint8]]:
    """The substructures of MOSES' filters, and their pattern fingerprints (502, 256)."""
    packed = files("imadarem.data").joinpath("files/moses_filters.csv.gz").read_bytes()
    rows = csv.DictReader(io.StringIO(gzip.decompress(packed).decode()))
    patterns = [Chem.MolFromSmarts(row["SMARTS"]) for row in rows]
    return patterns, np.stack([_pattern_bits(pattern) for pattern in patterns])


@cache
def _morgan(bits: int) -> Any:
    return rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=bits)
