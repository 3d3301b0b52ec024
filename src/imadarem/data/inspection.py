"""What training would read from a file of molecules: lengths, vocabularies, what is refused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from imadarem.data.molecules import ToNotation
from imadarem.files import load_json
from imadarem.pretrained import SHIPPED
from imadarem.tokenizers import MOLECULE_NOTATIONS, load_tokenizer, tokenizer_class
from imadarem.workers import Workers

#: Molecules that are written as SAFE to measure it: each takes milliseconds.
MOST_SAFE = 1_000


@dataclass(frozen=True, kw_only=True)
class Notated:
    """Molecules in one notation.

    Attributes:
        notation: Its name.
        tried: Molecules that were to be written in it; of SAFE at most 1,000, drawn at random.
        lengths: Tokens of each that was written.
        vocabulary: Distinct tokens.
        refused: Molecules that it cannot say, and why.
    """

    notation: str
    tried: int
    lengths: list[int] = field(default_factory=list)
    vocabulary: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)

    def figures(self) -> dict[str, int]:
        """Counts and token lengths for a table; no lengths where nothing was written."""
        counts = {"tried": self.tried, "refused": len(self.refused)}
        if not self.lengths:
            return counts
        ordered = sorted(self.lengths)
        middle = ordered[len(ordered) // 2]
        lengths = {"shortest": ordered[0], "median": middle, "longest": ordered[-1]}
        return {**counts, **lengths, "vocabulary": self.vocabulary}


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasFit:
    """How many molecules a model of the package has no room for.

    Attributes:
        model: Its name.
        notation: What it reads.
        canvas: Tokens of its canvas.
        too_long: Molecules of more tokens.
        of: Molecules that were tried.
    """

    model: str
    notation: str
    canvas: int
    too_long: int
    of: int


def inspect_notations(smiles: Sequence[str], workers: Workers) -> dict[str, Notated]:
    """Write molecules in every notation of the package."""
    found = {}
    for name in MOLECULE_NOTATIONS:
        kind, chosen = tokenizer_class(name), smiles
        if name == "safe" and len(smiles) > MOST_SAFE:
            chosen = random.Random(0).sample(smiles, MOST_SAFE)
        written = workers.map(f"as {name}", ToNotation(kind), chosen)
        tokens = [kind.split(notation) for notation, _ in written if notation]
        found[name] = Notated(
            notation=name,
            tried=len(chosen),
            lengths=[len(row) for row in tokens],
            vocabulary=len({token for row in tokens for token in row}),
            refused=[
                (text, reason)
                for text, (notation, reason) in zip(chosen, written, strict=True)
                if not notation
            ],
        )
    return found


def canvas_fits(notated: dict[str, Notated]) -> list[CanvasFit]:
    """For each molecule model of the package, how many molecules its canvas is too short for."""
    fits = []
    # A model of two names is one model.
    for folder, name in {folder: name for name, folder in SHIPPED.items()}.items():
        notation = getattr(load_tokenizer(folder), "notation", "text")
        if notation not in notated:
            continue
        canvas = int(load_json(folder / "config.json")["max_seq_len"])
        lengths = notated[notation].lengths
        too_long = sum(length > canvas for length in lengths)
        fits.append(
            CanvasFit(
                model=name, notation=notation, canvas=canvas, too_long=too_long, of=len(lengths)
            )
        )
    return fits
