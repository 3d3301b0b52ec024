"""Fragments as a canvas: given tokens, blanks between them, and the way back to a molecule.

What is given is never read back from the canvas: the molecule is put together from the
fragment as it was given and the tokens that stand in the blanks. So a token that the model
does not know may be shown by another, as ``[C@@H]`` by ``C``, and the fragment keeps it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from imadarem.design.fragment import Fragment
from imadarem.design.nearby import visible_parts
from imadarem.errors import ConfigError, DataError
from imadarem.tokenizers import CorpusTokenizer, SmilesTokenizer
from imadarem.tokenizers.relatives import known_token
from imadarem.tokenizers.safe import FIRST_LINK, Piece, fragment_bonds, join, pieces

Ends = tuple[int, ...]
Fill = Sequence[Sequence[str]]
"""The tokens that stand in each run of blanks of a prompt."""

SPELLINGS = 20


@dataclass(frozen=True)
class Prompt:
    """One row for the model.

    Attributes:
        tokens: What is shown, ``None`` for a blank.
        runs: Lengths of the runs of blanks.
        assemble: Turns the tokens in the blanks, one list for each run of them, into
            SMILES; None where they do not fit together.
        shown_by: Tokens of the fragment that the model does not know, and their stand-ins.
    """

    tokens: tuple[str | None, ...]
    runs: tuple[int, ...]
    assemble: Callable[[Fill], str | None]
    shown_by: dict[str, str]

    def ids(self, tokenizer: CorpusTokenizer) -> list[int]:
        """The row's token ids, the mask id for a blank."""
        known = tokenizer.convert_tokens_to_ids([t for t in self.tokens if t is not None])
        given = iter(known)
        return [tokenizer.mask_token_id if t is None else next(given) for t in self.tokens]

    def fill(self, tokens: Sequence[str]) -> str | None:
        """SMILES of the filled row; None where the blanks do not fit the fragment."""
        written = iter(t for shown, t in zip(self.tokens, tokens, strict=True) if shown is None)
        runs = [list(islice(written, count)) for count in self.runs]
        return self.assemble(runs)


class Notation(ABC):
    """Writes fragments as prompts, in the notation of a model's tokenizer.

    The spelling of the fragments is drawn before anything else, so generators of equal state
    give the same spelling for any number of blanks.

    Args:
        tokenizer: Its vocabulary decides what can be shown.
        room: Positions of the canvas. A notation that :attr:`hides` shows only what is near the
            blanks of a longer text.
    """

    #: Whether a text may be longer than the canvas.
    hides = False

    def __init__(self, tokenizer: CorpusTokenizer, room: int) -> None:
        self.tokenizer, self.room = tokenizer, room
        self.known = frozenset(tokenizer.tokens[3:])

    @abstractmethod
    def around(self, fragment: Fragment, blanks: int, rng: np.random.Generator) -> Prompt:
        """The fragment with blanks on its attachment points, at least one for each.

        Raises:
            DataError: The fragment cannot be shown to this model.
        """

    @abstractmethod
    def between(
        self, one: Fragment, other: Fragment, blanks: int, rng: np.random.Generator
    ) -> Prompt:
        """Two fragments, each with one attachment point, and blanks from one to the other.

        Raises:
            DataError: They cannot be shown to this model.
        """

    @abstractmethod
    def closing(self, fragment: Fragment, blanks: int, rng: np.random.Generator) -> Prompt:
        """Blanks from one attachment point of a fragment to the other.

        Raises:
            DataError: It cannot be shown to this model.
        """

    def core(self, fragments: Sequence[Fragment], blanks: int, rng: np.random.Generator) -> Prompt:
        """Three or more fragments of one attachment point each, and blanks between all of them.

        Raises:
            ConfigError: The notation has no such prompt.
        """
        raise ConfigError(
            f"a core between {len(fragments)} substituents needs a model that writes SMILES, and "
            f"this one writes {self.tokenizer.notation}. Use --model smiles."
        )

    def segments(self, parts: Sequence[str | int]) -> Prompt:
        """A prompt whose text is its tokens in order; an int is a run of so many blanks."""
        shown: list[str | None] = []
        shown_by: dict[str, str] = {}
        for part, seen in zip(parts, self._visible(parts), strict=True):
            if not seen:
                continue
            if isinstance(part, int):
                shown += [None] * part
            elif (token := self._shown(part)) != part:
                shown_by[part] = token
                shown += [token] if token else []
            else:
                shown.append(part)
        runs = tuple(part for part in parts if isinstance(part, int))
        return Prompt(tuple(shown), runs, _Concatenated(tuple(parts)), shown_by)

    def _visible(self, parts: Sequence[str | int]) -> Sequence[bool]:
        return [True] * len(parts)

    def _shown(self, token: str) -> str:
        found = known_token(token, self.known, self.tokenizer.notation)
        if found is None:
            raise DataError(
                f"the fragment needs the token {token!r}, and neither it nor anything like it is "
                "in this model's vocabulary. Use a model trained on molecules that have it."
            )
        return found


