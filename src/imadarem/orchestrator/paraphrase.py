"""The same text in other words, from a function of the user: the library knows none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from imadarem.errors import ConfigError, DataError
from imadarem.orchestrator.change import Change, content_length, redraw_holes, unchanged
from imadarem.tokenizers import SpecialIds, Tokenizer

Paraphrase = Callable[[str], list[str]]
"""A text → paraphrases of it."""


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
