"""Drawing tokens from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.errors import ConfigError
from imadarem.nn.joint import JointLogits
from imadarem.nn.walk import JointWalk, PackedJoint
from imadarem.sampling.noise import RowNoise, Stream

__all__ = [
    "JointDraws",
    "Truncation",
    "draw_tokens",
    "forbid",
    "normalized_entropy",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """Leave the tail of each token's distribution out of the draw.

    Tokens are ranked by their probability *after* the temperature, equal ones by their id.
    First the ``top_k`` highest are kept; of these, renormalised, the fewest whose
    probabilities add up to ``top_p`` or more (the nucleus, arXiv:1904.09751). That is the
    order of Hugging Face's ``generate`` too, which however keeps every token that ties with
    the k-th. At least one token is always kept.

    Args:
        top_k: Tokens kept, at least 1; None keeps all.
        top_p: Probability that the kept tokens must have together, above 0 and at most 1;
            None and 1 keep all.

    Raises:
        ConfigError: A setting is out of range.
    """

    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        k, p = self.top_k, self.top_p
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise ConfigError(f"top_k={k!r} must be a whole number of at least 1, or None for all.")
        if p is not None and not 0.0 < p <= 1.0:
            raise ConfigError(f"top_p={p!r} must be above 0 and at most 1; 1 keeps every token.")

    @property
    def keeps_all(self) -> bool:
        """Whether no token is ever cut."""
        return self.top_k is None and self.top_p in (None, 1.0)

    def __call__(self, weights: Tensor) -> Tensor:
        """``(..., V)`` weights, of any sum → the same, 0 for the tokens that are cut."""
        if self.keeps_all:
            return weights
        ranked, order = weights.sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ranked[..., self.top_k :] = 0.0
        if self.top_p is not None and self.top_p < 1.0:
            cumulative = ranked.cumsum(dim=-1)
            # Subtract before comparing: the likeliest token must always pass.
            cut = cumulative - ranked >= self.top_p * cumulative[..., -1:]
            ranked = ranked.masked_fill(cut, 0.0)
        return torch.zeros_like(weights).scatter(-1, order, ranked)


def forbid(logits: Tensor, canvas: Canvas, may_end: bool) -> Tensor:
    """Log-probabilities ``(B, L, V)`` over the tokens that may stand at each position.

    Special tokens are ruled out everywhere; the EOS everywhere but where
    :meth:`Canvas.ending_allowed` says so, and there too unless ``may_end``; *nothing*
    everywhere but on the canvas's ``optional`` blanks.
    """
    return _ruled_out(logits, canvas, may_end).log_softmax(dim=-1)


def _ruled_out(logits: Tensor, canvas: Canvas, may_end: bool) -> Tensor:
    """A float32 copy of the logits, ``-inf`` for what may not stand at a position."""
    special = canvas.special
    banned = special.banned
    if special.eos is not None and not may_end:
        banned = (*banned, special.eos)
    given = logits
    logits = logits.float().index_fill(-1, _numbers(tuple(banned), logits.device), -math.inf)
    if special.nothing is not None and canvas.optional is not None:
        may_be_empty = canvas.optional & canvas.open
        kept = given[..., special.nothing].float()
        logits[..., special.nothing] = kept.masked_fill(~may_be_empty, -math.inf)
    if special.eos is not None and may_end:
        logits[..., special.eos].masked_fill_(~canvas.ending_allowed(), -math.inf)
    return logits


@lru_cache
def _numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long, device=device)


class JointDraws:
    """Draws from left to right, as far as somebody asks for them.

    Left of a position stand the canvas's own tokens, and the drawn ones where it has a
    blank. At a blank and at temperature 1 a row's draw has the probability
    ``Π_i p(x_i | canvas, x_<i)``. An EOS is a token like any other here: what follows one
    is told so. What is drawn does not depend on how far, nor in how many parts, one asks.

    Args:
        joint: Of the pass.
        canvas: That the pass has read.
        noise: Of the step.
        temperature: Divides the logits before a token is drawn.
        may_end: Whether an EOS may be drawn.
        truncation: Cuts the tail of what is drawn from.
    """

    def __init__(
        self,
        joint: JointLogits | PackedJoint,
        canvas: Canvas,
        noise: RowNoise,
        temperature: float,
        may_end: bool,
        truncation: Truncation | None = None,
    ) -> None:
        logits = _ruled_out(joint.logits, canvas, may_end)
        # Where some row has a blank, the tokens to its right hear what is drawn there.
        heard, read = torch.stack([canvas.open, canvas.attended]).any(dim=1).tolist()
        self._heard: list[bool] = heard
        #: Positions up to the last that some row reads.
        self.length = max((i + 1 for i, is_read in enumerate(read) if is_read), default=0)
        self._drawn = torch.zeros_like(canvas.ids)
        self._logits, self._log_probs = torch.zeros_like(logits), torch.zeros_like(logits)
        uniform = noise.uniform(Stream.TOKEN, logits.shape[1])
        draw = _Draw(temperature, truncation)
        task = _Task(canvas, uniform, draw, self._logits, self._drawn)
        self._steps = (
            _ArraySteps(replace(joint, logits=logits), task)
            if isinstance(joint, PackedJoint)
            else _Steps(replace(joint, logits=logits), task)
        )
        self._reached = 0

    def upto(self, end: int) -> tuple[Tensor, Tensor]:
        """The positions before ``end``, and others if they were asked for before.

        Returns:
            Log-probabilities ``(B, L, V)`` of each position given what was drawn left of it,
            and the drawn tokens ``(B, L)``; behind what was asked for they say nothing.
        """
        start = self._reached
        if end > start:
            for position in range(start, end):
                self._steps.to(position, self._heard[position])
            self._log_probs[:, start:end] = self._logits[:, start:end].log_softmax(dim=-1)
            self._steps.draw_unheard([p for p in range(start, end) if not self._heard[p]])
            self._reached = end
        return self._log_probs, self._drawn

    def whole(self) -> tuple[Tensor, Tensor]:
        """All positions that some row reads, as :meth:`upto` returns them."""
        return self.upto(self.length)


@dataclass(frozen=True)
class _Draw:
    """A token for each distribution, from a uniform number for each.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest.
        truncation: Cuts the tail of what is drawn from.
    """

    temperature: float
    truncation: Truncation | None

    def __call__(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """``(..., V)`` and ``(...)`` → ``(...)`` int64."""
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        probs = (logits.double() / self.temperature).softmax(dim=-1)
        return _invert(_truncated(probs, self.truncation), uniform)

    def of_arrays(self, logits: Array, uniform: Array) -> Array:
        """The same of ``(B, V)`` float32 and ``(B, 1)``, in NumPy: ``(B,)``."""
        if self.temperature == 0:
            return logits.argmax(axis=1)
        weights = logits.astype(np.float64)
        if self.temperature != 1:
            weights /= self.temperature
        weights -= np.maximum.reduce(weights, axis=1, keepdims=True)
        np.exp(weights, out=weights)
        if self.truncation is not None:
            weights = self.truncation(torch.from_numpy(weights)).numpy()
        np.add.accumulate(weights, axis=1, out=weights)
        # The first that exceeds its share of the whole; the last, if rounding leaves none.
        below = weights <= uniform * weights[:, -1:]
        below[:, -1] = False
        return below.argmin(axis=1)


@dataclass(frozen=True)
class _Task:
    """What is drawn for, how, and where it is written.

    Attributes:
        canvas: That the pass has read.
        uniform: ``(B, L)`` float64.
        draw: How.
        logits: ``(B, L, V)``, written to: given what was drawn on the left.
        drawn: ``(B, L)``, written to.
    """

    canvas: Canvas
    uniform: Tensor
    draw: _Draw
    logits: Tensor
    drawn: Tensor


class _Steps:
    """Reads and draws position by position, in torch.

    Args:
        joint: With the logits of what may not stand at a position ruled out.
        task: What else it works on.
    """

    def __init__(self, joint: JointLogits, task: _Task) -> None:
        self._joint, self._uniform, self._draw = joint, task.uniform, task.draw
        self._logits, self._drawn = task.logits, task.drawn
        self._ids, self._open = task.canvas.ids, task.canvas.open
        self._hidden, self._previous = joint.begin()

    def to(self, position: int, heard: bool) -> None:
        """The next position; a token is drawn there if it is ``heard``."""
        here, self._hidden = self._joint.at(position, self._hidden, self._previous)
        self._logits[:, position] = here
        self._previous = self._ids[:, position]
        if heard:
            token = self._draw(here, self._uniform[:, position])
            self._drawn[:, position] = token
            self._previous = torch.where(self._open[:, position], token, self._previous)

    def draw_unheard(self, positions: list[int]) -> None:
        """What nobody hears is drawn at once."""
        if positions:
            chosen = self._logits[:, positions]
            self._drawn[:, positions] = self._draw(chosen, self._uniform[:, positions])


class _ArraySteps:
    """The same in NumPy, over the same memory: see :mod:`imadarem.nn.walk`."""

    def __init__(self, joint: PackedJoint, task: _Task) -> None:
        self._walk, self._draw = JointWalk(joint), task.draw
        alone, ids, is_open = joint.logits, task.canvas.ids, task.canvas.open
        # Positions first: each step takes one row of these.
        self._alone, self._logits, self._drawn, self._uniform = (
            x.numpy().swapaxes(0, 1)
            for x in (alone, task.logits, task.drawn, task.uniform[..., None])
        )
        self._ids, self._open = ids.t().contiguous().numpy(), is_open.t().contiguous().numpy()
        self._all_open: list[bool] = is_open.all(dim=0).tolist()
        self._previous = np.full(len(alone), joint.head.start_id)

    def to(self, position: int, heard: bool) -> None:
        """As :meth:`_Steps.to`."""
        self._walk.step(position, self._previous)
        here = self._logits[position]
        np.add(self._alone[position], self._walk.added, out=here)
        if not heard:
            self._previous = self._ids[position]
            return
        token = self._draw.of_arrays(here, self._uniform[position])
        self._drawn[position] = token
        if not self._all_open[position]:
            token = np.where(self._open[position], token, self._ids[position])
        self._previous = token

    def draw_unheard(self, positions: list[int]) -> None:
        """As :meth:`_Steps.draw_unheard`."""
        for position in positions:
            here = self._draw.of_arrays(self._logits[position], self._uniform[position])
            self._drawn[position] = here


def draw_tokens(
    log_probs: Tensor,
    noise: RowNoise,
    temperature: float,
    eos: int | None = None,
    truncation: Truncation | None = None,
) -> Tensor:
    """Draw a token at every position: ``(B, L, V)`` → ``(B, L)`` int64.

    By inversion of the cumulative distribution in float64. Temperature 0 takes the most
    likely token, and then truncation changes nothing.

    Endings are drawn with *one* uniform number per row: position i ends the row iff
    ``p_i(EOS) > u``. Each position's own probability is unchanged, but since the model
    learns ``p_i(EOS) = P(length ≤ i)``, the first EOS of a parallel draw then has exactly
    the model's distribution of lengths; independent draws would end rows far too early.
    Truncation leaves these probabilities alone, or it would cut off the short and the long
    rows; it is about which token stands at a position that does not end the row.
    """
    if temperature == 0:
        return log_probs.argmax(dim=-1)
    probs = log_probs.double()
    # Log-probabilities need no second softmax as long as they are not divided.
    probs = probs.exp() if temperature == 1 else (probs / temperature).softmax(dim=-1)
    uniform = noise.uniform(Stream.TOKEN, probs.shape[1])
    if eos is None:
        return _invert(_truncated(probs, truncation), uniform)
    ends = probs[..., eos] > noise.uniform(Stream.ENDING, 1)
    # What is left must still be a distribution where an EOS was certain; it is not used there.
    probs[..., eos] = torch.where(probs[..., eos] >= 1.0, 1.0, 0.0)
    return _invert(_truncated(probs, truncation), uniform).masked_fill(ends, eos)


def _truncated(probs: Tensor, truncation: Truncation | None) -> Tensor:
    return probs if truncation is None else truncation(probs)


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """The first token whose cumulative weight exceeds a uniform share of the whole.

    ``(..., V)`` weights and ``(...)`` numbers in (0, 1), float64 both → ``(...)`` int64.
    """
    cumulative = probs.cumsum(dim=-1)
    target = uniform * cumulative[..., -1]
    tokens = torch.searchsorted(cumulative, target[..., None], right=True).squeeze(-1)
    return tokens.clamp(max=probs.shape[-1] - 1)


def normalized_entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats ÷ ln V, in [0, 1]: ``(B, L, V)`` → ``(B, L)``."""
    weighted = log_probs.exp() * log_probs
    entropy = -weighted.nan_to_num(nan=0.0).sum(dim=-1)
    return entropy / math.log(max(log_probs.shape[-1], 2))
