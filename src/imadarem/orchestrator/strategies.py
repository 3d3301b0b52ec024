"""The five named augmentations, and when each of them keeps a question right.

A *label-preserving* strategy changes input and label by the same rule; a *noise*
strategy changes the input only, at positions that are given and not special.

====================  ======================================================================
``token_noise``       noise: a share of the given tokens becomes other tokens
``masking``           noise: a share of the given tokens becomes blank; the label holds them
``position_shift``    the sequence moves a few positions into its padding; with a symmetry,
                      one of its elements (a shift is one for ARC; sudoku's are its bands,
                      stacks, rows and columns)
``format_variation``  with a symmetry, one of its elements; a molecule: another spelling
                      (randomised SMILES); a text: case, quotes, dashes, white space and
                      punctuation (:data:`imadarem.data.text_formats.FORMATS`)
``paraphrase``        a text that the user's function gives for this one
====================  ======================================================================

Noise on a question with one answer makes it another question, or one with many
answers: it is not available there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imadarem.data.randomised_smiles import respell
from imadarem.data.tasks import Symmetry, Transform
from imadarem.data.text_formats import NO_COUNTERPART, format_tables
from imadarem.errors import ConfigError
from imadarem.orchestrator.change import (
    Change,
    Strategy,
    content_length,
    redraw_holes,
    unchanged,
)
from imadarem.orchestrator.paraphrase import Paraphrase, TextParaphrase
from imadarem.tokenizers import (
    CorpusTokenizer,
    SelfiesTokenizer,
    SmilesTokenizer,
    SpecialIds,
    Tokenizer,
)

INTENSITY: Mapping[str, float] = {
    "token_noise": 0.05,
    "masking": 0.1,
    "position_shift": 0.1,
}
"""Default share: of the given tokens, of the sequence's length."""


class Unavailable(NamedTuple):
    """Why a strategy cannot be used; ``by_design`` where nothing is missing."""

    reason: str
    by_design: bool = False


@dataclass(frozen=True, kw_only=True)
class Means:
    """What the strategies are made of; see :class:`imadarem.orchestrator.augment.Augmenter`."""

    special: SpecialIds
    vocab_size: int
    symmetry: Symmetry | None
    unique_answer: bool
    paraphrase: Paraphrase | None
    tokenizer: Tokenizer | None
    intensity: Mapping[str, float]


