"""The project's own backbone: one stack of blocks, shared by all refinement steps.

A block: neighbours, relations, attention over the canvas, feed-forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from imadarem import checks
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError
from imadarem.nn.conditions import ConditionEmbedding
from imadarem.nn.memory import GatedCrossAttention, MemoryEmbedding, Retrieved
from imadarem.nn.relations import Layouts, RelationPooling

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
        remembered = None
        if memory is not None and self.memory_embedding is not None:
            remembered = self.memory_embedding(memory, self.tokens, self.positions)
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
            # The share of attended positions that are written: t / K on the schedule.
            seen = torch.ones_like(blank) if attended is None else attended
            time = 1.0 - (blank & seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        x = self.tokens(input_ids) + self.time(time)
        if self.positions is not None:
            x = x + self.positions(input_ids.shape[1])
        if prev_probs is not None and self.self_condition is not None:
            belief = self.self_condition(self.tokens.expected(prev_probs))
            x = x + belief * blank[..., None]
        return self.dropout(x)


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

    ``pe'(i) = exp(-decay_i) · pe(i)``, ``decay`` starting at 0. The sinusoids are in no buffer: one
    that no checkpoint holds comes back uninitialised from loaders that build without memory.
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

    ``(L, D)`` for ``D`` channels of all heads together, each with the same angles: one number
    for each pair of channels of the queries, then of the keys.
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


class SelfAttention(nn.Module):
    """Multi-head attention of every position to every attended position.

    The rows of ``qkv`` are the queries, the keys and the values of all heads. Two neighbouring
    channels of a query or a key form a pair that the rotary embedding turns.
    """

    def __init__(self, config: ImplicitRefinementConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, attended: Tensor | None, turns: Tensor | None) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``.

        Args:
            x: Normalised states.
            attended: ``(B, L)`` bool, or None for all.
            turns: ``(L, D)`` complex numbers, see :func:`rotary_turns`; None: no positions.
        """
        batch, length, width = x.shape
        qk, v = self.qkv(x).split([2 * width, width], dim=-1)
        if turns is not None:
            qk = rotate_pairs(qk, turns)
        q, k = qk.view(batch, length, 2, self.num_heads, -1).transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v.view(batch, length, self.num_heads, -1).transpose(1, 2),
            attn_mask=None if attended is None else attended[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Pre-norm residual block; the identity at initialisation."""

    def __init__(self, config: ImplicitRefinementConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.neighbours = (
            NeighbourConvolution(width, config.conv_kernel_size)
            if config.conv_kernel_size
            else None
        )
        self.relations_norm, self.relations = None, None
        if config.relations is not None:
            self.relations_norm = nn.LayerNorm(width)
            self.relations = RelationPooling(width, len(config.relations[0]))
        self.attention_norm = nn.LayerNorm(width) if config.attention else None
        self.attention = SelfAttention(config) if config.attention else None
        self.feed_forward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.feed_forward_size)
        self.contract = nn.Linear(config.feed_forward_size, width)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        attended: Tensor | None,
        turns: Tensor | None,
        members: Tensor | None = None,
    ) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``; ``members`` as :class:`RelationPooling` takes them."""
        if self.neighbours is not None:
            x = self.neighbours(x, attended)
        if self.relations is not None and self.relations_norm is not None and members is not None:
            x = x + self.dropout(self.relations(self.relations_norm(x), members))
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.dropout(self.attention(self.attention_norm(x), attended, turns))
        hidden = F.gelu(self.expand(self.feed_forward_norm(x)))
        return x + self.dropout(self.contract(hidden))


def rotate_pairs(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864): turn pairs of channels by their position's angle.

    A pair of neighbouring channels is a complex number, and a turn one complex product. Without a
    gradient ``x`` is overwritten.

    Args:
        x: ``(B, L, 2D)``, queries and keys.
        turns: ``(L, D)`` complex numbers of length 1.
    """
    # Half precision has no complex numbers, and angles are better in single precision anyway.
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    pairs = torch.view_as_complex(wide.view(*x.shape[:-1], -1, 2))
    turned = pairs * turns if torch.is_grad_enabled() else pairs.mul_(turns)
    return torch.view_as_real(turned).view(x.shape).to(x.dtype)


class NeighbourConvolution(nn.Module):
    """A residual depthwise convolution, the identity at initialisation.

    ``y_i = x_i + Σ_j w_j · x_{i+j}``, ``j`` from ``-k`` to ``k``. Padding contributes zeros.
    Shifted sums beat ``conv1d`` at these sizes on a CPU. Their gradient is written out: autograd
    would give each shifted slice one of the whole size, mostly zeros, and add them up, which is a
    tenth of a small model's training step.

    Args:
        hidden_size: Channels ``D``.
        taps: ``2k + 1``, odd.
    """

    def __init__(self, hidden_size: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(taps, hidden_size))

    def forward(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """``(B, L, D)`` and the attended positions ``(B, L)`` bool → ``(B, L, D)``."""
        inputs = x if attended is None else x * attended[..., None]
        if not torch.is_grad_enabled():
            return _add_neighbours(x, inputs, self.weight)
        y: Tensor = _AddNeighbours.apply(x, inputs, self.weight)
        return y


class _AddNeighbours(torch.autograd.Function):
    """``x + Σ_j w_j · heard_{i+j}``; all ``(B, L, D)``, the weight ``(taps, D)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _add_neighbours(x, inputs, weight)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        to_inputs = to_weight = None
        if ctx.needs_input_grad[1]:
            # A neighbour on the left has this one on its right: the same sum, the taps reversed.
            to_inputs = _add_neighbours(torch.zeros_like(grad), grad, weight.flip(0))
            to_inputs = to_inputs.to(inputs.dtype)
        if ctx.needs_input_grad[2]:
            taps, length = len(weight), inputs.shape[1]
            padded = F.pad(inputs, (0, 0, taps // 2, taps // 2))
            # Contiguous: a sum over strided memory takes thirty times as long.
            product = torch.empty_like(grad, memory_format=torch.contiguous_format)
            windows = (padded[:, j : j + length] for j in range(taps))
            sums = [torch.mul(x, grad, out=product).sum(dim=(0, 1)) for x in windows]
            to_weight = torch.stack(sums).to(weight.dtype)
        return grad, to_inputs, to_weight


def _add_neighbours(x: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    reach, length = len(weight) // 2, x.shape[1]
    y = torch.addcmul(x, inputs, weight[reach])
    for j in range(1, min(reach, length - 1) + 1):
        y[:, j:].addcmul_(inputs[:, :-j], weight[reach - j])
        y[:, :-j].addcmul_(inputs[:, j:], weight[reach + j])
    return y
