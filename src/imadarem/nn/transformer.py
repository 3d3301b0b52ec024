"""The project's own backbone: one stack of blocks, shared by all refinement steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imadarem import checks
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError
from imadarem.nn.block import Block
from imadarem.nn.conditions import ConditionEmbedding
from imadarem.nn.memory import GatedCrossAttention, MemoryEmbedding, Retrieved
from imadarem.nn.relations import Layouts

#: Longest wavelength of the sinusoids, in tokens over 2π (arXiv:1706.03762).
MAX_WAVELENGTH = 10_000.0
#: The same for the rotary angles; canvases are short, so the slow end starts sooner.
ROTARY_WAVELENGTH = 1_000.0


class BackboneOutput(NamedTuple):
    """What a backbone returns: the input of all heads, and the token logits.

    Attributes:
        states: ``(B, L, D)``.
        logits: ``(B, L, V)``, unnormalised log-probabilities of the token at each position.
    """

    states: Tensor
    logits: Tensor


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
        self.conditions = (
            None if config.conditions is None else ConditionEmbedding(config.conditions, width)
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        time: Tensor | None = None,
        prev_probs: Tensor | None = None,
        carry: Tensor | None = None,
        memory: Retrieved | None = None,
        condition: Tensor | None = None,
    ) -> BackboneOutput:
        """One pass over a canvas; the arguments are those of :class:`RefinementNetwork`."""
        length = input_ids.shape[1]
        checks.canvas_length(length, self.config.max_seq_len)
        if carry is not None and not self.config.carry:
            raise ConfigError("this model has no carry; build it with carry=True, or give none.")
        if memory is not None and self.memory is None:
            raise ConfigError("this model has no memory; build it with memory=True, or give none.")
        attended = None if attention_mask is None else attention_mask.bool()
        x = self._embed(input_ids, attended, time, prev_probs)
        if condition is not None and self.conditions is not None:
            x = x + self.conditions(condition, length)
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


class TokenEmbedding(nn.Embedding):
    """Learned input embeddings, ``(B, L)`` ids → ``(B, L, D)``."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, hidden_size)
        nn.init.normal_(self.weight, std=0.02)

    def expected(self, probs: Tensor) -> Tensor:
        """Mean embedding under ``probs``: ``(B, L, V)`` → ``(B, L, D)``."""
        return probs.to(self.weight.dtype) @ self.weight


class AdaptivePositionalEmbedding(nn.Module):
    """Sinusoidal positions, each scaled by its own learned decay.

    ``pe'(i) = exp(-decay_i) · pe(i)``, ``decay`` starting at 0. The sinusoids are
    computed in every pass instead of kept in a buffer: a buffer that no checkpoint
    holds comes back uninitialised from loaders that build modules without memory. What is
    computed from the sizes alone is kept by :func:`_table`.
    """

    def __init__(self, max_seq_len: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.decay = nn.Parameter(torch.zeros(max_seq_len))

    def forward(self, length: int) -> Tensor:
        """``(L, D)`` positions for a canvas of ``length`` tokens."""
        table = _table(_sinusoids, length, self.hidden_size, self.decay.device)
        return torch.exp(-self.decay[:length, None]) * table.to(self.decay.dtype)


class TimeEmbedding(nn.Module):
    """A scalar time in [0, 1] per row → a vector, by one layer: ``(B,)`` → ``(B, 1, D)``."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(1, hidden_size)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)

    def forward(self, time: Tensor) -> Tensor:
        # No matrix product: with one row it would round otherwise than with several.
        scale, shift = self.project.weight[:, 0], self.project.bias
        return time[:, None, None].to(scale.dtype) * scale + shift


def rotary_turns(length: int, width: int, heads: int, device: torch.device) -> Tensor:
    """The rotary embedding as complex numbers ``e^(i · angle)`` (arXiv:2104.09864).

    Args:
        length: ``L`` positions.
        width: ``D`` channels of all heads together.
        heads: Every head has the same angles.

    Returns:
        ``(L, D)``: one number for each pair of channels of the queries, then of the keys.
    """
    return _table(_turns, length, (width, heads), device)


def _turns(length: int, sizes: tuple[int, int], device: torch.device) -> Tensor:
    width, heads = sizes
    angles = _angles(length, width // heads // 2, ROTARY_WAVELENGTH, device)
    return torch.polar(torch.ones_like(angles), angles).repeat(1, 2 * heads)


def _sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """``(L, D)`` sines and cosines at the scale of the token embeddings, 0.02."""
    angles = _angles(length, width // 2, MAX_WAVELENGTH, device)
    return 0.02 * torch.cat([angles.sin(), angles.cos()], dim=-1)


def _table(build: Callable[..., Tensor], length: int, sizes: Any, device: torch.device) -> Tensor:
    """What ``build`` makes of these sizes, made once; nothing may be written to it."""
    if torch.compiler.is_compiling():
        return build(length, sizes, device)
    return _kept_table(build, length, sizes, device, torch.is_inference_mode_enabled())


@lru_cache(maxsize=128)
def _kept_table(
    build: Callable[..., Tensor], length: int, sizes: Any, device: torch.device, inference: bool
) -> Tensor:
    # A tensor made in inference mode has no place in a graph: each mode has its own.
    with torch.no_grad():
        return build(length, sizes, device)


def _angles(length: int, count: int, wavelength: float, device: torch.device) -> Tensor:
    """``(L, count)`` angles ``i / wavelength^(j / count)``."""
    exponents = torch.arange(count, device=device) / count
    frequencies = torch.exp(-math.log(wavelength) * exponents)
    return torch.arange(length, device=device)[:, None] * frequencies
