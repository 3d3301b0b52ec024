"""Masking: how much of a sequence is hidden, which positions, and holes of unknown length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from imadarem import checks
from imadarem.canvas import Canvas, State
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, DataError
from imadarem.tokenizers import SpecialIds

#: Largest share of a row that windows hide.
WINDOW_LIMIT = 0.6
#: Share of the batches whose holes get surplus blanks: the others are not padded for them.
SURPLUS_BATCHES = 0.5


def grid_rates(count: int, steps: int, generator: torch.Generator) -> Tensor:
    """``(count,)`` mask rates drawn uniformly from the grid ``1 - t/K``, ``t = 0 … K - 1``."""
    t = torch.randint(steps, (count,), generator=generator)
    return 1.0 - t.double() / steps


def stratified_rates(count: int, generator: torch.Generator) -> Tensor:
    """``(count,)`` mask rates in (0, 1], one in each of ``count`` equal strata, shuffled.

    One shared offset, so each rate alone is uniform and the batch covers the interval
    evenly: the low-discrepancy sampler of variational diffusion, arXiv:2107.00630.
    """
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    strata = torch.arange(count, dtype=torch.float64)
    rates = 1.0 - (strata + offset) / count
    return rates[torch.randperm(count, generator=generator)]


def masked_counts(rates: Tensor, lengths: Tensor) -> Tensor:
    """``ceil(rate * length)``, at least 1: ``(B,)`` rates and lengths → ``(B,)`` counts."""
    counts = torch.ceil(rates * lengths.double()).long()
    return torch.minimum(counts.clamp(min=1), lengths)


def choose_masked(counts: Tensor, eligible: Tensor, generator: torch.Generator) -> Tensor:
    """Choose exactly ``counts`` positions per row, uniformly among the eligible ones.

    ``(B,)`` counts and ``(B, L)`` bool → ``(B, L)`` bool. A row with fewer eligible
    positions than its count gives all of them.
    """
    noise = torch.rand(eligible.shape, generator=generator).masked_fill(~eligible, 2.0)
    ranks = noise.argsort(dim=1).argsort(dim=1)
    return (ranks < counts[:, None]) & eligible


@dataclass(frozen=True)
class Holes:
    """At most two runs of hidden positions in each row, the left one first.

    Attributes:
        starts: ``(B, 2)`` first position.
        ends: ``(B, 2)`` exclusive end; a hole may be empty.
        present: ``(B, 2)`` bool, False where the row has no such hole.
    """

    starts: Tensor
    ends: Tensor
    present: Tensor

    @classmethod
    def at_the_end(cls, counts: Tensor, lengths: Tensor) -> Holes:
        """One hole that takes the last ``counts`` ``(B,)`` positions of each row."""
        return cls._pair(lengths - counts, lengths, lengths, lengths, torch.zeros_like(counts))

    @classmethod
    def windows(
        cls, counts: Tensor, lengths: Tensor, generator: torch.Generator, empty: bool = False
    ) -> Holes:
        """One window of ``counts`` positions, or two that have so many together, anywhere.

        Half of the rows get two, of independent sizes and places.

        Args:
            counts: ``(B,)`` hidden positions, at least 1 and at most ``lengths``.
            lengths: ``(B,)``.
            generator: On the CPU.
            empty: Whether one of two windows may have no position.
        """
        draws = torch.rand(4, len(counts), generator=generator, dtype=torch.float64)
        least = 0 if empty else 1
        two = (draws[0] < 0.5) & (counts >= 2)
        # Sizes of the first window: least … counts - least.
        first = least + (draws[1] * (counts + 1 - 2 * least)).long()
        first = torch.where(two, first, counts)
        shown = lengths - counts
        one, other = (draws[2:] * (shown + 1)).long()
        start = torch.where(two, one.minimum(other), one)
        second = torch.where(two, one.maximum(other) + first, lengths)
        ends = torch.where(two, second + counts - first, lengths)
        return cls._pair(start, start + first, second, ends, two)

    @classmethod
    def _pair(cls, start: Tensor, end: Tensor, second: Tensor, last: Tensor, two: Tensor) -> Holes:
        present = torch.stack([torch.ones_like(two, dtype=torch.bool), two.bool()], dim=1)
        return cls(torch.stack([start, second], dim=1), torch.stack([end, last], dim=1), present)

    def where(self, rows: Tensor, other: Holes) -> Holes:
        """These holes in the ``rows`` ``(B,)`` bool, and those of ``other`` in the rest."""
        pick = rows[:, None]
        return Holes(
            torch.where(pick, self.starts, other.starts),
            torch.where(pick, self.ends, other.ends),
            torch.where(pick, self.present, other.present),
        )

    def hidden(self, width: int) -> Tensor:
        """``(B, width)`` bool, the positions in a hole."""
        at = torch.arange(width)[None, :, None]
        inside = (at >= self.starts[:, None]) & (at < self.ends[:, None])
        return (inside & self.present[:, None]).any(dim=-1)

    def surplus(self, most: Tensor, generator: torch.Generator) -> Tensor:
        """``(B, 2)`` blanks too many for the holes of each row, 0 to ``most`` ``(B,)`` together."""
        draws = torch.rand(2, len(most), generator=generator, dtype=torch.float64)
        total = (draws[0] * (most + 1)).long()
        first = torch.where(self.present[:, 1], (draws[1] * (total + 1)).long(), total)
        return torch.stack([first, total - first], dim=1)


def with_surplus(
    targets: Tensor, hidden: Tensor, lengths: Tensor, ends: Tensor, extra: Tensor, nothing: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Lengthen holes by blanks that stand for nothing, and mark these holes as longer.

    Behind the tokens of a hole come ``extra - 1`` further blanks whose target is the token
    ``nothing``, and then one visible ``nothing``: the mark of a hole that may have more blanks
    than tokens. A hole without the mark has exactly as many.

    Args:
        targets: ``(B, L)`` ids.
        hidden: ``(B, L)`` bool.
        lengths: ``(B,)`` tokens of each row.
        ends: ``(B, 2)`` exclusive ends of the holes, in order.
        extra: ``(B, 2)`` positions to insert at each end, the mark included; 0 for none.
        nothing: Id of the token.

    Returns:
        Targets ``(B, L')``, hidden positions ``(B, L')`` and the new lengths ``(B,)``. What is
        behind a row's end holds the id 0 and is not hidden.
    """
    at = torch.arange(targets.shape[1])
    new_lengths = lengths + extra.sum(dim=1)
    width = int(new_lengths.max())
    shift = ((at[None, :, None] >= ends[:, None]) * extra[:, None]).sum(dim=-1)
    # What lies behind a row's end goes to one further column, which is cut off.
    goal = torch.where(at < lengths[:, None], at + shift, width)
    wide = torch.full((len(targets), width + 1), nothing).scatter(1, goal, targets)
    blank = torch.ones(wide.shape, dtype=torch.bool).scatter(1, goal, hidden)
    marks = torch.where(extra > 0, ends + extra.cumsum(dim=1) - 1, width)
    blank = blank.scatter(1, marks, False)
    inside = torch.arange(width) < new_lengths[:, None]
    return wide[:, :-1] * inside, blank[:, :-1] & inside, new_lengths


