"""A SMILES in another notation, or why it has none there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from imadarem.data.molecules import canonical
from imadarem.errors import DataError
from imadarem.tokenizers import CorpusTokenizer

#: Charges, isotopes, hydrogens and stereo marks in a SMILES.
MARKS = re.compile(r"[][@/\\]")


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
