"""SAFE-style notation: a molecule as fragments that ring-closure numbers hold together.

``CC(=O)Nc1ccccc1OC`` is cut at its BRICS bonds into ``C%11(C)=O.N%10%11.c1%10ccccc1%12.O%12C``,
say: the fragments stand side by side in any order, and the two ends of a cut bond carry the
same number. The string is a valid SMILES of the whole molecule. Tokens of a fragment stay
together, so a fragment can be given and the others left blank.

Source: Noutahi et al., arXiv:2310.10773. Two choices differ. Cut bonds are numbered from
``%10`` upwards in the order of their appearance, so that a token is either a ring or a cut
and never both; SAFE goes on from the largest ring number. And not every BRICS bond is cut:
fragments of one or two atoms, half of all, would cost more tokens for links than they hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from imadarem.errors import DataError, MissingExtraError
from imadarem.tokenizers.corpus import CorpusTokenizer, shortened
from imadarem.tokenizers.molecules import SMILES_PATTERN

if TYPE_CHECKING:
    import numpy as np

FIRST_LINK, LAST_LINK = 10, 99
"""The numbers of cut bonds; RDKit numbers rings from 1."""

Piece = tuple[str | int, ...]
"""A fragment's tokens; an int names a link to another fragment, by whatever numbering."""

#: Fragments of fewer heavy atoms stay with a neighbour.
LEAST_ATOMS = 3
#: Share of the molecules that are cut between rings and what hangs on them instead.
HANGING_SHARE = 0.25
MOST_HANGING = 6

_TOKENS = re.compile(SMILES_PATTERN)
_BONDS = frozenset("-=#$:/\\~")


class SafeTokenizer(CorpusTokenizer):
    """One token per atom, bond, branch, ring closure or link of a SAFE-style string.

    Texts go in as SMILES and come out as canonical SMILES; what the tokens spell that is no
    molecule, such as a link with one end, comes out as it stands.
    """

    notation = "safe"
    pattern = SMILES_PATTERN

    @classmethod
    def to_notation(cls, text: str) -> str:
        """SMILES → SAFE: :func:`to_safe` with the molecule's own order of fragments."""
        return to_safe(text)

    @classmethod
    def to_text(cls, notation: str) -> str:
        """SAFE → canonical SMILES, or ``notation`` itself where it is no molecule."""
        molecule = _parsed(notation)
        return notation if molecule is None else str(_chem().MolToSmiles(molecule))


def to_safe(smiles: str, rng: np.random.Generator | None = None) -> str:
    """The fragments of a molecule in random order; the result spells the same molecule.

    That is checked, stereo marks and isotopes included. Bonds at a stereo centre are left
    whole where cutting them would lose it. One molecule in four is cut at up to six bonds
    between a ring and what hangs on it, whatever its size, so that a corpus also has the
    small groups that decorate a scaffold.

    Args:
        smiles: One molecule; a salt's parts are fragments without links.
        rng: Draws the cuts and the order. Default: a generator seeded by the molecule, so
            that it has one spelling however it came, and a corpus has all orders.

    Raises:
        DataError: ``smiles`` is no molecule, or has no SAFE string that gives it back.
        MissingExtraError: RDKit is not installed.
    """
    molecule = _parsed(smiles)
    if molecule is None:
        raise DataError(
            f"the SMILES {shortened(smiles)!r} is not a molecule. Correct it or remove it."
        )
    form = _chem().MolToSmiles(molecule)
    # The atoms in canonical order: the spelling must not depend on how the molecule came.
    molecule = molecule if form == smiles else _parsed(form)
    if molecule is not None and _chem().MolToSmiles(molecule) == form:
        import numpy as np

        rng = rng or np.random.default_rng(_number(form))
        for cuts in _attempts(molecule, rng):
            parts = pieces(molecule, cuts)
            text = join([parts[i] for i in rng.permutation(len(parts))])
            found = _parsed(text)
            if found is not None and _chem().MolToSmiles(found) == form:
                return text
    raise DataError(
        f"the SMILES {shortened(smiles)!r} does not survive its fragmentation unchanged. "
        "Leave it out, or use the notation smiles."
    )


