"""Formats of a text that change no word of it, as token-for-token substitutions.

One token becomes one token, so the holes of a text stay where they are. A format is
applied to a text as a whole or not at all: a token that should change and has no
counterpart in the vocabulary keeps the text from that format. Characters always have
one; in a subword vocabulary, most names have no single token in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sized

import torch
from torch import Tensor

from imadarem.tokenizers import CorpusTokenizer, SpecialIds, Tokenizer

NO_COUNTERPART = -1
"""Entry of a table for a token that should change and cannot."""

_SPACES = re.compile("[\t\n\r\u00a0\u2009\u202f]")
_STRAIGHT = str.maketrans({**dict.fromkeys("“”„‟«»", '"'), **dict.fromkeys("‘’‚‛", "'")})
_HYPHEN, _EN, _EM = (
    str.maketrans(dict.fromkeys(set("‒–—―") - {dash}, dash)) for dash in ("-", "–", "—")
)
_TIGHT = re.compile(r"^ (?=[,.;:!?)\]])")
_APART = re.compile(r"^(?=[;!?]$)")

FORMATS: dict[str, dict[str, Callable[[str], str]]] = {
    "case": {"lower": str.lower, "upper": str.upper},
    "quotes": {"straight": lambda text: text.translate(_STRAIGHT)},
    "dashes": {
        "hyphen": lambda text: text.translate(_HYPHEN),
        "en dash": lambda text: text.translate(_EN),
        "em dash": lambda text: text.translate(_EM),
    },
    "whitespace": {"spaces": lambda text: _SPACES.sub(" ", text)},
    "punctuation": {
        "tight": lambda text: _TIGHT.sub("", text),
        "apart": lambda text: _APART.sub(" ", text),
    },
}
"""Group → format → what it does to the text of a token; one of each group at a time.

Quotation marks become straight ones, dashes all of one kind, tabs and line breaks
spaces; punctuation loses the space before it, or (``;!?``, as in French) gains one.
"""


def format_tables(
    tokenizer: Tokenizer, special: SpecialIds, vocab_size: int
) -> dict[str, dict[str, Tensor]]:
    """Group → format → ``(V,)`` int64: the token that each token becomes.

    Special tokens become themselves; :data:`NO_COUNTERPART` stands where a token should
    change and its counterpart is no single token. Formats that change nothing in this
    vocabulary are left out, and so are groups without any.
    """
    texts = token_texts(tokenizer, special, vocab_size)
    ids = {text: index for index, text in reversed(list(enumerate(texts))) if text is not None}
    tables = {
        group: {
            name: table
            for name, change in formats.items()
            if _does_something(table := _table(texts, ids, change))
        }
        for group, formats in FORMATS.items()
    }
    return {group: formats for group, formats in tables.items() if formats}


def token_texts(tokenizer: Tokenizer, special: SpecialIds, vocab_size: int) -> list[str | None]:
    """What each token spells, the space before a word included.

    None for specials and for parts of a character.
    """
    known = min(vocab_size, len(tokenizer)) if isinstance(tokenizer, Sized) else vocab_size
    tokens: list[str | None] = list(tokenizer.convert_ids_to_tokens(list(range(known))))
    tokens += [None] * (vocab_size - known)
    for index in {*special.banned, special.mask, special.pad, special.eos} - {None}:
        tokens[index] = None  # type: ignore[index]
    if isinstance(tokenizer, CorpusTokenizer):
        return tokens
    spell = _spelling([token for token in tokens if token is not None])
    return [None if token is None else spell(token) for token in tokens]


def _spelling(tokens: list[str]) -> Callable[[str], str | None]:
    """How a vocabulary of Hugging Face writes spaces: in the token, or not at all."""
    if any(token.startswith("Ġ") for token in tokens):
        return _byte_text
    if any("▁" in token for token in tokens):
        return lambda token: token.replace("▁", " ")
    if " " in tokens:  # single characters
        return str
    # WordPiece and WordLevel: a token begins a word, unless it says that it goes on with one.
    return lambda token: token[2:] if token.startswith("##") else f" {token}"


def _table(texts: list[str | None], ids: dict[str, int], change: Callable[[str], str]) -> Tensor:
    def becomes(index: int, text: str | None) -> int:
        if text is None or (changed := change(text)) == text:
            return index
        return ids.get(changed, NO_COUNTERPART)

    return torch.tensor([becomes(index, text) for index, text in enumerate(texts)])


def _does_something(table: Tensor) -> bool:
    return bool(((table != torch.arange(len(table))) & (table != NO_COUNTERPART)).any())


def _byte_alphabet() -> dict[str, int]:
    """The letters that stand for bytes in GPT-2's vocabulary (openai/gpt-2, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _byte_text(token: str) -> str | None:
    try:
        return bytes(_BYTES[letter] for letter in token).decode()
    except (KeyError, UnicodeDecodeError):  # an added token, or half a character
        return None
