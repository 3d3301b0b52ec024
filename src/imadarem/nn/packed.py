"""A network's weights laid out for many passes in a row: what sampling runs on a CPU.

The same sums as those of :class:`~imadarem.nn.blocks.Block`. The matrix that contracts is
transposed once (512 → 128 columns for 36 rows: 0.04 ms, not 0.14), the channels that the
rotation turns stand beside each other, so that a turn is one complex product, the residual sum
is part of the convolution, what nobody reads again is overwritten, and a joint head is read by
:mod:`imadarem.nn.walk`. Results differ from the
network's own in the last bits of a float, and a row is rounded the same in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.nn.blocks import Block, NeighbourConvolution, SelfAttention
from imadarem.nn.embeddings import rotary_angles
from imadarem.nn.gradients import add_neighbours, as_pairs
from imadarem.nn.joint import JointHead, JointLogits
from imadarem.nn.products import FloatProducts, Products, Room
from imadarem.nn.walk import PackedHead, PackedJoint

if TYPE_CHECKING:
    from imadarem.nn.transformer import RefinementOutput, RefinementTransformer

__all__ = ["Packed", "PackedBlock", "packed"]


class Packed:
    """A network whose passes run on a copy of its weights, laid out for the CPU.

    Called as the network is; a change of its weights is not seen. See :func:`packed`.

    Args:
        network: In evaluation mode.
        products: The matrices of each block; None takes :class:`FloatProducts` of them.

    Attributes:
        blocks: The network's, laid out.
        joint_head: Its joint head, laid out; None without one, or with one that was changed.
    """

    #: No row's numbers depend on another row of the batch.
    rows_alike = True

    def __init__(
        self, network: RefinementTransformer, products: Sequence[Products] | None = None
    ) -> None:
        config = network.config
        self.network = network
        self.config = config
        turned = config.rotary and config.positions
        blocks = [block for block in network.blocks if isinstance(block, Block)]
        room = Room()
        products = products or [FloatProducts.of(block, turned, room) for block in blocks]
        self.blocks = [
            PackedBlock.of(block, turned, matrices)
            for block, matrices in zip(blocks, products, strict=True)
        ]
        self.joint_head = PackedHead.of(network.joint)
        self._turns: dict[int, Tensor] = {}
        self._positions: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, *arguments: Any, **named: Any) -> RefinementOutput:
        """One pass, as the network takes and gives it; without a graph."""
        output: RefinementOutput = self.network(*arguments, **named, packed=self)
        return output

    def joint(self, head: JointHead, state: Tensor, logits: Tensor) -> PackedJoint | JointLogits:
        """What reads the pass from left to right."""
        if self.joint_head is None:
            return JointLogits.read(head, state, logits)
        return self.joint_head.read(state, logits)

    def block(self, number: int, x: Tensor, attended: Tensor | None) -> Tensor:
        """One block: ``(B, L, D)`` → ``(B, L, D)``; ``x`` stays as it is."""
        return self.blocks[number](x, attended, self.turns(x.shape[1], x.device))

    def positions(self, length: int) -> Tensor:
        """``(L, D)``, those that the network adds to its tokens."""
        if length not in self._positions:
            assert self.network.positions is not None
            self._positions[length] = self.network.positions(length).detach()
        return self._positions[length]

    def turns(self, length: int, device: torch.device) -> Tensor:
        """``(L, D)`` complex numbers, by which queries and keys are rotated."""
        if length not in self._turns:
            heads = self.config.num_heads
            cos, sin = rotary_angles(length, self.config.hidden_size // heads, device)
            # Written out for every head: one even product then runs over a whole row.
            self._turns[length] = torch.complex(cos, sin).repeat(1, 2 * heads)
        return self._turns[length]


def packed(network: Callable[..., RefinementOutput]) -> Callable[..., RefinementOutput]:
    """The network by :class:`Packed` where that is the same, else the network itself.

    It is for float32 on a CPU in evaluation mode without a graph, and for the modules of this
    package alone: where a module was replaced, or hooked from outside, it is called as it is.
    """
    from imadarem.nn.transformer import RefinementTransformer

    if not isinstance(network, RefinementTransformer) or network.training:
        return network
    weight, config = network.tokens.weight, network.config
    plain = weight.dtype == torch.float32 and weight.device.type == "cpu"
    ours = type(network)._run_blocks is RefinementTransformer._run_blocks
    ours = ours and type(network).forward is RefinementTransformer.forward
    if not (plain and ours) or torch.is_autocast_enabled("cpu") or config.relations is not None:
        return network
    if not all(_is_ours(block) for block in network.blocks):
        return network
    return Packed(network)


@dataclass(frozen=True)
class PackedBlock:
    """The weights of one block, see :class:`~imadarem.nn.blocks.Block`.

    Attributes:
        taps: ``(k, D)`` of the convolution, 1 added to the middle one; None without one.
        heads: Attention heads.
        turned: Whether queries and keys are rotated.
        products: The matrices.
    """

    taps: Tensor | None
    heads: int
    turned: bool
    products: Products

    @classmethod
    def of(cls, block: Block, turned: bool, products: Products) -> PackedBlock:
        taps = None
        if block.neighbours is not None:
            taps = block.neighbours.weight.detach().clone()
            taps[len(taps) // 2] += 1.0
        heads = 1 if block.attention is None else block.attention.num_heads
        return cls(taps, heads, turned, products)

    def __call__(self, x: Tensor, attended: Tensor | None, turns: Tensor) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``; turns are ``(L, D)`` complex numbers of length 1."""
        x = x.clone() if self.taps is None else self._neighbours(x, attended)
        flat = x.flatten(0, 1)
        if self.products.attends:
            qkv = self.products.qkv(flat).view(*x.shape[:2], -1)
            self.products.add_mixed(flat, self._attention(qkv, attended, turns))
        self.products.add_feed_forward(flat)
        return flat.view(x.shape)

    def _neighbours(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """``x_i + Σ_j w_j · x_(i+j)``, without a padded copy."""
        assert self.taps is not None
        middle = self.taps[len(self.taps) // 2]
        if attended is None:
            return add_neighbours(x * middle, x, self.taps)
        heard = x * attended[..., None]
        return add_neighbours(torch.addcmul(x, heard, middle - 1.0), heard, self.taps)

    def _attention(self, qkv: Tensor, attended: Tensor | None, turns: Tensor) -> Tensor:
        """``(B, L, 3D)``, overwritten → ``(B · L, D)``."""
        batch, length, _ = qkv.shape
        if self.turned:
            as_pairs(qkv).mul_(turns)
        heads = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if attended is None else attended[:, None, None, :]
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask)
        return mixed.transpose(1, 2).reshape(batch * length, -1)


def _is_ours(block: nn.Module) -> bool:
    """Whether a block is one of :mod:`imadarem.nn.blocks` with nothing hung onto it."""
    known = (Block, NeighbourConvolution, SelfAttention, nn.Linear, nn.LayerNorm, nn.Dropout)
    return all(
        type(part) in known and not part._forward_hooks and not part._forward_pre_hooks
        for part in block.modules()
    )