@dataclass(frozen=True)
class _Concatenated:
    """Given tokens and filled blanks, one behind the other, are the text of the molecule."""

    parts: tuple[str | int, ...]

    def __call__(self, fill: Fill) -> str | None:
        runs = iter(fill)
        return "".join("".join(next(runs)) if isinstance(p, int) else p for p in self.parts)


class SafeNotation(Notation):
    """Whole fragments stand in front, their open links named; new ones stand behind.

    The first new fragment of each link is given its dot and its link, which is its second
    or third token in every SAFE string that :func:`~imadarem.tokenizers.to_safe` writes.
    """

    def around(self, fragment: Fragment, blanks: int, rng: np.random.Generator) -> Prompt:
        links = [-1 - k for k in range(len(fragment.ends))]
        given, numbers = self._given([fragment], [links], rng)
        parts: list[str | int] = list(given)
        order = [int(k) for k in rng.permutation(len(links))]
        for link, count in zip(order, split_blanks(blanks, len(links), rng), strict=True):
            before = 1 if count < 3 or rng.random() < 0.7 else 2
            parts += [".", before, f"%{numbers[links[link]]}"]
            parts += [count - before] if count > before else []
        return self.segments(parts)

    def between(
        self, one: Fragment, other: Fragment, blanks: int, rng: np.random.Generator
    ) -> Prompt:
        given, numbers = self._given([one, other], [[-1], [-2]], rng)
        return self._bridged(given, numbers, blanks, rng)

    def closing(self, fragment: Fragment, blanks: int, rng: np.random.Generator) -> Prompt:
        given, numbers = self._given([fragment], [[-1, -2]], rng)
        return self._bridged(given, numbers, blanks, rng)

    def _bridged(
        self, given: Sequence[str], numbers: dict[int, int], blanks: int, rng: np.random.Generator
    ) -> Prompt:
        """The given fragments, and one new fragment between the links -1 and -2."""
        first, second = rng.permutation([-1, -2]).tolist()
        # The second link follows an atom somewhere behind the first.
        behind = int(rng.integers(0, blanks)) if blanks > 1 else 0
        rest = blanks - 1 - behind
        parts: list[str | int] = [*given, ".", 1, f"%{numbers[first]}"]
        parts += [behind] if behind else []
        parts += [f"%{numbers[second]}", *([rest] if rest else [])]
        return self.segments(parts)

    def _given(
        self, fragments: Sequence[Fragment], links: Sequence[Sequence[int]], rng: Any
    ) -> tuple[list[str], dict[int, int]]:
        """The tokens of the given fragments and the numbers of their links.

        They are cut as training molecules are, or left whole where the vocabulary has too few
        numbers for that. Of more attachment points than numbers, the last share one.
        """
        most = sum(token.startswith("%") for token in self.known)
        numbers: dict[int, int] = {}
        text = ""
        for cut in (True, False):
            parts = list(_safe_parts(fragments, links, cut))
            parts = [parts[i] for i in rng.permutation(len(parts))]
            numbers = {}
            text = join(parts, numbers)
            if max(numbers.values()) < FIRST_LINK + most:
                break
        return self.tokenizer.split(text), numbers


def _safe_parts(
    fragments: Sequence[Fragment], links: Sequence[Sequence[int]], cut: bool
) -> Iterator[Piece]:
    offset = 0
    for fragment, own in zip(fragments, links, strict=True):
        cuts = fragment_bonds(fragment.molecule) if cut else []
        # A bond to an attachment point is none to cut.
        ends = set(fragment.ends)
        bonds = [fragment.molecule.GetBondWithIdx(index) for index in cuts]
        cuts = [b.GetIdx() for b in bonds if not {b.GetBeginAtomIdx(), b.GetEndAtomIdx()} & ends]
        for piece in pieces(fragment.molecule, cuts, dict(zip(fragment.ends, own, strict=True))):
            yield tuple(
                token + offset if isinstance(token, int) and token >= 0 else token
                for token in piece
            )
        offset += len(cuts)