@dataclass(frozen=True)
class TrainingCanvas:
    """A corrupted batch.

    Attributes:
        canvas: What the network sees. Every token that is no blank counts as WRITTEN, the
            data's and the model's alike: the network does not see which is which.
        targets: ``(B, L)``, the data.
        judged: ``(B, L)`` bool, tokens written by the model, on which the gate is trained.
        blank: ``(B,)`` bool, rows that were left entirely blank on purpose.
        longer: ``(B,)`` bool, rows with holes that have more blanks than tokens.
    """

    canvas: Canvas
    targets: Tensor
    judged: Tensor
    blank: Tensor
    longer: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """Hides part of each row of the data.

    Args:
        config: Length mode, longest canvas and steps of the grid.
        special: The tokenizer's special ids.
        suffix_share: Share of the rows whose end is masked, as a left-to-right policy leaves it.
        blank_share: Share of the rows that show nothing at all: those of a length share a pass.
        window_share: Share of the rows that hide one or two windows, of up to 60 % of the row
            together. What the three shares leave hides scattered positions.
        surplus: Blanks at most that the holes of a row have beyond their tokens, in half of the
            batches and in rows that hide windows or their end. Needs the token *nothing*.
        grid: Draw mask rates from the seed's grid ``1 - t/K``, ``t = 0 … K - 1``, instead of
            the stratified continuum.
    """

    config: ImplicitRefinementConfig
    special: SpecialIds
    suffix_share: float = 0.0
    blank_share: float = 0.0
    window_share: float = 0.0
    surplus: int = 0
    grid: bool = False

    def __post_init__(self) -> None:
        shares = ("suffix_share", "blank_share", "window_share")
        checks.share(**{name: getattr(self, name) for name in shares})
        if self.suffix_share + self.blank_share + self.window_share > 1.0 + 1e-9:
            raise ConfigError(
                f"suffix_share={self.suffix_share}, blank_share={self.blank_share} and "
                f"window_share={self.window_share} must add up to at most 1; the rest of the "
                "rows hides scattered positions."
            )
        if self.surplus and self.special.nothing is None:
            raise ConfigError(
                f"surplus={self.surplus} needs a tokenizer with a token for nothing. Use "
                "tokenizer.with_nothing(), or surplus=0."
            )
        if self.surplus and self.config.length_mode != "drawn":
            raise ConfigError(
                f"surplus={self.surplus} needs length_mode='drawn'. Set it, or surplus=0."
            )

    def corrupt(
        self, input_ids: Tensor, attention_mask: Tensor | None, generator: torch.Generator
    ) -> TrainingCanvas:
        """Hide part of each row, as sampling will: by EOS or at a known length.

        With ``length_mode="eos"`` every row is as long as a canvas and filled up with EOS,
        so that a blank behind the end differs from one before it only by what the network reads; a
        visible EOS hides what lies behind it, as in sampling.

        Raises:
            DataError: The batch is empty or too long.
        """
        targets, inside = self._canvas_rows(input_ids, attention_mask)
        device = targets.device
        targets, inside = targets.cpu(), inside.cpu()
        lengths = inside.sum(dim=1)
        rates = (
            grid_rates(len(targets), self.config.max_refinement_steps, generator)
            if self.grid
            else stratified_rates(len(targets), generator)
        )
        blank, ends, windows = self._kinds(len(targets), generator)
        rates = torch.where(windows, WINDOW_LIMIT * rates, rates)
        counts = torch.where(blank, lengths, masked_counts(rates, lengths))
        hidden = choose_masked(counts, inside, generator)
        longer = torch.zeros_like(blank)
        if bool((ends | windows).any()):
            holes = Holes.at_the_end(counts, lengths)
            if bool(windows.any()):
                drawn = Holes.windows(counts, lengths, generator, empty=self.surplus > 0)
                holes = drawn.where(windows, holes)
            hidden = torch.where((ends | windows)[:, None], holes.hidden(inside.shape[1]), hidden)
            if self.surplus and torch.rand((), generator=generator) < SURPLUS_BATCHES:
                room = (self.config.max_seq_len - lengths - holes.present.sum(dim=1)).clamp(min=-1)
                longer = (ends | windows) & (room >= 0)
                most = room.clamp(min=0, max=self.surplus)
                extra = holes.surplus(most, generator) + holes.present
                extra = extra * longer[:, None]
                assert self.special.nothing is not None
                targets, hidden, lengths = with_surplus(
                    targets, hidden, lengths, holes.ends, extra, self.special.nothing
                )
                inside = torch.arange(targets.shape[1]) < lengths[:, None]
        state = torch.where(hidden, State.OPEN, State.WRITTEN)
        state = torch.where(inside, state, State.PAD).to(torch.uint8)
        ids = targets.masked_fill(hidden, self.special.mask).masked_fill(~inside, self.special.pad)
        canvas = Canvas(ids, state, self.special).to(device).freeze_endings()
        judged = torch.zeros(targets.shape, dtype=torch.bool, device=device)
        return TrainingCanvas(canvas, targets.to(device), judged, blank, longer)

    def _kinds(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Which rows show nothing, hide their end, hide windows: ``(B,)`` bool each."""
        blank = torch.zeros(rows, dtype=torch.bool)
        blank[: int(self.blank_share * rows)] = True
        draw = torch.rand(rows, generator=generator) * (1.0 - self.blank_share)
        ends = ~blank & (draw < self.suffix_share)
        windows = ~blank & ~ends & (draw < self.suffix_share + self.window_share)
        return blank, ends, windows

    def _canvas_rows(self, ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Targets and real positions, both ``(B, L)``, on canvases as sampling has them."""
        if ids.ndim != 2 or ids.numel() == 0:
            raise DataError(f"a batch must be (B, L) ids with B, L ≥ 1; got {tuple(ids.shape)}.")
        checks.canvas_length(ids.shape[1], self.config.max_seq_len, "each row of this batch")
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        inside = everywhere if attention_mask is None else attention_mask.bool()
        if self.config.length_mode == "drawn" or self.special.eos is None:
            return ids, inside
        behind = (0, self.config.max_seq_len - ids.shape[1])
        ids, inside = F.pad(ids, behind), F.pad(inside, behind)
        return ids.masked_fill(~inside, self.special.eos), torch.ones_like(inside)
