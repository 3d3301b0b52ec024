"""Passes over some positions of a canvas, against what earlier passes kept of the others.

A token that nobody changed hardly changes its keys and values. A sparse pass runs the positions
that it is asked for through the network, and takes from the last pass that ran them what the
convolutions, the attention and the heads need of all others. Asked for every position it is the
whole pass, up to rounding; otherwise it is an approximation, whose price
``docs/speed.md`` gives. Keys and values of masked models move slowly from pass to pass: dKV-Cache
(arXiv:2505.15781), Fast-dLLM (arXiv:2505.22618).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from imadarem.errors import ConfigError
from imadarem.nn.gradients import as_pairs
from imadarem.nn.joint import LEAST_ROWS
from imadarem.nn.packed import Packed, packed
from imadarem.nn.products import Products, normed
from imadarem.nn.walk import PackedJoint, Parts

if TYPE_CHECKING:
    from imadarem.nn.transformer import RefinementOutput, RefinementTransformer

__all__ = ["Asked", "Kept", "SparsePasses", "sparse_passes"]

#: Queries of a row are filled up to a multiple of it: attention takes 32 at a time, and rounds the
#: last of them otherwise where they are one or two.
QUERIES = 8


class SparsePasses:
    """A network whose passes may leave positions out; called as the network is.

    Args:
        passes: Runs the blocks.
    """

    #: No row's numbers depend on another row of the batch.
    rows_alike = True

    def __init__(self, passes: Packed) -> None:
        self._passes = passes
        self.config = passes.config

    @torch.no_grad()
    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        prev_probs: Tensor | None = None,
        kept: Kept | None = None,
        asked: Tensor | None = None,
    ) -> RefinementOutput:
        """One pass over the positions ``asked`` for.

        Args:
            input_ids: ``(B, L)`` token ids, blanks as the mask id.
            attention_mask: ``(B, L)``, nonzero where a token is real; None means all are.
            prev_probs: ``(B, L, V)``, as the network takes them.
            kept: Of the pass before, for the same rows and width; it is written to. None runs
                every position.
            asked: ``(B, L)`` bool, positions to run: at least those whose token is another than
                in the pass before. None runs all.

        Returns:
            Of every position, as last computed; ``kept`` is for the next pass.
        """
        attended = None if attention_mask is None else attention_mask.bool()
        where = torch.ones_like(input_ids, dtype=torch.bool)
        if kept is not None and asked is not None:
            where = asked
        where = where if attended is None else where & attended
        output: RefinementOutput = self._passes.network(
            input_ids,
            attention_mask,
            prev_probs=prev_probs,
            packed=self._passes,
            asked=Asked(where, kept),
        )
        return output


def sparse_passes(network: Callable[..., RefinementOutput]) -> SparsePasses:
    """The network, ready for passes that leave positions out.

    Raises:
        ConfigError: It cannot: the reason is told.
    """
    if isinstance(network, SparsePasses):
        return network
    passes = packed(network)
    if not isinstance(passes, Packed):
        raise ConfigError(
            "sparse passes run on the CPU in float32, by the torch back end, on a network as this "
            "package builds it (without relations). Leave sparse out, or load the model so."
        )
    config = passes.config
    parts = {
        "carry": config.carry,
        "halting": config.halting,
        "memory": config.memory,
        "inner_steps": config.inner_steps > 1,
        "recurrent": config.recurrent,
        "a joint head that was changed": config.joint_size > 0 and passes.joint_head is None,
    }
    unfit = [name for name, there in parts.items() if there]
    if unfit:
        raise ConfigError(
            f"this network reads every position in each pass ({', '.join(unfit)}), which sparse "
            "passes leave out. Leave sparse out."
        )
    return SparsePasses(passes)


@dataclass(frozen=True)
class Kept:
    """What passes computed, position by position, as last they did.

    Attributes:
        heard: For each block ``(B · L + 1, D)``, what its convolution reads; the last row is
            zeros. None where it has none.
        told: For each block ``(B, L, 2D)``, keys and values; None where it has no attention.
        logits: ``(B, L, V)``.
        gate: ``(B, L)``.
        said: ``(L, B, 2H)`` and ``(L, B, H)``, what the states say to a joint head.
    """

    heard: list[Tensor | None]
    told: list[Tensor | None]
    logits: Tensor
    gate: Tensor
    said: Parts | None

    @classmethod
    def empty(cls, passes: Packed, batch: int, length: int) -> Kept:
        """Zeros, which the first pass writes over."""
        width, vocab = passes.config.hidden_size, passes.config.vocab_size
        head = passes.joint_head
        return cls(
            [
                None if block.taps is None else torch.zeros(batch * length + 1, width)
                for block in passes.blocks
            ],
            [
                torch.zeros(batch, length, 2 * width) if block.products.attends else None
                for block in passes.blocks
            ],
            torch.zeros(batch, length, vocab),
            torch.zeros(batch, length),
            None if head is None else Parts(*(torch.zeros(length, batch, n) for n in head.sizes)),
        )

    def rows(self, keep: Tensor, width: int) -> Kept:
        """The rows ``keep`` ``(B,)``, numbers, cropped to ``width`` positions."""
        batch, length = self.gate.shape
        if len(keep) == batch and width == length and bool((keep.diff() == 1).all()):
            return self

        def heard(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            channels = tensor.shape[1]
            whole = tensor[:-1].view(batch, length, channels)[:, :width]
            found = whole.index_select(0, keep).view(len(keep) * width, channels)
            return F.pad(found, (0, 0, 0, 1))

        return Kept(
            [heard(tensor) for tensor in self.heard],
            [None if t is None else t[:, :width].index_select(0, keep) for t in self.told],
            self.logits[keep, :width],
            self.gate[keep, :width],
            None
            if self.said is None
            else Parts(*(t[:width].index_select(1, keep) for t in self.said)),
        )


@dataclass(frozen=True)
class Asked:
    """What a sparse pass is to do.

    Attributes:
        where: ``(B, L)`` bool, attended positions to run.
        kept: Of the pass before; None where there was none.
    """

    where: Tensor
    kept: Kept | None

    def run(
        self,
        network: RefinementTransformer,
        passes: Packed,
        attended: Tensor | None,
        embed: Callable[[Tensor], Tensor],
    ) -> RefinementOutput:
        """The pass, by the network's heads and the blocks of ``passes``.

        Args:
            network: Has the heads.
            passes: Has the blocks.
            attended: ``(B, L)`` bool; None where every position is.
            embed: ``(N,)`` numbers of positions among all rows' → ``(N, D)``.
        """
        from imadarem.nn.transformer import RefinementOutput

        batch, length = self.where.shape
        kept = self.kept or Kept.empty(passes, batch, length)
        places = Places.of(self.where, attended, passes.config.conv_kernel_size // 2)
        head = passes.joint_head
        if len(places.flat):
            state = _state(network, passes, kept, places, embed(places.flat))
            # Records of earlier passes read what they were given: these are copies.
            logits, gate = kept.logits.clone(), kept.gate.clone()
            logits.flatten(0, 1).index_copy_(0, places.flat, network.to_logits(state))
            gate.view(-1).index_copy_(0, places.flat, network.judge(state))
            said = kept.said
            if said is not None and head is not None:
                at = places.columns * batch + places.rows
                said = Parts(*(told.clone() for told in said))
                for told, here in zip(said, head.says(state), strict=True):
                    told.flatten(0, 1).index_copy_(0, at, here)
            kept = replace(kept, logits=logits, gate=gate, said=said)
        joint = None
        if head is not None and kept.said is not None:
            joint = PackedJoint(head, kept.logits, kept.said, None)
        return RefinementOutput(kept.logits, kept.gate, joint=joint, kept=kept)


@dataclass(frozen=True)
class Places:
    """``N`` positions of a batch, and what lies around them.

    Attributes:
        flat: ``(N,)`` numbers of the positions among all ``B · L``; where there are few, some
            twice.
        rows: ``(N,)``.
        columns: ``(N,)``.
        neighbours: By offset: ``(N,)`` numbers of the positions so far to the right, ``B · L``
            where there is none.
        attended: ``(B, L)`` bool; None where every position is.
        slots: ``(N,)`` where each stands in ``(B, queries)``; None where that is their order.
        queries: Places of a row: as many as it has positions at most, and those that fill up.
        length: ``L``.
    """

    flat: Tensor
    rows: Tensor
    columns: Tensor
    neighbours: dict[int, Tensor]
    attended: Tensor | None
    slots: Tensor | None
    queries: int
    length: int

    @classmethod
    def of(cls, where: Tensor, attended: Tensor | None, reach: int) -> Places:
        """Those of a mask ``(B, L)``, with neighbours up to ``reach`` positions away."""
        batch, length = where.shape
        flat = where.view(-1).nonzero().squeeze(1)
        counts = where.sum(dim=1)
        least, most = (int(n) for n in counts.aminmax()) if batch else (0, 0)
        most = -(-most // QUERIES) * QUERIES
        missing = LEAST_ROWS - len(flat)
        slots = None
        if least != most or missing > 0:
            ranks = where.cumsum(dim=1) - 1 + most * torch.arange(batch)[:, None]
            slots = ranks.view(-1)[flat]
        if slots is not None and 0 < len(flat) < LEAST_ROWS:
            flat, slots = (torch.cat([t, t[:1].expand(missing)]) for t in (flat, slots))
        columns = flat % length
        nowhere = batch * length
        neighbours = {}
        for offset in range(-reach, reach + 1):
            if offset:
                there, column = flat + offset, columns + offset
                inside = (column >= 0) & (column < length)
                if attended is not None:
                    inside &= attended.view(-1)[there.clamp(0, nowhere - 1)]
                neighbours[offset] = there.where(inside, nowhere)
        return cls(flat, flat // length, columns, neighbours, attended, slots, most, length)


def _state(
    network: RefinementTransformer, passes: Packed, kept: Kept, places: Places, x: Tensor
) -> Tensor:
    """``(N, D)`` → ``(N, D)``: through the blocks; what is kept of them is brought up to date."""
    turns = passes.turns(places.length, x.device).index_select(0, places.columns)
    for block, heard, told in zip(passes.blocks, kept.heard, kept.told, strict=True):
        if block.taps is not None and heard is not None:
            x = _neighbours(x, heard, block.taps, places)
        if told is not None:
            here = turns if block.turned else None
            mixed = _attention(block.products, x, told, places, block.heads, here)
            block.products.add_mixed(x, mixed)
        block.products.add_feed_forward(x)
    return normed(network.norm, x)


def _neighbours(x: Tensor, heard: Tensor, taps: Tensor, places: Places) -> Tensor:
    """``(N, D)`` → ``(N, D)``: ``x_i + Σ_j w_j · x_(i+j)``; what is heard is brought up to date."""
    heard.index_copy_(0, places.flat, x)
    reach = len(taps) // 2
    y = x * taps[reach]
    for offset, where in places.neighbours.items():
        y.addcmul_(heard.index_select(0, where), taps[reach + offset])
    return y


def _attention(
    products: Products,
    x: Tensor,
    told: Tensor,
    places: Places,
    heads: int,
    turns: Tensor | None,
) -> Tensor:
    """``(N, D)`` → ``(N, D)``; keys and values ``(B, L, 2D)`` are brought up to date."""
    width = x.shape[1]
    batch, length, _ = told.shape
    qkv = products.qkv(x)
    if turns is not None:
        as_pairs(qkv).mul_(turns)
    told.view(batch * length, -1).index_copy_(0, places.flat, qkv[:, width:])
    queries = qkv[:, :width]
    if places.slots is not None:
        spread = x.new_zeros(batch * places.queries, width)
        queries = spread.index_copy_(0, places.slots, queries)
    q = queries.view(batch, places.queries, heads, -1).transpose(1, 2)
    keys, values = told.view(batch, length, 2, heads, -1).permute(2, 0, 3, 1, 4)
    mask = None if places.attended is None else places.attended[:, None, None, :]
    mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    mixed = mixed.transpose(1, 2).reshape(batch * places.queries, width)
    return mixed if places.slots is None else mixed.index_select(0, places.slots)
