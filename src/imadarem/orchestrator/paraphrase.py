"""The same text in other words: the user's words, for the library knows none.

Two sources: a *lexicon*, ``{word: [synonyms]}``, whose words are exchanged one by one
while everything around them, the holes included, stays as it is; or a *function* from a
text to paraphrases of it, whose holes are drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imadarem.data.text_formats import token_texts
from imadarem.errors import ConfigError, DataError
from imadarem.orchestrator.change import Change, content_length, redraw_holes, unchanged
from imadarem.tokenizers import SpecialIds, Tokenizer

__all__ = ["Lexicon", "LexiconParaphrase", "Paraphrase", "TextParaphrase"]

Lexicon = Mapping[str, Sequence[str]]
Paraphrase = Callable[[str], list[str]] | Lexicon


class Match(NamedTuple):
    """A word of the lexicon in a row: its place, and the tokens of each synonym."""

    start: int
    length: int
    synonyms: list[list[int]]


class LexiconParaphrase:
    """Exchanges a share of the lexicon's words in a text for synonyms.

    A word is found in lower case and capitalised, whole, and where its tokens are all
    given or all blank; one that is half blank is exchanged only for a synonym of as many
    tokens, so that its blanks keep their places. A synonym that does not fit into the
    padding any more is left out.

    Args:
        lexicon: Word → synonyms, in lower case.
        tokenizer: Of the task.
        special: Its special ids.
        vocab_size: Its size.
        share: Of the words found that are exchanged; one at least.

    Raises:
        ConfigError: The lexicon has a word without synonyms, or a single string for them.
    """

    def __init__(
        self,
        lexicon: Lexicon,
        tokenizer: Tokenizer,
        special: SpecialIds,
        vocab_size: int,
        share: float,
    ) -> None:
        self.special = special
        self.share = share
        self.texts = token_texts(tokenizer, special, vocab_size)
        self.specials = {*special.banned, special.mask, special.pad, special.eos}
        self.synonyms = _compiled(lexicon, tokenizer, special)
        self.longest = max((len(word) for word in self.synonyms), default=0)

    def __call__(self, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Change:
        length = max(content_length(row, self.special.pad) for row in (inputs, labels))
        given, text = inputs[:length].tolist(), labels[:length].tolist()
        matches = self._matches(text)
        if not matches:
            return unchanged(inputs, labels, "no word of the lexicon stands in this text")
        count = max(1, round(self.share * len(matches)))
        chosen = rng.choice(len(matches), size=count, replace=False)
        room, places = len(labels) - length, []
        # From the end, so that the places of earlier matches stay true.
        for index in sorted(chosen.tolist(), reverse=True):
            start, old, synonyms = matches[index]
            new = synonyms[int(rng.integers(len(synonyms)))]
            holes = [token == self.special.mask for token in given[start : start + old]]
            half = any(holes) and not all(holes)
            if len(new) - old > room or (half and len(new) != old):
                continue
            room -= len(new) - old
            pattern = holes if half else [holes[0]] * len(new)
            text[start : start + old] = new
            given[start : start + old] = [
                self.special.mask if hole else token
                for token, hole in zip(new, pattern, strict=True)
            ]
            places.append(start)
        if not places:
            return unchanged(inputs, labels, "no synonym fits the canvas and its holes")
        width = len(labels)
        return Change(
            _row(given, width, self.special.pad),
            _row(text, width, self.special.pad),
            None,
            {"positions": sorted(places)},
        )

    def _matches(self, text: list[int]) -> list[Match]:
        """Words of the lexicon from left to right, the longest at each place, no overlaps."""
        found, start = [], 0
        while start < len(text):
            for length in range(min(self.longest, len(text) - start), 0, -1):
                synonyms = self.synonyms.get(tuple(text[start : start + length]))
                if synonyms and self._is_whole(text, start, start + length):
                    found.append(Match(start, length, synonyms))
                    start += length - 1
                    break
            start += 1
        return found

    def _is_whole(self, text: list[int], start: int, end: int) -> bool:
        """No letter stands directly before or behind ``text[start:end]``."""
        first = self.texts[text[start]] or ""
        before = start > 0 and first[:1].isalnum() and self._touches(text[start - 1], -1)
        behind = end < len(text) and self._touches(text[end], 0)
        return not before and not behind

    def _touches(self, token: int, end: int) -> bool:
        if token in self.specials:
            return False
        text = self.texts[token]
        # Part of a character is taken for part of a word.
        return not text or text[end].isalnum()


class TextParaphrase:
    """One of the texts that the user's function gives for a text, at random.

    The function must give the same list for the same text, or augmentations stop being a
    pure function of (seed, task, k). The holes are drawn again, as many and as long.
    """

    def __init__(
        self, rewrite: Callable[[str], list[str]], tokenizer: Tokenizer, special: SpecialIds
    ) -> None:
        self.rewrite = rewrite
        self.tokenizer = tokenizer
        self.special = special

    def __call__(self, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Change:
        pad, eos = self.special.pad, self.special.eos
        length = content_length(labels, pad)
        end = length
        while end > 0 and int(labels[end - 1]) == eos:
            end -= 1
        ids = labels[:end].tolist()
        if not ids or set(ids) & {self.special.mask, pad, eos}:
            return unchanged(inputs, labels, "the label is not one whole text")
        options = [new for new in self._options(ids) if len(new) + (end < length) <= len(labels)]
        if not options:
            return unchanged(inputs, labels, "the function gave no other text that fits")
        new = options[int(rng.integers(len(options)))]
        width = len(labels)
        given = redraw_holes(inputs[:end], new, self.special, rng) + inputs[end:length].tolist()
        text = new + labels[end:length].tolist()
        change = _row(given[:width], width, pad), _row(text[:width], width, pad)
        return Change(*change, None, {"tokens": len(new)})

    def _options(self, ids: list[int]) -> list[list[int]]:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        given = self.rewrite(text)
        if not isinstance(given, list) or not all(isinstance(other, str) for other in given):
            raise ConfigError(
                f"paraphrase({text[:40]!r}) returned {given!r:.60}. It must return a list of "
                "texts, an empty one where it knows no other words."
            )
        options = [_encoded(self.tokenizer, other, self.special) for other in given]
        return [new for new in options if new and new != ids]


def _compiled(
    lexicon: Lexicon, tokenizer: Tokenizer, special: SpecialIds
) -> dict[tuple[int, ...], list[list[int]]]:
    """Tokens of a word → tokens of its synonyms, capitalised and behind a space as well."""
    found: dict[tuple[int, ...], list[list[int]]] = {}

    def tokens_of(text: str) -> list[int]:
        return _encoded(tokenizer, text, special)

    for word, synonyms in lexicon.items():
        if not word or isinstance(synonyms, str) or not all(synonyms) or not synonyms:
            raise ConfigError(
                f"the lexicon says {word!r}: {synonyms!r}. Give each word a list of synonyms, "
                'such as {"big": ["large", "great"]}.'
            )
        for form in (str, str.capitalize):
            for before in ("", " "):
                tokens = tokens_of(before + form(word))
                # A space that is a token of its own is no part of the word.
                if before and tokens == tokens_of(before) + tokens_of(form(word)):
                    continue
                others = [tokens_of(before + form(other)) for other in synonyms]
                known = [other for other in others if other and other != tokens]
                if tokens and known:
                    found[tuple(tokens)] = known
    return found


def _encoded(tokenizer: Tokenizer, text: str, special: SpecialIds) -> list[int]:
    """The tokens of a text; none where the vocabulary cannot spell it."""
    try:
        ids = list(tokenizer.encode(text, add_special_tokens=False))
    except DataError:
        return []
    # An unknown token would be found in place of every other unknown word.
    return [] if set(ids) & {*special.banned, special.eos} else ids


def _row(ids: list[int], width: int, pad: int) -> Tensor:
    return torch.tensor([*ids, *[pad] * (width - len(ids))])
