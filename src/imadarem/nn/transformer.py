"""The refiner's network: one stack of blocks, shared by all refinement steps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import DataError
from imadarem.nn.blocks import Block
from imadarem.nn.embeddings import (
    AdaptivePositionalEmbedding,
    TimeEmbedding,
    TokenEmbedding,
    rotary_angles,
)
from imadarem.nn.heads import RefineGate

__all__ = ["RefinementOutput", "RefinementTransformer"]


class RefinementOutput(NamedTuple):
    """What one forward pass returns.

    Attributes:
        logits: ``(B, L, V)``, unnormalised log-probabilities of the token at each position.
        gate_logits: ``(B, L)``, logit that the token now standing there should be predicted
            again, divided by the fitted ``gate_temperature``.
    """

    logits: Tensor
    gate_logits: Tensor


class RefinementTransformer(nn.Module):
    """Canvas in, token logits and gate logits out: no sampling, no loss.

    Args:
        config: The architecture.
        mask_token_id: The id of a blank; the time of a row is read off its blanks.
    """

    def __init__(self, config: ImplicitRefinementConfig, mask_token_id: int) -> None:
        super().__init__()
        self.config = config
        self.mask_token_id = mask_token_id
        width = config.hidden_size
        self.tokens = TokenEmbedding(config.vocab_size, width)
        self.positions = AdaptivePositionalEmbedding(config.max_seq_len, width)
        self.time = TimeEmbedding(width)
        self.self_condition = (
            nn.Linear(width, width, bias=False) if config.self_conditioning else None
        )
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, config.vocab_size)
        self.gate = RefineGate(width, config.gate_bias_init)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        time: Tensor | None = None,
        prev_probs: Tensor | None = None,
    ) -> RefinementOutput:
        """One pass over a canvas.

        Args:
            input_ids: ``(B, L)`` token ids, blanks as the mask id.
            attention_mask: ``(B, L)``, nonzero where a token is real; ``None`` means all
                are. What lies under a zero never influences the rest.
            time: ``(B,)``, ``t / K`` in [0, 1]; ``None`` reads it off the canvas as the
                share of real positions that are not blank.
            prev_probs: ``(B, L, V)``, the previous pass's probabilities, used where the
                canvas is still blank (a written token must not betray how it was drawn,
                or the gate judges its odds instead of its fit).

        Raises:
            DataError: The canvas is longer than ``max_seq_len``.
        """
        length = input_ids.shape[1]
        if length > self.config.max_seq_len:
            raise DataError(
                f"this canvas has {length} tokens and the model takes at most "
                f"max_seq_len={self.config.max_seq_len}. Shorten it, or train a model with "
                "a larger max_seq_len."
            )
        attended = None if attention_mask is None else attention_mask.bool()
        x = self._embed(input_ids, attended, time, prev_probs)
        rotation = None
        if self.config.rotary:
            head_size = self.config.hidden_size // self.config.num_heads
            rotation = rotary_angles(length, head_size, x.device)
        for block in self.blocks:
            if self.config.gradient_checkpointing and self.training:
                x = checkpoint(block, x, attended, rotation, use_reentrant=False)
            else:
                x = block(x, attended, rotation)
        x = self.norm(x)
        return RefinementOutput(
            logits=self.to_logits(x),
            gate_logits=self.gate(x) / self.config.gate_temperature,
        )

    def _embed(
        self,
        input_ids: Tensor,
        attended: Tensor | None,
        time: Tensor | None,
        prev_probs: Tensor | None,
    ) -> Tensor:
        blank = input_ids == self.mask_token_id
        if time is None:
            time = canvas_time(blank, attended)
        x = self.tokens(input_ids) + self.positions(input_ids.shape[1]) + self.time(time)
        if prev_probs is not None and self.self_condition is not None:
            belief = self.self_condition(self.tokens.expected(prev_probs))
            x = x + belief * blank[..., None]
        return self.dropout(x)


def canvas_time(blank: Tensor, attended: Tensor | None) -> Tensor:
    """``(B,)`` share of attended positions that are written: ``t / K`` on the schedule."""
    if attended is None:
        return 1.0 - blank.float().mean(dim=1)
    real = attended.sum(dim=1).clamp(min=1)
    return 1.0 - (blank & attended).sum(dim=1) / real
