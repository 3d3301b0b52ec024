"""Molecules as SMILES: what is one, its canonical form, its other notations, a split of many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from imadarem.errors import ConfigError, DataError, MissingExtraError
from imadarem.tokenizers import CorpusTokenizer

#: Charges, isotopes, hydrogens and stereo marks in a SMILES.
MARKS = re.compile(r"[][@/\\]")
#: Reactants, agents and products; dative bonds, written -> and <-, are taken out before.
_REACTION = re.compile(r"[^>]*>[^>]*>[^>]*")


class Split(NamedTuple):
    """Two disjoint parts, each in the order of the input."""

    train: list[str]
    valid: list[str]


def canonical(smiles: str) -> str | None:
    """RDKit's canonical SMILES with stereo and isotopes; ``None`` if it is no molecule."""
    molecule = parse(smiles)
    return None if molecule is None else _chem().MolToSmiles(molecule)


def parse(smiles: str) -> Any | None:
    """A sanitised RDKit molecule, or ``None``; nothing is printed.

    The empty string, white space and letters beyond ASCII make no molecule here, though
    RDKit would read zero atoms, cut at the space, and skip the letters.
    """
    if len(smiles.split()) != 1 or not smiles.isascii():
        return None
    chem = _chem()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        return chem.MolFromSmiles(smiles)


def is_molecule(smiles: str) -> bool:
    """Whether RDKit reads it."""
    return parse(smiles) is not None


def split(
    smiles: Sequence[str],
    *,
    seed: int = 0,
    valid_fraction: float = 0.1,
    notes: Counter[str] | None = None,
) -> Split:
    """Split molecules so that copies of one molecule never fall on both sides.

    The side depends only on the seed and the canonical form, not on the order or on the
    other molecules: a molecule keeps its side when the file grows.

    Args:
        smiles: Molecules, in any notation; returned as given.
        seed: Chooses another split.
        valid_fraction: Expected share of distinct molecules in ``valid``, in [0, 1).
        notes: Counts under ``duplicate`` the molecules that had occurred before, however
            they were written; they are kept.

    Raises:
        ConfigError: ``valid_fraction`` is out of range.
        DataError: A string is no molecule; :func:`read_smiles` keeps those out.
    """
    if not 0 <= valid_fraction < 1:
        raise ConfigError(f"valid_fraction is {valid_fraction}; it must be in [0, 1).")
    parts = Split([], [])
    seen: set[float] = set()
    for text in smiles:
        form = canonical(text)
        if form is None:
            raise DataError(f"{text!r} is not a molecule. Read files with read_smiles first.")
        place = _uniform(form, seed)
        side = parts.valid if place < valid_fraction else parts.train
        side.append(text)
        if notes is not None:
            notes["duplicate"] += place in seen
            seen.add(place)
    if notes is not None and not notes["duplicate"]:
        del notes["duplicate"]
    return parts


def _uniform(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the text and the seed."""
    digest = blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def parse_error(smiles: str) -> str:
    """Why :func:`parse` refuses a SMILES, in RDKit's words where they are RDKit's, on one line."""
    if len(smiles.split()) != 1:
        return "white space inside the SMILES"
    if not smiles.isascii():
        strange = next(letter for letter in smiles if not letter.isascii())
        return f"{strange!r} occurs in no SMILES"
    if _REACTION.fullmatch(smiles.replace("->", "").replace("<-", "")):
        return "a reaction, not a molecule"
    chem = _chem()
    from rdkit import rdBase

    with rdBase.CaptureErrorLog() as log:
        chem.MolFromSmiles(smiles)
    return rdkit_reason(log.messages) or "not a SMILES that RDKit can read"


def rdkit_reason(messages: str) -> str:
    """The first reason in what RDKit logged, on one line; "" where it logged nothing."""
    # Each message has a stamp; the trace of an internal error stands below an empty one.
    stamped = re.findall(r"^\[[\d:]+\] (?:SMILES Parse Error: |ERROR: )?(.+)$", messages, re.M)
    reason = re.split(r" while parsing: | for input: ", stamped[0] if stamped else "")[0]
    where = next((m for m in stamped if m.startswith("check for mistakes around")), "")
    place = where.removeprefix("check for mistakes around ").rstrip(":")
    return f"{reason} around {place}" if place else reason


def _chem() -> Any:
    """``rdkit.Chem``, loaded when the first molecule is read."""
    try:
        from rdkit import Chem
    except ImportError:
        raise MissingExtraError("rdkit", "mol") from None
    return Chem


@dataclass(frozen=True)
class ToNotation:
    """Turns one text into a notation; it travels to worker processes.

    Attributes:
        kind: The tokenizer class of the notation.
    """

    kind: type[CorpusTokenizer]

    def __call__(self, text: str) -> tuple[str | None, str]:
        """The text in the notation and ``""``, or None and the reason why there is none."""
        try:
            notation = self.kind.to_notation(text)
        except DataError as error:
            return None, str(error)
        # A notation that cannot say something must not leave it out silently.
        if self.kind.notation == "selfies" and MARKS.search(text):
            back = canonical(self.kind.to_text(notation))
            if back != canonical(text):
                return None, f"its {self.kind.notation} gives another molecule back: {back}"
        return notation, ""