class SmilesNotation(Notation):
    """Blanks stand in the SMILES of the fragment where its attachment points are."""

    def around(self, fragment: Fragment, blanks: int, rng: np.random.Generator) -> Prompt:
        spelled = _with_holes(fragment, rng)
        counts = iter(split_blanks(blanks, len(fragment.ends), rng))
        return self.segments([next(counts) if token is None else token for token in spelled])

    def between(
        self, one: Fragment, other: Fragment, blanks: int, rng: np.random.Generator
    ) -> Prompt:
        return self.core([one, other], blanks, rng)

    def core(self, fragments: Sequence[Fragment], blanks: int, rng: np.random.Generator) -> Prompt:
        first, *others = (fragments[i] for i in rng.permutation(len(fragments)))
        # The last one ends the text, or is a branch with more of the core behind it.
        ending = blanks < len(fragments) or rng.random() < 0.5
        counts = split_blanks(blanks, len(fragments) - ending, rng)
        parts: list[str | int] = [t for t in _with_holes(first, rng) if t is not None]
        for number, other in enumerate(others):
            behind = [t for t in _with_holes(other, rng, root=True) if t is not None]
            alone = ending and number == len(others) - 1
            parts += [counts[number], *(behind if alone else ["(", *behind, ")"])]
        return self.segments(parts if ending else [*parts, counts[-1]])

    def closing(self, fragment: Fragment, blanks: int, rng: np.random.Generator) -> Prompt:
        from rdkit import Chem

        # A placeholder in the ring stands for what is blank; molzip keeps stereo centres.
        zipped = Chem.MolzipParams()
        zipped.label = Chem.MolzipLabel.Isotope
        ring = Chem.molzip(fragment.molecule, Chem.MolFromSmiles("[1*][Xe][2*]"), zipped)
        (place,) = (atom.GetIdx() for atom in ring.GetAtoms() if atom.GetAtomicNum() == 54)
        for _ in range(SPELLINGS):
            tokens = SmilesTokenizer.split(spelt_towards([place], ring, rng))
            if tokens[0] != "[Xe]":
                break
        return self.segments([blanks if token == "[Xe]" else token for token in tokens])

    hides = True

    def _visible(self, parts: Sequence[str | int]) -> Sequence[bool]:
        return visible_parts(parts, self.room)


def _with_holes(
    fragment: Fragment,
    rng: np.random.Generator,
    *,
    root: bool = False,
) -> list[str | None]:
    """The tokens of a SMILES of the fragment, None for an attachment point."""
    from rdkit import Chem

    if root:
        text = Chem.MolToSmiles(fragment.molecule, rootedAtAtom=fragment.ends[0])
    else:
        text = spelt_towards(fragment.ends, fragment.molecule, rng)
    tokens = SmilesTokenizer.split(text)
    return [None if re.fullmatch(r"\*|\[\d*\*\]", token) else token for token in tokens]


def spelt_towards(ends: Sequence[int], molecule: Any, rng: np.random.Generator) -> str:
    """A random SMILES that ends with one of the atoms ``ends``, if one of 20 spellings does.

    What is written behind it stands outside of all rings and branches.
    """
    from rdkit import Chem

    others = [i for i in range(molecule.GetNumAtoms()) if i not in ends]
    text = ""
    for _ in range(SPELLINGS):
        # The last atom by number is the last in the text wherever a chain can end with it.
        order = [*rng.permutation(others).tolist(), *rng.permutation(ends).tolist()]
        spelt = Chem.RenumberAtoms(molecule, order)
        text = Chem.MolToSmiles(spelt, canonical=False)
        written = spelt.GetPropsAsDict(includePrivate=True, includeComputed=True)
        if written["_smilesAtomOutputOrder"][-1] >= len(others):
            break
    return text


def split_blanks(blanks: int, ends: int, rng: np.random.Generator) -> list[int]:
    """So many blanks on so many ends at random, at least one on each.

    Raises:
        ConfigError: There are fewer blanks than ends.
    """
    if blanks < ends:
        raise ConfigError(f"{blanks} blanks cannot fill {ends} attachment points; give more.")
    cuts = sorted(rng.permutation(blanks - 1)[: ends - 1] + 1)
    edges = [0, *(int(cut) for cut in cuts), blanks]
    return [after - before for before, after in zip(edges, edges[1:], strict=False)]
