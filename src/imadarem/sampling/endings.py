"""Where rows end: decided once, by the first pass, whatever policy fills the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.sampling.noise import RowNoise, Stream
from imadarem.sampling.settings import SamplingSettings


@dataclass(frozen=True)
class Endings:
    """Where the rows of a batch end.

    Policies fill what lies before the ends. If they chose among drawn ends and tokens by
    confidence, an early end, which is more certain than any word, would be taken too often.

    Attributes:
        at: ``(B, L)`` bool, the position of the EOS; at most one in a row.
        before: ``(B, L)`` bool, positions in front of it; all of a row that does not end.
        log_probs: ``(B, L)`` of an EOS at each position.
        eos: Id of the EOS.
    """

    at: Tensor
    before: Tensor
    log_probs: Tensor
    eos: int

    @classmethod
    def decided(
        cls,
        logits: Tensor,
        canvas: Canvas,
        noise: RowNoise,
        settings: SamplingSettings,
        drawn: Tensor | None = None,
    ) -> Endings:
        """From the probabilities of an EOS, by one uniform number ``u`` for each row.

        The model learns ``p_i(EOS) = P(length ≤ i)``, so the first position with
        ``p_i(EOS) > u`` has exactly the model's distribution of lengths. Lengths below
        ``min_length`` and above ``max_length`` are ruled out, the others keep their proportions.
        Neither temperature nor truncation changes lengths; temperature 0 takes ``u = 1/2``, the
        median.

        Args:
            logits: ``(B, L, V)`` of the first pass.
            canvas: Says where an EOS may stand.
            noise: Of the first step.
            settings: Limits and temperature.
            drawn: ``(B, L)`` tokens of a joint head, which drew the end among them; None without.
        """
        special, longest = canvas.special, settings.max_length
        assert special.eos is not None
        log_probs = replace(canvas, min_length=1).log_probs(logits, may_end=True)[..., special.eos]
        positions = torch.arange(log_probs.shape[1], device=log_probs.device)
        if drawn is None:
            ends = _above(log_probs, positions, noise, canvas.min_length, settings)
        else:
            ends = drawn == special.eos
        ends = canvas.ending_allowed() & (
            ends | (positions >= (math.inf if longest is None else longest))
        )
        so_far = ends.cumsum(dim=1)
        return cls(ends & (so_far == 1), so_far == 0, log_probs, special.eos)

    def put_into(self, log_probs: Tensor) -> Tensor:
        """``(B, L, V)`` with nothing but the EOS where rows end."""
        log_probs = log_probs.masked_fill(self.at[..., None], -math.inf)
        log_probs[..., self.eos] = torch.where(self.at, self.log_probs, log_probs[..., self.eos])
        return log_probs

    def written(self, drawn: Tensor) -> Tensor:
        """``(B, L)`` tokens with the EOS where rows end."""
        return drawn.masked_fill(self.at, self.eos)


def _above(
    log_probs: Tensor, positions: Tensor, noise: RowNoise, shortest: int, settings: SamplingSettings
) -> Tensor:
    """``(B, L)`` bool, where ``P(length ≤ i)`` of the legal lengths is above ``u``."""
    cumulative = log_probs.double().exp().cummax(dim=1).values
    low = (cumulative * (positions < shortest)).amax(dim=1, keepdim=True)
    high = torch.ones_like(low)
    if settings.max_length is not None:
        high = (cumulative * (positions <= settings.max_length)).amax(dim=1, keepdim=True)
    median = settings.temperature == 0
    u = torch.full_like(low, 0.5) if median else noise.uniform(Stream.ENDING, 1)
    return cumulative > low + u * (high - low)
