"""The canvas: token ids, and for every position who may write there.

========  ==========================================================================
GIVEN     part of the prompt; never changes, in any mode
OPEN      a blank: holds the mask id and waits to be written
WRITTEN   holds a token that the model wrote and may write again
FROZEN    at or behind an EOS; ignored by attention, never written again
PAD       behind the end of a shorter row; never read, never written
========  ==========================================================================
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from imadarem.errors import DataError
from imadarem.tokenizers import SpecialIds


class State(enum.IntEnum):
    """Who may write at a position."""

    GIVEN = 0
    OPEN = 1
    WRITTEN = 2
    FROZEN = 3
    PAD = 4


@dataclass(frozen=True)
class Canvas:
    """A batch of token rows and what may happen at each position; edits return a new one.

    Attributes:
        ids: ``(B, L)`` int64 token ids; OPEN positions hold the mask id, PAD ones and
            those behind an EOS the pad id.
        state: ``(B, L)`` uint8 values of :class:`State`.
        special: The tokenizer's special ids.
        grain: Rows that stay are cropped to a multiple of it, or not at all.
        optional: ``(B, L)`` bool, where the token *nothing* may be written: the blanks that a
            hole of unknown length has beyond its least number of tokens. None: nowhere.
        min_length: Minimum length of a row in tokens: no EOS stands before.
        condition: ``(B, C)`` the properties that the rows shall have, as the network reads
            them: see :mod:`imadarem.conditions`. None: no condition.
    """

    ids: Tensor
    state: Tensor
    special: SpecialIds
    grain: int = 1
    optional: Tensor | None = None
    min_length: int = 1
    condition: Tensor | None = None

    @classmethod
    def blank(cls, lengths: Sequence[int] | Tensor, special: SpecialIds) -> Canvas:
        """Blanks only: one row per length, padded to the longest.

        Raises:
            DataError: A length is below 1, or there is none.
        """
        lengths = torch.as_tensor(lengths, dtype=torch.long)
        if lengths.numel() == 0 or int(lengths.min()) < 1:
            raise DataError(f"canvas lengths must be at least 1; got {lengths.tolist()}.")
        inside = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        state = torch.where(inside, State.OPEN, State.PAD).to(torch.uint8)
        ids = torch.where(inside, special.mask, special.pad)
        return cls(ids, state, special)

    @classmethod
    def with_holes(cls, rows: Sequence[Sequence[int]], special: SpecialIds) -> Canvas:
        """Prompts whose mask ids are the holes; every other token is GIVEN.

        In a hole of unknown length the ids *nothing* are the blanks that may stay empty. On the
        canvas the blanks that get a token stand before them, and behind a hole with such
        blanks stands one given *nothing*, which marks it for the network.

        Raises:
            DataError: A row is empty, or there is none.
        """
        if not rows or any(len(row) == 0 for row in rows):
            raise DataError("a prompt must have at least one token or blank, and one row.")
        if special.nothing is not None:
            rows = [_marked(row, special.mask, special.nothing) for row in rows]
        width = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[special.pad] * (width - len(row))] for row in rows])
        inside = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
        optional = None
        if special.nothing is not None and bool((ids == special.nothing).any()):
            nothing = ids == special.nothing
            mark = nothing & ~F.pad(nothing[:, 1:], (0, 1))
            optional = nothing & ~mark
            ids = ids.masked_fill(optional, special.mask)
        state = torch.where(ids == special.mask, State.OPEN, State.GIVEN)
        state = torch.where(inside, state, State.PAD).to(torch.uint8)
        return cls(ids, state, special, optional=optional)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> Canvas:
        """The same canvas on another device."""
        ids, state = self.ids.to(device), self.state.to(device)
        optional = None if self.optional is None else self.optional.to(device)
        condition = None if self.condition is None else self.condition.to(device)
        return replace(self, ids=ids, state=state, optional=optional, condition=condition)

    @property
    def open(self) -> Tensor:
        """``(B, L)`` bool: blanks."""
        # A comparison with the enum itself takes three times as long.
        return self.state == int(State.OPEN)

    @property
    def written(self) -> Tensor:
        """``(B, L)`` bool: tokens of the model that may still change."""
        return self.state == int(State.WRITTEN)

    @property
    def attended(self) -> Tensor:
        """``(B, L)`` bool: positions that the model reads."""
        return self.state < int(State.FROZEN)

    @property
    def attention_mask(self) -> Tensor | None:
        """:attr:`attended`, or None where every position is attended (a faster kernel)."""
        attended = self.attended
        return None if bool(attended.all()) else attended

    @property
    def asked(self) -> dict[str, Tensor]:
        """The condition as a keyword argument of a network; empty where there is none."""
        return {} if self.condition is None else {"condition": self.condition}

    def ending_allowed(self) -> Tensor:
        """``(B, L)`` bool: blanks where an EOS may stand.

        They lie behind the last GIVEN token and behind at least ``min_length`` positions.
        """
        given = (self.state == State.GIVEN).long()
        given_from_here = given.flip(1).cumsum(1).flip(1)
        allowed = self.open & (given_from_here == 0)
        allowed[:, : self.min_length] = False
        return allowed

    def log_probs(self, logits: Tensor, may_end: bool) -> Tensor:
        """Log-probabilities ``(B, L, V)`` over the tokens that may stand at each position.

        Special tokens are ruled out everywhere; the EOS everywhere but where
        :meth:`ending_allowed` says so, and there too unless ``may_end``; *nothing* everywhere
        but on the ``optional`` blanks.
        """
        return self.allowed(logits, may_end).log_softmax(dim=-1)

    def allowed(self, logits: Tensor, may_end: bool) -> Tensor:
        """A float32 copy of ``(B, L, V)`` logits, ``-inf`` for what :meth:`log_probs` rules out."""
        special, given = self.special, logits
        banned = special.banned
        if special.eos is not None and not may_end:
            banned = (*banned, special.eos)
        logits = logits.float().index_fill(-1, _numbers(tuple(banned), logits.device), -math.inf)
        if special.nothing is not None and self.optional is not None:
            may_be_empty = self.optional & self.open
            of_nothing = given[..., special.nothing].float()
            logits[..., special.nothing] = of_nothing.masked_fill(~may_be_empty, -math.inf)
        if special.eos is not None and may_end:
            logits[..., special.eos].masked_fill_(~self.ending_allowed(), -math.inf)
        return logits

    def write(self, where: Tensor, tokens: Tensor) -> Canvas:
        """Put ``tokens`` at ``where``, both ``(B, L)``; only OPEN and WRITTEN may be named."""
        assert not (where & ~(self.open | self.written)).any(), "only open or written may change"
        ids = torch.where(where, tokens, self.ids)
        state = self.state.masked_fill(where, State.WRITTEN)
        return replace(self, ids=ids, state=state)

    def remask(self, where: Tensor) -> Canvas:
        """Turn WRITTEN positions ``(B, L)`` back into blanks."""
        assert not (where & ~self.written).any(), "only written tokens can be re-masked"
        ids = self.ids.masked_fill(where, self.special.mask)
        return replace(self, ids=ids, state=self.state.masked_fill(where, State.OPEN))

    def reopened(self) -> Canvas:
        """The same ids with every WRITTEN position OPEN: the question, for who may stand where."""
        return replace(self, state=self.state.masked_fill(self.written, State.OPEN))

    def freeze_endings(self, rows: Tensor | None = None) -> Canvas:
        """Freeze rows from their first written EOS on, and blank out what lies behind.

        Args:
            rows: ``(B,)`` bool, the rows to freeze; None freezes all.
        """
        if self.special.eos is None:
            return self
        ending = (self.ids == self.special.eos) & (self.state == State.WRITTEN)
        if rows is not None:
            ending = ending & rows[:, None]
        behind = ending.long().cumsum(1) - ending.long() > 0
        live = self.state != State.PAD
        state = self.state.masked_fill((ending | behind) & live, State.FROZEN)
        return replace(self, ids=self.ids.masked_fill(behind, self.special.pad), state=state)

    def ends(self) -> Tensor:
        """``(B,)`` positions up to the last one that is read; padding in front counts."""
        positions = torch.arange(1, self.ids.shape[1] + 1, device=self.ids.device)
        return (positions * self.attended).amax(dim=1)

    def rows(self, keep: Tensor, width: int | None = None) -> Canvas:
        """The rows ``keep``, a mask or numbers, cropped to ``width``.

        Without a width: to the longest row, up to the next multiple of :attr:`grain`.
        """
        state = self.state[keep]
        if width is None:
            positions = torch.arange(1, state.shape[1] + 1, device=state.device)
            used = (state < State.FROZEN).any(dim=0)
            longest = max(int((positions * used).amax()), 1)
            width = -(-longest // self.grain) * self.grain
        ids, state = self.ids[keep, :width], state[:, :width]
        optional = None if self.optional is None else self.optional[keep, :width]
        condition = None if self.condition is None else self.condition[keep]
        return replace(self, ids=ids, state=state, optional=optional, condition=condition)

    def padded(self, width: int) -> Canvas:
        """The same rows on ``width`` positions at least, PAD behind their ends."""
        missing = max(width - self.ids.shape[1], 0)
        return replace(
            self,
            ids=F.pad(self.ids, (0, missing), value=self.special.pad),
            state=F.pad(self.state, (0, missing), value=int(State.PAD)),
            optional=None if self.optional is None else F.pad(self.optional, (0, missing)),
        )

    def sequences(self) -> list[Tensor]:
        """The rows' ids without padding, *nothing*, EOS and what lies behind it; on the CPU."""
        ids, real = self.ids.cpu(), self.attended.cpu()
        if self.special.nothing is not None:
            real = real & (ids != self.special.nothing)
        return [row.clone() for row in ids[real].split(real.sum(dim=1).tolist())]


@lru_cache
def _numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long, device=device)


def _marked(row: Sequence[int], mask: int, nothing: int) -> list[int]:
    """A prompt with the blanks of each hole in order, a mark behind those of unknown length."""
    marked: list[int] = []
    for blank, run in groupby(row, lambda index: index in (mask, nothing)):
        ids = list(run)
        if blank and nothing in ids:
            ids = [*sorted(ids, key=nothing.__eq__), nothing]
        marked += ids
    return marked
