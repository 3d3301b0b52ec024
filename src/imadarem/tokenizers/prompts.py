"""Prompts: texts with blanks, and with holes of unknown length."""

from __future__ import annotations

import re
from typing import Any

from imadarem.errors import ConfigError, DataError
from imadarem.tokenizers.contract import SpecialIds
from imadarem.tokenizers.corpus import MASK, CorpusTokenizer

#: Tokens at most in a hole of unknown length that names no bounds.
LONGEST_GAP = 16
GAP = re.compile(r"<gap(?::([^>]*))?>")
BOUNDS = re.compile(r"(\d{1,5})-(\d{1,5})")


def prompt_rows(
    masked: Any, tokenizer: Any, special: SpecialIds, vocab_size: int
) -> list[list[int]]:
    """Token ids of prompts given as a text, texts, a tensor or lists of ids.

    Raises:
        ConfigError: The tokenizer cannot read texts.
        DataError: There is no prompt, or one has no blank or an id outside the vocabulary.
    """
    if isinstance(masked, str):
        masked = [masked]
    if hasattr(masked, "ndim"):
        masked = masked.reshape(-1, masked.shape[-1]).tolist() if masked.ndim else []
    rows = [
        encode_prompt(tokenizer, special, row) if isinstance(row, str) else list(row)
        for row in masked
    ]
    if not rows:
        raise DataError("there is no prompt to fill; give at least one.")
    for row in rows:
        illegal = [i for i in row if not 0 <= i < vocab_size]
        if illegal:
            raise DataError(
                f"the prompt holds id {illegal[0]}; legal ids are 0 to {vocab_size - 1}."
            )
        if not {special.mask, special.nothing} & set(row):
            raise DataError(
                "a prompt of token ids has no blank, so there is nothing to fill. Put the "
                f"mask id {special.mask} at each token that is to be found."
            )
    return rows


def mask_spelling(tokenizer: Any) -> str:
    """How the tokenizer itself spells a blank, such as ``[MASK]``; else ``<mask>``."""
    return str(getattr(tokenizer, "mask_token", None) or MASK)


def encode_prompt(tokenizer: Any, special: SpecialIds, text: str) -> list[int]:
    """The ids of a text in which ``<mask>``, or the tokenizer's own spelling, is a blank.

    ``<gap>`` is a hole of 0 to :data:`LONGEST_GAP` tokens and ``<gap:3-8>`` one of 3 to 8. Of
    its ids, as many as it must have at least are mask ids, and the rest are *nothing*: see
    :meth:`imadarem.canvas.Canvas.with_holes`.

    Args:
        tokenizer: Reads the text: a built-in one its own notation, such as
            ``[C]<mask><mask>[O]`` for SELFIES.
        special: Its special ids.
        text: The prompt.

    Raises:
        ConfigError: The tokenizer cannot read texts.
        DataError: The text has no blank or cannot be read, or it has a hole of unknown length
            and the model was trained without such holes.
    """
    if not hasattr(tokenizer, "encode"):
        raise ConfigError("this model's tokenizer cannot read texts; give token ids.")
    ids: list[int] = []
    end = 0
    for gap in GAP.finditer(text):
        ids += _encode(tokenizer, special, text[end : gap.start()]) + _hole(gap, special)
        end = gap.end()
    ids += _encode(tokenizer, special, text[end:])
    if not {special.mask, special.nothing} & set(ids):
        own = mask_spelling(tokenizer)
        spellings = own if own == MASK else f"{own} (or {MASK})"
        raise DataError(
            f"{text[:60]!r} has no blank, so there is nothing to fill. Write {spellings} for "
            "each token that is to be found."
        )
    return ids


def _encode(tokenizer: Any, special: SpecialIds, text: str) -> list[int]:
    if isinstance(tokenizer, CorpusTokenizer):
        return tokenizer.encode_with_masks(text)
    if getattr(tokenizer, "mask_token", None):
        # In one piece: words are split otherwise at the start of a text than within it.
        parts = [text.replace(MASK, tokenizer.mask_token)]
    else:
        parts = text.split(MASK)
    first, *others = [list(tokenizer.encode(part, add_special_tokens=False)) for part in parts]
    return first + [token for part in others for token in (special.mask, *part)]


def gap_tokens(text: str) -> int:
    """Most tokens that the holes of unknown length in a text may have together.

    Raises:
        DataError: A hole has no legal bounds.
    """
    return sum(_bounds(gap)[1] for gap in GAP.finditer(text))


def _hole(gap: re.Match[str], special: SpecialIds) -> list[int]:
    if special.nothing is None:
        raise DataError(
            f"{gap[0]} is a hole of unknown length, and this model was trained without such "
            "holes. Write one blank for each token that is missing, or take a model that knows "
            "them, such as 'smiles'."
        )
    least, most = _bounds(gap)
    return [special.mask] * least + [special.nothing] * (most - least)


def _bounds(gap: re.Match[str]) -> tuple[int, int]:
    """Fewest and most tokens of a hole."""
    if gap[1] is None:
        return 0, LONGEST_GAP
    bounds = BOUNDS.fullmatch(gap[1])
    if bounds is None or not 0 <= int(bounds[1]) <= int(bounds[2]) or not int(bounds[2]):
        raise DataError(
            f"{gap[0]} has no legal bounds. Write <gap:3-8> for 3 to 8 tokens, or <gap> for at "
            f"most {LONGEST_GAP}."
        )
    return int(bounds[1]), int(bounds[2])
