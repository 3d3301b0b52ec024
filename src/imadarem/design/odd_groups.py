"""Groups that a chemist would not draw: unstable, reactive or rare ones, and rings never seen.

Each pattern is in fewer than 0.6 % of 12,000 drug-like molecules (docs/filters.md), all of them
together in 3.1 %, and in 0.1 % of MOSES. A given part may have them: what is new counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from imadarem.data.molecules import parse
from imadarem.design.rings import new_ring_systems
from imadarem.errors import MissingExtraError

# A carbon that no acceptor stabilises, and a nitrogen that is no amide, sulfonamide, hydrazine.
_PLAIN_C = "[CX3;!$(C[CX3]=[O,S,N]);!$(CC#N);!$(C[N+](=O)[O-]);!$(CS(=O)=O)]"
_AMINE = "[NX3;!$(N-C=[O,S,N]);!$(NS(=O)=O);!$(N-[N,O])]"

ODD_GROUPS: dict[str, tuple[str, ...]] = {
    "enol": (f"{_PLAIN_C}=[CX3]-[OX2H1]",),
    "enol ether or ester": (f"{_PLAIN_C}=!@[CX3]-[OX2H0]",),
    "enamine": (f"{_PLAIN_C}=!@[CX3]-{_AMINE}", "[CX3]=!@[CX3;!$(C=CC=O)]-n"),
    "enamide": ("[CX3]=!@[CX3;!$(C-C=O)]-[NX3;$(N-C=[O,S]),$(NS(=O)=O)]",),
    "thioenol ether": (f"{_PLAIN_C}=!@[CX3]-[SX2]",),
    "polyene": (
        "[CX3;!R]=[CX3]-[CX3]=[CX3;!R]",
        "[CX3]=[CX3;!R]-[CX3;!R]=[CX3]",
        "[CX3;!R]=[CX3;!R]-[CX2]#[CX2]",
        "[CX2]#[CX2]-[CX2]#[CX2]",
    ),
    "cyclopentadiene": ("[C;r5]1=[C;r5][C;r5]=[C;r5]*1",),
    "imine": ("[CX3;!$(C(=N)[N,O,S]);!$(C=N-[N,O,S])]=!@[NX2]",),
    "cumulene": ("[#6,#7]=[CX2]=[#6,#7,#8,#16]",),
    "ring alkyne": ("[C;R](#[C;R])",),
    "peroxide": ("[OX2]-[OX2]", "[SX2]-[OX2]"),
    "hydroxylamine": (
        "[NX3;!$(N-C=[O,S]);!$(N=*);!$([N+]);!$(NS(=O)=O)]-!@[OX2]",
        "[OX2H1]-[NX3;!$(N-C=O)]",
    ),
    "hydrazine": (
        "[NX3;!$(N-C=[O,S,N]);!$(NS(=O)=O)]-!@[NX3;!$(N-C=[O,S,N]);!$(NS(=O)=O)]",
        "[#7,#8;!a]-!@[#7,#8;!a]-!@[#7,#8;!a]",
    ),
    "sulfenamide": ("[SX2]-!@[NX3]",),
    "halogen on N or O": ("[#7,#8]-[F,Cl,Br,I]",),
    "azo or azide": ("[NX2]=!@[NX2]", "[NX1]~[NX2]~[NX2,NX1]"),
    "nitroso": ("[NX2]=[OX1]",),
    "hemiacetal or hemiaminal": (
        "[OX2H1][CX4;!$(C1OCCCC1);!$(C1OCCC1);!$(C(F)F);!$(CC(F)(F)F);!$(CP=O)][OX2,NX3,SX2]",
        "[NX3H2][CX4][OX2,NX3,SX2]",
    ),
    "acetal or aminal": (
        f"[CX4;!R]({_AMINE}){_AMINE}",
        f"[CX4;!R]([OX2,SX2]){_AMINE}",
        "[CX4;!R;!$(C(F)F)]([OX2,SX2;!R])[OX2,SX2]",
        "[CX4;!$(C(F)F)]([OX2])([OX2])[OX2]",
    ),
    "halogen beside a heteroatom": (
        "[Cl,Br,I][CX4][OX2,NX3,SX2,n]",
        "F[CX4;!$(C(F)F)][OX2,NX3,SX2,n]",
    ),
    "acid halide or anhydride": (
        "[CX3](=[OX1])[F,Cl,Br,I]",
        "S(=O)(=O)[F,Cl,Br,I]",
        "[CX3](=O)[OX2,SX2][CX3](=O)",
    ),
    "carbamic or carbonic acid": ("[NX3,OX2][CX3](=O)[OX2H1]", "[CX3H1](=O)[OX2,SX2]"),
    "thioketone": ("[#6][CX3](=[SX1])[#6,#1]", "[CX3H1]=[SX1]"),
    "alkynyl heteroatom": ("[CX2]#[CX2]-[#7,#8,#16]",),
    "vinyl halide": ("[CX3;!R]=!@[CX3][Cl,Br,I]",),
    "hydride of P, B or Si": ("[PH,BH,BH2,SiH,SiH2,SiH3,PH2]",),
}
"""Name → SMARTS. Sugars, oximes, hydroxamic acids, vinylogous amides and esters, trifluoromethoxy
groups and cyclic acetals are no odd groups."""

#: Atoms of a ring from which on it is a macrocycle, of which no table has all.
MACROCYCLE = 9


def odd_groups(molecule: Any) -> Counter[str]:
    """How often an RDKit molecule has each of :data:`ODD_GROUPS`, those alone that it has."""
    found: Counter[str] = Counter()
    for name, patterns in _patterns().items():
        count = sum(len(molecule.GetSubstructMatches(pattern)) for pattern in patterns)
        if count:
            found[name] = count
    return found


class Oddities:
    """Why a molecule is odd beside given parts that may be.

    Args:
        given: RDKit molecules, whose odd groups and ring systems are no reason.
        macrocycles: A ring system with a ring of 9 atoms or more is no reason.
    """

    def __init__(self, given: Iterable[Any] = (), *, macrocycles: bool = False) -> None:
        self.macrocycles = macrocycles
        self.groups, self.rings = Counter[str](), Counter[str]()
        for molecule in given:
            self.groups += odd_groups(molecule)
            self.rings.update(new_ring_systems(molecule))

    def rejection_reason(self, smiles: str) -> str | None:
        """``odd group: enol ether``, ``ring system not in the table``, or None."""
        molecule = parse(smiles)
        assert molecule is not None
        if groups := odd_groups(molecule) - self.groups:
            return f"odd group: {next(iter(groups))}"
        rings = Counter(new_ring_systems(molecule)) - self.rings
        if any(not (self.macrocycles and _macrocycle(system)) for system in rings):
            return "ring system that is not in the reference table"
        return None


def first_reason(
    one: Callable[[str], str | None], other: Callable[[str], str | None] | None
) -> Callable[[str], str | None]:
    """Two reasons to reject a molecule as one, the first that there is."""
    return one if other is None else lambda smiles: one(smiles) or other(smiles)


def _macrocycle(smiles: str) -> bool:
    molecule = parse(smiles)
    assert molecule is not None
    return any(len(ring) >= MACROCYCLE for ring in molecule.GetRingInfo().AtomRings())


@cache
def _patterns() -> dict[str, list[Any]]:
    try:
        from rdkit import Chem
    except ImportError:
        raise MissingExtraError("rdkit", "mol") from None
    return {name: [Chem.MolFromSmarts(p) for p in texts] for name, texts in ODD_GROUPS.items()}
