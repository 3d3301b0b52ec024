"""The project's own backbone: one stack of blocks, shared by all refinement steps."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, DataError
from imadarem.nn.block import Block
from imadarem.nn.embeddings import (
    AdaptivePositionalEmbedding,
    TimeEmbedding,
    TokenEmbedding,
    rotary_turns,
)
from imadarem.nn.memory import GatedCrossAttention, MemoryEmbedding, Retrieved
from imadarem.nn.output import BackboneOutput
from imadarem.nn.relations import Layouts

__all__ = ["RefinementTransformer", "canvas_time"]


class RefinementTransformer(nn.Module):
    """Canvas in, states and token logits out: no heads, no sampling, no loss.

    Args:
        config: The architecture.
        mask_token_id: The id of a blank; the time of a row is the share that is not blank.
    """

    def __init__(self, config: ImplicitRefinementConfig, mask_token_id: int) -> None:
        super().__init__()
        self.config = config
        self.mask_token_id = mask_token_id
        width = config.hidden_size
        self.tokens = TokenEmbedding(config.vocab_size, width)
        self.positions = (
            AdaptivePositionalEmbedding(config.max_seq_len, width) if config.positions else None
        )
        self.time = TimeEmbedding(width)
        self.self_condition = (
            nn.Linear(width, width, bias=False) if config.self_conditioning else None
        )
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, config.vocab_size)
        # A state has unit scale after its norm; the input must not drown beside it.
        self.inject = nn.LayerNorm(width) if config.recurrent else None
        self.memory_embedding = MemoryEmbedding(width) if config.memory else None
        self.memory = GatedCrossAttention(width, config.num_heads) if config.memory else None
        self.layouts = None if config.relations is None else Layouts(config.relations)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        time: Tensor | None = None,
        prev_probs: Tensor | None = None,
        carry: Tensor | None = None,
        memory: Retrieved | None = None,
    ) -> BackboneOutput:
        """One pass over a canvas; the arguments are those of :class:`RefinementNetwork`.

        Raises:
            DataError: The canvas is longer than ``max_seq_len``, or its length has no layout
                of relations.
            ConfigError: A carry or a memory is given to a model built without.
        """
        length = input_ids.shape[1]
        if length > self.config.max_seq_len:
            raise DataError(
                f"this canvas has {length} tokens and the model takes at most "
                f"max_seq_len={self.config.max_seq_len}. Shorten it, or train a model with "
                "a larger max_seq_len."
            )
        if carry is not None and not self.config.carry:
            raise ConfigError("this model has no carry; build it with carry=True, or give none.")
        if memory is not None and self.memory is None:
            raise ConfigError("this model has no memory; build it with memory=True, or give none.")
        attended = None if attention_mask is None else attention_mask.bool()
        x = self._embed(input_ids, attended, time, prev_probs)
        states = self._run_blocks(x, carry, attended, memory)
        return BackboneOutput(states, self.to_logits(states))

    def _run_blocks(
        self, x: Tensor, state: Tensor | None, attended: Tensor | None, memory: Retrieved | None
    ) -> Tensor:
        """``inner_steps`` runs of the stack: ``state ← norm(blocks(inject(x) + state))``."""
        length, width = x.shape[1:]
        turns = members = None
        if self.config.rotary and self.config.positions:
            turns = rotary_turns(length, width, self.config.num_heads, x.device)
        if self.layouts is not None:
            members = self.layouts.members(length, attended, x)
        remembered = None if memory is None else self._embed_memory(memory)
        if self.inject is not None:
            x = self.inject(x)
        for _ in range(self.config.inner_steps):
            h = x if state is None else x + state
            for number, block in enumerate(self.blocks):
                if self.config.gradient_checkpointing and self.training:
                    h = checkpoint(block, h, attended, turns, members, use_reentrant=False)
                else:
                    h = block(h, attended, turns, members)
                # After the first block: a blank must know its question before it can look it up.
                if number == 0 and remembered is not None and self.memory is not None:
                    h = self.memory(h, *remembered)
            state = self.norm(h)
        assert state is not None
        return state

    def _embed_memory(self, memory: Retrieved) -> tuple[Tensor, Tensor]:
        """``(B, k·L', D)`` vectors of the hits and ``(B, k·L')``, which of them count."""
        assert self.memory_embedding is not None
        length = memory.ids.shape[-1]
        where = (
            self.positions(length)
            if self.positions is not None
            else self.tokens.weight.new_zeros(())
        )
        x = self.memory_embedding(
            self.tokens(memory.ids), where, memory.similarity, memory.attended
        )
        return x, memory.attended.flatten(1)

    def _embed(
        self,
        input_ids: Tensor,
        attended: Tensor | None,
        time: Tensor | None,
        prev_probs: Tensor | None,
    ) -> Tensor:
        """``(B, L, D)``: the sum of token, time, position and beliefs."""
        blank = input_ids == self.mask_token_id
        if time is None:
            time = canvas_time(blank, attended)
        x = self.tokens(input_ids) + self.time(time)
        if self.positions is not None:
            x = x + self.positions(input_ids.shape[1])
        if prev_probs is not None and self.self_condition is not None:
            belief = self.self_condition(self.tokens.expected(prev_probs))
            x = x + belief * blank[..., None]
        return self.dropout(x)


def canvas_time(blank: Tensor, attended: Tensor | None) -> Tensor:
    """``(B,)`` share of attended positions that are written: ``t / K`` on the schedule."""
    if attended is None:
        return 1.0 - blank.sum(dim=1) / blank.shape[1]
    real = attended.sum(dim=1).clamp(min=1)
    return 1.0 - (blank & attended).sum(dim=1) / real