def _some_of(candidates: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A sorted random ``share`` of the candidates; a fraction of one is decided by a coin."""
    count = int(share * len(candidates) + rng.random())
    return np.sort(rng.choice(candidates, size=count, replace=False))


# ---------------------------------------------------------------- noise


@dataclass(frozen=True)
class TokenNoise:
    """Other regular tokens at a share of the given positions; labels stay."""

    regular: np.ndarray
    share: float

    def __call__(self, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Change:
        noisy = inputs.numpy().copy()
        where = _some_of(_given(noisy, self.regular), self.share, rng)
        # A step of 1 .. R - 1 around the circle of regular tokens never ends where it began.
        rank = np.searchsorted(self.regular, noisy[where])
        step = rng.integers(1, len(self.regular), size=len(where))
        noisy[where] = self.regular[(rank + step) % len(self.regular)]
        return Change(torch.from_numpy(noisy), labels, None, {"positions": where.tolist()})


@dataclass(frozen=True)
class Masking:
    """More blanks: a share of the given positions; the label tells what stood there."""

    regular: np.ndarray
    share: float
    mask: int

    def __call__(self, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Change:
        hidden = inputs.numpy().copy()
        where = _some_of(_given(hidden, self.regular), self.share, rng)
        hidden[where] = self.mask
        return Change(torch.from_numpy(hidden), labels, None, {"positions": where.tolist()})


def _given(ids: np.ndarray, regular: np.ndarray) -> np.ndarray:
    """Positions of ``ids`` that hold a regular token: no blank, no padding, no end."""
    return np.flatnonzero(np.isin(ids, regular))


# ---------------------------------------------------------------- label-preserving transforms


@dataclass(frozen=True)
class SymmetryDraw:
    """A random element of the task's symmetry."""

    symmetry: Symmetry

    def __call__(self, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Change:
        element = self.symmetry.draw(inputs, rng)
        return Change(element.apply(inputs), element.apply(labels), element, {})


@dataclass(frozen=True)
class PositionShift:
    """The whole sequence some positions to the right, into its own padding.

    The canvas is rotated, so the element is a permutation; only padding comes round. The
    shift is at most ``share`` of the sequence's length, and at least one.
    """

    share: float
    pad: int
    vocab_size: int

    def __call__(self, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Change:
        length = max(content_length(inputs, self.pad), content_length(labels, self.pad))
        room = min(len(inputs) - length, max(1, round(self.share * length)))
        if length == 0 or room == 0:
            return unchanged(inputs, labels, "there is no padding to move into")
        shift = int(rng.integers(1, room + 1))
        positions = (torch.arange(len(inputs)) - shift) % len(inputs)
        element = Transform(positions, torch.arange(self.vocab_size))
        return Change(element.apply(inputs), element.apply(labels), element, {"shift": shift})


# ---------------------------------------------------------------- formats


@dataclass(frozen=True)
class TextFormat:
    """The text in another format, at random among those that this text can take.

    The substitutions are many to one (two cases become one): there is nothing to invert,
    and none of them is used for voting.
    """

    tables: Mapping[str, Mapping[str, Tensor]]
    mask: int

    def __call__(self, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Change:
        formats, text = [], labels
        for table_of in self._drawn(labels, rng):
            changed = table_of[1][text]
            # An earlier format may have made a token that this one has no counterpart for.
            if not bool((changed == NO_COUNTERPART).any()):
                formats.append(table_of[0])
                text = changed
        if not formats:
            reason = "no format changes this text within the vocabulary"
            return unchanged(inputs, labels, reason)
        given = torch.where(inputs == self.mask, inputs, text)
        return Change(given, text, None, {"formats": formats})

    def _drawn(self, text: Tensor, rng: np.random.Generator) -> list[tuple[str, Tensor]]:
        """Formats of different groups, uniform over all combinations but the empty one."""
        groups = [
            options
            for formats in self.tables.values()
            if (options := [item for item in formats.items() if _suits(item[1], text)])
        ]
        combinations = int(np.prod([len(options) + 1 for options in groups]))
        if combinations == 1:
            return []
        code = int(rng.integers(1, combinations))
        drawn = []
        for options in groups:
            code, choice = divmod(code, len(options) + 1)
            if choice:
                drawn.append(options[choice - 1])
        return drawn


def _suits(table: Tensor, text: Tensor) -> bool:
    changed = table[text]
    return bool((changed != text).any()) and not bool((changed == NO_COUNTERPART).any())


@dataclass(frozen=True)
class Respelling:
    """Another SELFIES or SMILES of the same molecule, checked by its canonical SMILES.

    Which token becomes which is lost, so the holes are drawn again: as many and as long as
    they were (all, where all were). Needs a complete label, and a spelling that fits.
    """

    tokenizer: CorpusTokenizer
    special: SpecialIds

    def __call__(self, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Change:
        length = content_length(labels, self.special.pad)
        ids = labels[:length].tolist()
        if length == 0 or set(ids) & {self.special.mask, self.special.eos, self.special.pad}:
            return unchanged(inputs, labels, "the label is not one whole molecule")
        spelt = respell(ids, self.tokenizer, rng, limit=len(labels))
        if spelt is None:
            reason = f"no other spelling of at most {len(labels)} tokens was found"
            return unchanged(inputs, labels, reason)
        filler = [self.special.pad] * (len(labels) - len(spelt))
        holed = redraw_holes(inputs[:length], spelt, self.special, rng)
        return Change(
            torch.tensor(holed + filler),
            torch.tensor(spelt + filler),
            None,
            {"tokens": len(spelt)},
        )


# ---------------------------------------------------------------- by name


def _token_noise(means: Means) -> Strategy | Unavailable:
    if means.unique_answer:
        return _wrong_question("another given token")
    regular = _regular(means)
    if len(regular) < 2:
        return Unavailable("the vocabulary has fewer than two tokens that are not special")
    return TokenNoise(regular, means.intensity["token_noise"])


def _masking(means: Means) -> Strategy | Unavailable:
    if means.unique_answer:
        return _wrong_question("one given token less")
    return Masking(_regular(means), means.intensity["masking"], means.special.mask)


def _position_shift(means: Means) -> Strategy | Unavailable:
    if means.symmetry is not None:
        return SymmetryDraw(means.symmetry)
    return PositionShift(means.intensity["position_shift"], means.special.pad, means.vocab_size)


def _format_variation(means: Means) -> Strategy | Unavailable:
    if means.symmetry is not None:
        return SymmetryDraw(means.symmetry)
    if means.unique_answer:
        return _wrong_question("another format")
    if means.tokenizer is None:
        return Unavailable("it needs the task's symmetry or a tokenizer; give tokenizer=...")
    if not hasattr(means.tokenizer, "convert_ids_to_tokens"):
        return Unavailable("this tokenizer has no convert_ids_to_tokens, which says how texts look")
    if isinstance(means.tokenizer, SelfiesTokenizer | SmilesTokenizer):
        return Respelling(means.tokenizer, means.special)
    tables = format_tables(means.tokenizer, means.special, means.vocab_size)
    if not tables:
        return Unavailable(
            "no token of this vocabulary has a counterpart in another case, quotation mark, "
            "dash, white space or punctuation",
            by_design=True,
        )
    return TextFormat(tables, means.special.mask)


def _paraphrase(means: Means) -> Strategy | Unavailable:
    if means.unique_answer and means.paraphrase is None:
        return _wrong_question("other words")
    if means.paraphrase is None:
        return Unavailable(
            "nothing here knows other words for a text: give paraphrase=, a function of a text "
            "that returns a list of paraphrases",
        )
    tokenizer = means.tokenizer
    if tokenizer is None or not (hasattr(tokenizer, "encode") and hasattr(tokenizer, "decode")):
        return Unavailable("it reads and writes text; give a tokenizer with encode and decode")
    if not callable(means.paraphrase):
        raise ConfigError(
            f"paraphrase={means.paraphrase!r:.60} must be a function of a text that returns a "
            "list of paraphrases."
        )
    return TextParaphrase(means.paraphrase, tokenizer, means.special)


def _wrong_question(change: str) -> Unavailable:
    reason = f"the task has one answer, and with {change} the question would have another or none"
    return Unavailable(reason, by_design=True)


def _regular(means: Means) -> np.ndarray:
    special = {*means.special.banned, means.special.mask, means.special.pad, means.special.eos}
    return np.array([index for index in range(means.vocab_size) if index not in special])


STRATEGIES: dict[str, Callable[[Means], Strategy | Unavailable]] = {
    "token_noise": _token_noise,
    "position_shift": _position_shift,
    "masking": _masking,
    "paraphrase": _paraphrase,
    "format_variation": _format_variation,
}
"""The names of ``augmentation_strategies``, in the seed's order."""