def pieces(
    molecule: Any, cuts: Sequence[int] | None = None, ends: Mapping[int, int] | None = None
) -> list[Piece]:
    """The fragments of a molecule, each spelt from one of its links onwards.

    A fragment's spelling does not depend on the others unless it has a stereo centre.

    Args:
        molecule: A sanitised RDKit molecule.
        cuts: Indices of the bonds to cut, single ones; default :func:`fragment_bonds`. The
            link of the ``i``-th is ``i``.
        ends: Dummy atoms of ``molecule`` that stand for a link to something absent, with the
            number of that link: -1, -2, … keep clear of the cuts.
    """
    chem = _chem()
    cuts = fragment_bonds(molecule) if cuts is None else cuts
    count = molecule.GetNumAtoms()
    # FragmentOnBonds puts the dummies of the i-th bond behind the atoms, two by two.
    links = {count + k: k // 2 for k in range(2 * len(cuts))} | dict(ends or {})
    whole = molecule
    if cuts:
        whole = chem.FragmentOnBonds(molecule, list(cuts), dummyLabels=[(0, 0)] * len(cuts))
    if any(atom.GetChiralTag() for atom in molecule.GetAtoms()):
        # Alike dummies would make a centre between them look symmetric, and lose its mark.
        whole = chem.RWMol(whole)
        for label, atom in enumerate(links, start=1):
            whole.GetAtomWithIdx(atom).SetIsotope(label)
    atoms: list[Any] = []
    parts = chem.GetMolFrags(whole, asMols=True, sanitizeFrags=False, fragsMolAtomMapping=atoms)
    return [
        _piece(part, {i: links[atom] for i, atom in enumerate(mapping) if atom in links})
        for part, mapping in zip(parts, atoms, strict=True)
    ]


def join(parts: Sequence[Piece], numbers: dict[int, int] | None = None) -> str:
    """Fragments in the given order as one string, their links numbered as they appear.

    Args:
        parts: Fragments.
        numbers: Filled with the number of each link.
    """
    numbers = {} if numbers is None else numbers
    first = max([FIRST_LINK, *(1 + ring for part in parts for ring in _wide_rings(part))])
    for link in (token for part in parts for token in part if isinstance(token, int)):
        numbers.setdefault(link, first + len(numbers))
    return ".".join(
        "".join(f"%{numbers[token]}" if isinstance(token, int) else token for token in part)
        for part in parts
    )


def fragment_bonds(molecule: Any) -> list[int]:
    """Indices of the BRICS bonds between fragments of at least three heavy atoms.

    A smaller one stays with its smallest neighbour. Double bonds, and bonds beside a double
    bond that has a configuration, are left whole.

    Source: Degen et al., ChemMedChem 3:1503 (2008), as RDKit has it.
    """
    from rdkit.Chem import BRICS

    ends = [pair for pair, _ in BRICS.FindBRICSBonds(molecule)]
    bonds = [molecule.GetBondBetweenAtoms(*pair) for pair in ends]
    return _merged(molecule, [bond for bond in bonds if _may_be_cut(bond)])


def _merged(molecule: Any, bonds: list[Any]) -> list[int]:
    """The bonds that are left when small fragments have joined their smallest neighbours."""
    cuts = {bond.GetIdx(): (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds}
    if not cuts:
        return []
    parts = _chem().GetMolFrags(_chem().FragmentOnBonds(molecule, list(cuts), addDummies=False))
    # Dummy atoms of a fragment that is given have no weight of their own.
    weight = [sum(molecule.GetAtomWithIdx(a).GetAtomicNum() > 0 for a in part) for part in parts]
    home = {atom: number for number, part in enumerate(parts) for atom in part}
    while cuts:
        sides = {cut: (home[one], home[other]) for cut, (one, other) in cuts.items()}
        small, large, cut = min(
            (min(weight[a], weight[b]), max(weight[a], weight[b]), c) for c, (a, b) in sides.items()
        )
        if small >= LEAST_ATOMS and len(cuts) <= LAST_LINK - FIRST_LINK:
            break
        larger, gone = sides[cut]
        weight[larger] += weight[gone]
        home = {atom: larger if part == gone else part for atom, part in home.items()}
        del cuts[cut]
    return list(cuts)


def _hanging_bonds(molecule: Any, rng: np.random.Generator) -> list[int]:
    """Up to six bonds, drawn at random, of those between a ring and what hangs on it."""
    found = [
        bond.GetIdx()
        for bond in molecule.GetBonds()
        if not bond.IsInRing()
        and (bond.GetBeginAtom().IsInRing() or bond.GetEndAtom().IsInRing())
        and _may_be_cut(bond)
    ]
    count = int(rng.integers(1, MOST_HANGING + 1))
    return sorted(rng.permutation(found)[:count].tolist())


def _may_be_cut(bond: Any) -> bool:
    chem = _chem()
    beside = (b for atom in (bond.GetBeginAtom(), bond.GetEndAtom()) for b in atom.GetBonds())
    return bond.GetBondType() == chem.BondType.SINGLE and not any(
        b.GetStereo() > chem.BondStereo.STEREOANY for b in beside
    )


def _attempts(molecule: Any, rng: np.random.Generator) -> Iterator[list[int]]:
    """Sets of bonds to cut: one drawn; those of it away from stereo centres; none."""
    hanging = rng.random() < HANGING_SHARE
    cuts = _hanging_bonds(molecule, rng) if hanging else fragment_bonds(molecule)
    yield cuts
    bonds = (molecule.GetBondWithIdx(index) for index in cuts)
    yield [
        bond.GetIdx()
        for bond in bonds
        if not bond.GetBeginAtom().GetChiralTag() and not bond.GetEndAtom().GetChiralTag()
    ]
    yield []


# --- from a fragment with dummy atoms to tokens with links


@dataclass
class _Atom:
    """An atom on its way into a string; links go before branches, as rings do."""

    token: str
    rings: list[str] = field(default_factory=list)
    links: list[str | int] = field(default_factory=list)
    branches: int = 0

    def link(self, bond: str, number: int) -> None:
        # A single bond needs no sign; a direction or an order does.
        self.links += [number] if bond in ("", "-") else [bond, number]
        # A neighbour that moves before an odd number of others mirrors the centre.
        if self.branches % 2 and "@" in self.token:
            mirrored = "@" if "@@" in self.token else "@@"
            self.token = re.sub("@+", mirrored, self.token)


def _piece(fragment: Any, links: Mapping[int, int]) -> Piece:
    chem = _chem()
    if not links:
        return tuple(_TOKENS.findall(chem.MolToSmiles(fragment)))
    ranks = list(chem.CanonicalRankAtoms(fragment, breakTies=True))
    holders = [fragment.GetAtomWithIdx(i).GetNeighbors()[0].GetIdx() for i in links]
    root = min(holders, key=ranks.__getitem__)
    text = chem.MolToSmiles(fragment, rootedAtAtom=root)
    order = fragment.GetPropsAsDict(includePrivate=True, includeComputed=True)
    return _linked(text, list(order["_smilesAtomOutputOrder"]), links)


def _linked(text: str, order: Sequence[int], links: Mapping[int, int]) -> Piece:
    """The tokens of ``text`` with each dummy atom of ``links`` as a link of its neighbour.

    Args:
        text: SMILES that does not begin with such a dummy atom.
        order: Index of each of its atoms, in the order of the text.
        links: The link that a dummy atom stands for.
    """
    out: list[str | _Atom] = []
    here, stack, bond = _Atom(""), list[_Atom](), ""
    indices = iter(order)
    # A branch that holds nothing but a dummy is never opened.
    opening = False
    for token in _TOKENS.findall(text):
        if token == "(":
            stack.append(here)
            opening = True
        elif token == ")":
            here = stack.pop()
            if not opening:
                out.append(token)
                here.branches += 1
            opening = False
        elif token in _BONDS:
            bond = token
        elif token[0].isdigit() or token[0] == "%":
            here.rings += [bond, token]
            bond = ""
        elif (index := next(indices)) in links:
            here.link(bond, links[index])
            bond = ""
        else:
            here = _Atom(token)
            out += ["("] * opening + [bond, here]
            opening, bond = False, ""
    return tuple(token for part in out for token in _tokens(part) if token != "")


def _tokens(part: str | _Atom) -> list[str | int]:
    return [part] if isinstance(part, str) else [part.token, *part.rings, *part.links]


def _wide_rings(part: Piece) -> list[int]:
    """Ring numbers of two digits, which RDKit writes where nine rings are open at once."""
    return [int(t[1:]) for t in part if isinstance(t, str) and t.startswith("%")]


def _number(form: str) -> int:
    return int.from_bytes(blake2b(form.encode(), digest_size=8).digest(), "big")


def _parsed(text: str) -> Any | None:
    """A sanitised molecule, or None; nothing is printed."""
    # RDKit reads the empty string as no atoms, and cuts at white space.
    if not text or not text.isascii() or len(text.split()) != 1:
        return None
    chem = _chem()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        return chem.MolFromSmiles(text)


def _chem() -> Any:
    try:
        from rdkit import Chem
    except ImportError:
        raise MissingExtraError("rdkit", "mol") from None
    return Chem
