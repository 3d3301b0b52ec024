"""The notations of molecules: SMILES and SELFIES."""

from __future__ import annotations

import re
from typing import Any

from imadarem.errors import DataError, MissingExtraError
from imadarem.tokenizers.corpus import CorpusTokenizer, shortened

# Schwaller et al., "Molecular Transformer", arXiv:1811.02633, section 3.
SMILES_PATTERN = (
    r"\[[^\]]+\]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$"
    r"|%[0-9]{2}|[0-9]"
)
SELFIES_PATTERN = r"\[[^\[\]]+\]|\."


class SmilesTokenizer(CorpusTokenizer):
    """One token per atom, bond, branch or ring closure of a SMILES.

    Source: Schwaller et al., arXiv:1811.02633. A decoded string is whatever the tokens
    spell; it need not be a molecule.
    """

    notation = "smiles"
    pattern = SMILES_PATTERN

    @classmethod
    def to_notation(cls, text: str) -> str:
        return text

    @classmethod
    def to_text(cls, notation: str) -> str:
        return notation


class SelfiesTokenizer(CorpusTokenizer):
    """One token per SELFIES symbol; texts go in and come out as SMILES.

    Every sequence of tokens decodes to a molecule. ``encode`` reads its text as SMILES
    without exception, since ``[Na+].[Cl-]`` looks like both; for SELFIES there is
    ``encode_notation``.

    Source: Krenn et al., arXiv:1905.13741, by the package ``selfies``.

    Raises:
        MissingExtraError: The package ``selfies`` is not installed.
    """

    notation = "selfies"
    pattern = SELFIES_PATTERN

    @classmethod
    def to_notation(cls, text: str) -> str:
        """SMILES → SELFIES.

        Raises:
            DataError: The SMILES cannot be parsed, or exceeds a valence.
        """
        selfies = _selfies()
        try:
            return str(selfies.encoder(text))
        # Over SMILES such as "N22" and "O:F" the encoder itself stumbles with a LookupError.
        except (selfies.EncoderError, LookupError) as error:
            raise DataError(
                f"the SMILES {shortened(text)!r} has no SELFIES: {_reason(error)}. Correct it or "
                "leave it out."
            ) from None

    @classmethod
    def to_text(cls, notation: str) -> str:
        """SELFIES → SMILES, not canonical.

        Raises:
            DataError: The string holds a symbol that SELFIES does not define.
        """
        selfies = _selfies()
        try:
            return str(selfies.decoder(notation))
        except selfies.DecoderError as error:
            raise DataError(
                f"the SELFIES {shortened(notation)!r} cannot be decoded: {_reason(error)}."
            ) from None


def _selfies() -> Any:
    try:
        import selfies
    except ImportError as error:
        raise MissingExtraError("selfies", "mol") from error
    return selfies


def _reason(error: Exception) -> str:
    """What selfies says is wrong, on one line: the parser's reason where there is one."""
    if isinstance(error, LookupError):
        return "its parser cannot read a bond or ring of it"
    text = str(error.__cause__ or error)
    parser_reason = re.search(r"Reason: *(.+)", text)
    if parser_reason:
        return parser_reason[1]
    # The input is quoted by the caller already.
    return " ".join(re.sub(r"(SMILES|SELFIES): .*", "", text).split())
