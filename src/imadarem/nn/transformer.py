"""The refiner's network: one stack of blocks, shared by all refinement steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, DataError
from imadarem.nn.blocks import Block
from imadarem.nn.embeddings import (
    AdaptivePositionalEmbedding,
    TimeEmbedding,
    TokenEmbedding,
    rotary_angles,
)
from imadarem.nn.heads import HaltingHead, RefineGate
from imadarem.nn.joint import JointHead, JointLogits
from imadarem.nn.memory import GatedCrossAttention, MemoryEmbedding, Retrieved
from imadarem.nn.packed import Packed
from imadarem.nn.relations import Layouts
from imadarem.nn.walk import PackedJoint

if TYPE_CHECKING:
    from imadarem.nn.sparse import Asked, Kept

__all__ = ["RefinementOutput", "RefinementTransformer"]


class RefinementOutput(NamedTuple):
    """What one forward pass returns.

    Attributes:
        logits: ``(B, L, V)``, unnormalised log-probabilities of the token at each position.
        gate_logits: ``(B, L)``, logit that the token now standing there should be predicted
            again, calibrated by the config's ``gate_temperature`` and ``gate_offset``.
        halt_logits: ``(B,)``, logit that the likeliest tokens of this pass are an entirely
            right answer; None without ``config.halting``.
        carry: ``(B, L, D)``, the state to hand to the next step; None without
            ``config.carry``.
        joint: What draws the blanks of this pass jointly; ``logits`` are then those of each
            blank by itself. None without ``config.joint_size``.
        joint_logits: ``(B, L, V)``, those of each token given the ``targets`` left of it;
            None unless ``targets`` were given.
        kept: What a later pass may take from this one; None unless it was ``asked`` for.
    """

    logits: Tensor
    gate_logits: Tensor
    halt_logits: Tensor | None = None
    carry: Tensor | None = None
    joint: JointLogits | PackedJoint | None = None
    joint_logits: Tensor | None = None
    kept: Kept | None = None

    def spread(self, which: Tensor) -> RefinementOutput:
        """``(B,)`` numbers of rows → the output of ``B`` rows; one row for all is a view."""

        def every(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            if len(tensor) == 1:
                return tensor.expand(len(which), *tensor.shape[1:])
            return tensor[which]

        logits, gate, halt, carry, joint, told, kept = self
        found = (every(logits), every(gate), every(halt), every(carry))
        heard = None if joint is None else joint.spread(which)
        whole = None if kept is None else kept.rows(which, kept.gate.shape[1])
        return RefinementOutput._make((*found, heard, every(told), whole))


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
        self.gate = RefineGate(width, config.gate_bias_init)
        # A state has unit scale after its norm; the input must not drown beside it.
        self.inject = nn.LayerNorm(width) if config.recurrent else None
        self.halt = HaltingHead(width) if config.halting else None
        self.memory_embedding = MemoryEmbedding(width) if config.memory else None
        self.memory = GatedCrossAttention(width, config.num_heads) if config.memory else None
        self.joint = (
            JointHead(width, config.vocab_size, config.joint_size, mask_token_id)
            if config.joint_size
            else None
        )
        self.layouts = None if config.relations is None else Layouts(config.relations)

    def train(self, mode: bool = True) -> Self:
        """As in torch; a network all of which is in evaluation mode is left alone quickly."""
        parts: list[nn.Module] = [self]
        for part in parts:
            if mode or part.training:
                return super().train(mode)
            parts += [child for child in part._modules.values() if child is not None]
        return self

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        time: Tensor | None = None,
        prev_probs: Tensor | None = None,
        carry: Tensor | None = None,
        memory: Retrieved | None = None,
        targets: Tensor | None = None,
        rows: Tensor | None = None,
        packed: Packed | None = None,
        asked: Asked | None = None,
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
            carry: ``(B, L, D)``, the ``carry`` of the last step's output; None starts afresh.
            memory: Earlier canvases to look at; None, or none for a row, changes nothing.
            targets: ``(B, L)`` the data's tokens, for ``joint_logits``: each position hears
                those left of it, as they will stand there when its turn comes.
            rows: ``(R,)`` indices into the batch, to judge a canvas for several targets in one
                pass: everything returned, and ``targets``, then has ``R`` rows.
            packed: The blocks' weights laid out for sampling, by
                :func:`~imadarem.nn.packed.packed`; the pass then has no graph.
            asked: Run some positions alone, with ``packed``: see :mod:`imadarem.nn.sparse`.

        Raises:
            DataError: The canvas is longer than ``max_seq_len``, or its length has no layout
                of relations.
            ConfigError: A carry, a memory or targets are given to a model built without.
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
        if targets is not None and self.joint is None:
            raise ConfigError(
                "this model has no joint head to tell targets; build it with joint_size > 0."
            )
        attended = None if attention_mask is None else attention_mask.bool()
        if asked is not None and packed is not None:
            embed = partial(self._embed, input_ids, attended, time, prev_probs, packed)
            return asked.run(self, packed, attended, embed)
        x = self._embed(input_ids, attended, time, prev_probs, packed)
        state = self._run_blocks(x, carry, attended, memory, packed)
        logits, gate = self.to_logits(state), self.judge(state)
        joint: JointLogits | PackedJoint | None = None
        joint_logits = None
        if self.joint is not None and targets is None:
            said = _rows_of((state, logits), rows)
            if packed is None:
                joint = JointLogits.read(self.joint, *said)
            else:
                joint = packed.joint(self.joint, *said)
        elif self.joint is not None:
            joint_logits = self.joint(state, targets, rows)
        state, logits, gate = _rows_of((state, logits, gate), rows)
        if joint_logits is not None:
            joint_logits = logits + joint_logits
        if rows is not None and attended is not None:
            attended = attended[rows]
        halt = None if self.halt is None else self.halt(state, attended)
        return RefinementOutput(
            logits=logits,
            gate_logits=gate,
            halt_logits=halt,
            carry=state if self.config.carry else None,
            joint=joint,
            joint_logits=joint_logits,
        )

    def judge(self, state: Tensor) -> Tensor:
        """``(..., D)`` states → ``(...)`` calibrated logits of the gate."""
        gate: Tensor = self.gate(state)
        return gate / self.config.gate_temperature + self.config.gate_offset

    def _run_blocks(
        self,
        x: Tensor,
        state: Tensor | None,
        attended: Tensor | None,
        memory: Retrieved | None,
        packed: Packed | None,
    ) -> Tensor:
        """``inner_steps`` runs of the stack: ``state ← norm(blocks(inject(x) + state))``."""
        length = x.shape[1]
        rotation = members = None
        if self.config.rotary and self.config.positions and packed is None:
            head_size = self.config.hidden_size // self.config.num_heads
            rotation = rotary_angles(length, head_size, x.device)
        if self.layouts is not None:
            members = self.layouts.members(length, attended, x)
        remembered = None if memory is None else self._embed_memory(memory)
        if self.inject is not None:
            x = self.inject(x)
        for _ in range(self.config.inner_steps):
            h = x if state is None else x + state
            for number, block in enumerate(self.blocks):
                if packed is not None:
                    h = packed.block(number, h, attended)
                elif self.config.gradient_checkpointing and self.training:
                    h = checkpoint(block, h, attended, rotation, members, use_reentrant=False)
                else:
                    h = block(h, attended, rotation, members)
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
        packed: Packed | None,
        at: Tensor | None = None,
    ) -> Tensor:
        """``(B, L, D)``; of the positions ``at``, ``(N,)`` numbers among all rows', ``(N, D)``."""
        blank, length = input_ids == self.mask_token_id, input_ids.shape[1]
        if time is None:
            time = canvas_time(blank, attended)
        moment = self.time(time)
        if at is not None:
            rows, columns = at // length, at % length
            input_ids, blank = input_ids[rows, columns], blank[rows, columns]
            prev_probs = None if prev_probs is None else prev_probs[rows, columns]
            moment = moment[rows, 0]
        x = self.tokens(input_ids) + moment
        if self.positions is not None:
            where = self.positions(length) if packed is None else packed.positions(length)
            x = x + (where if at is None else where[columns])
        if prev_probs is not None and self.self_condition is not None:
            belief = self.self_condition(self.tokens.expected(prev_probs))
            x = x + belief * blank[..., None]
        return self.dropout(x)


def _rows_of(found: tuple[Tensor, ...], rows: Tensor | None) -> tuple[Tensor, ...]:
    return found if rows is None else tuple(tensor[rows] for tensor in found)


def canvas_time(blank: Tensor, attended: Tensor | None) -> Tensor:
    """``(B,)`` share of attended positions that are written: ``t / K`` on the schedule."""
    if attended is None:
        return 1.0 - blank.sum(dim=1) / blank.shape[1]
    real = attended.sum(dim=1).clamp(min=1)
    return 1.0 - (blank & attended).sum(dim=1) / real
