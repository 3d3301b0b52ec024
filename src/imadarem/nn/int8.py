"""The matrix products of a block in 8 bits, by oneDNN.

An input is rounded to 256 levels whose scale is fixed beforehand, from what the network read in
some passes in float32, a weight to 255 levels of its output channel. Sums of integers are exact,
so that a row's numbers do not depend on its batch. Levels cost no operations of their own: the
affine part of a norm gives them for what is normed; values leave ``qkv`` in levels of what
attention makes of them, a mean with weights that sum to 1; ``expand`` writes levels after its GELU.

Static scales, weights by output channel: arXiv:1712.05877. Where we depart from it: a zero point is
part of a bias, so that the product knows none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imadarem.nn.blocks import Block
from imadarem.nn.gradients import side_by_side
from imadarem.nn.products import FloatProducts, normed

__all__ = ["Int8Products", "Levels", "Range", "Ranges", "Watched", "is_exact"]

#: Levels of an input, 0 to TOP, and of a weight, -MOST to MOST.
TOP, MOST = 255, 127
#: Positions up to which products of every number of them are made; above, numbers have so many
#: leading bits: a kernel is made for every number, which takes a millisecond.
FINE, BITS = 64, 5
#: Of the largest range of a channel: no channel is taken for smaller.
LEAST = 0.05


class Range:
    """The least and the largest value of every channel seen so far; 0 is always among them.

    Args:
        channels: ``K``.
    """

    def __init__(self, channels: int) -> None:
        self.low, self.high = torch.zeros(channels), torch.zeros(channels)

    def see(self, x: Tensor) -> None:
        """Values ``(N, K)``."""
        low, high = x.aminmax(dim=0)
        self.low, self.high = self.low.minimum(low), self.high.maximum(high)


@dataclass(frozen=True)
class Levels:
    """What level stands for what value: ``x ≈ scale · (level - zero)``.

    Attributes:
        scale: ``(K,)`` of one level of each channel.
        zero: The level of 0, a whole number from 0 to 255.
    """

    scale: Tensor
    zero: int

    @classmethod
    def of(cls, seen: Range, weight: Tensor | None = None) -> Levels:
        """Levels that reach from the least to the largest value.

        With the weight ``(O, K)`` that they are multiplied by, channels have scales of their own,
        such that what is hard to round is shared by both: SmoothQuant, arXiv:2211.10438, α = 1/2.
        """
        share = torch.ones(len(seen.low))
        if weight is not None:
            sizes = seen.high.maximum(-seen.low), weight.abs().amax(dim=0)
            # A channel that was hardly seen may have more to say another time.
            one, other = (size.clamp(min=max(float(size.max()) * LEAST, 1e-9)) for size in sizes)
            share = (one / other).sqrt()
        low, high = float((seen.low / share).min()), float((seen.high / share).max())
        step = max(high - low, 1e-6) / TOP
        return cls(step * share, round(-low / step))

    @property
    def offset(self) -> float:
        """Added to a value in units of a level: cutting off what lies behind the point rounds."""
        return self.zero + 0.5


@dataclass(frozen=True)
class Ranges:
    """Of the inputs of a block's four products.

    Attributes:
        attention: What ``qkv`` reads.
        mixed: What ``out`` reads.
        feed_forward: What ``expand`` reads.
        hidden: What ``contract`` reads.
    """

    attention: Range
    mixed: Range
    feed_forward: Range
    hidden: Range

    @classmethod
    def of(cls, block: Block) -> Ranges:
        """Of a block that has seen nothing."""
        inner, width = block.expand.weight.shape
        return cls(Range(width), Range(width), Range(width), Range(inner))


class Watched:
    """A block's products in float32, whose inputs are noted.

    Args:
        block: In evaluation mode.
        turned: Its queries and keys will be rotated.
    """

    def __init__(self, block: Block, turned: bool) -> None:
        self._products = FloatProducts.of(block, turned)
        self.ranges = Ranges.of(block)

    @property
    def attends(self) -> bool:
        return self._products.attends

    def qkv(self, x: Tensor) -> Tensor:
        norm = self._products.norms[0]
        assert norm is not None
        self.ranges.attention.see(normed(norm, x))
        return self._products.qkv(x)

    def add_mixed(self, x: Tensor, mixed: Tensor) -> None:
        self.ranges.mixed.see(mixed)
        self._products.add_mixed(x, mixed)

    def add_feed_forward(self, x: Tensor) -> None:
        y = normed(self._products.norms[1], x)
        self.ranges.feed_forward.see(y)
        weight, bias = self._products.expand
        self.ranges.hidden.see(torch.nn.functional.gelu(torch.addmm(bias, y, weight.t())))
        self._products.add_feed_forward(x)


class Int8Products:
    """The products of a block in 8 bits; see :class:`~imadarem.nn.products.Products`.

    ``qkv`` gives values in levels; ``add_mixed`` takes means of them.

    Args:
        block: On the CPU, in float32; its weights are copied.
        turned: Its queries and keys will be rotated.
        ranges: Of the inputs.
    """

    def __init__(self, block: Block, turned: bool, ranges: Ranges) -> None:
        self.attends = block.attention is not None
        if block.attention is not None:
            assert block.attention_norm is not None
            weight, out = block.attention.qkv.weight.detach(), block.attention.out.weight.detach()
            if turned:
                weight = side_by_side(weight, block.attention.num_heads)
            read, mixed = Levels.of(ranges.attention, weight), Levels.of(ranges.mixed, out)
            self._attention_norm = _Norm.of(block.attention_norm, read)
            self._qkv = _Product.of(weight, None, read).in_levels(mixed)
            self._out = _Product.of(out, None, mixed)
        weight, bias = block.expand.weight.detach(), block.expand.bias.detach()
        read = Levels.of(ranges.feed_forward, weight)
        self._norm = _Norm.of(block.feed_forward_norm, read)
        self._expand = _Product.of(weight, bias, read)
        self._hidden = Levels.of(ranges.hidden)
        weight, bias = block.contract.weight.detach(), block.contract.bias.detach()
        self._contract = _Product.of(weight, bias, self._hidden)

    def qkv(self, x: Tensor) -> Tensor:
        return self._qkv(_cut(self._attention_norm(x)))[: len(x)]

    def add_mixed(self, x: Tensor, mixed: Tensor) -> None:
        self._out.add(x, _cut(mixed))

    def add_feed_forward(self, x: Tensor) -> None:
        self._contract.add(x, self._expand.gelu(_cut(self._norm(x)), self._hidden))


@dataclass(frozen=True)
class _Norm:
    """A layer's norm that gives levels, not yet cut off.

    Attributes:
        shape: ``(D,)``.
        weight: ``(D,)``.
        bias: ``(D,)``.
        eps: Added to the variance.
    """

    shape: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm, levels: Levels) -> _Norm:
        weight, bias = norm.weight.detach() / levels.scale, norm.bias.detach() / levels.scale
        return cls(tuple(norm.normalized_shape), weight, bias + levels.offset, norm.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class _Product:
    """``y = W x + b`` of levels.

    Attributes:
        packed: ``W`` in 8 bits, ``(O, K)``, as oneDNN wants it.
        scales: ``(O,)`` of a weight times that of a level.
        zeros: ``(O,)`` zeros.
        bias: ``(O,)``, what the zero point adds included.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, levels: Levels) -> _Product:
        """Of a weight ``(O, K)`` and a bias ``(O,)``, for inputs of these levels."""
        weight = weight * levels.scale
        scales = weight.abs().amax(dim=1).clamp(min=1e-12) / MOST
        whole = (weight / scales[:, None]).round()
        added = -levels.zero * scales * whole.sum(dim=1)
        packed = torch.ops.onednn.qlinear_prepack(whole.to(torch.int8), None)
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        return cls(packed, scales, zeros, added if bias is None else added + bias)

    def in_levels(self, levels: Levels) -> _Product:
        """The last ``K`` of its outputs in these levels, not yet cut off."""
        rest = len(self.scales) - len(levels.scale)
        unit = torch.cat([torch.ones(rest), levels.scale])
        offset = torch.cat([torch.zeros(rest), torch.full_like(levels.scale, levels.offset)])
        return replace(self, scales=self.scales / unit, bias=self.bias / unit + offset)

    def __call__(self, levels: Tensor) -> Tensor:
        """``(N, K)`` uint8 → ``(N, O)`` float32."""
        return self._run(levels, 1.0, 0, torch.float32, "none", "")

    def gelu(self, levels: Tensor, given: Levels) -> Tensor:
        """``(N, K)`` uint8 → ``(N, O)`` uint8, levels of the GELU of what it gives."""
        return self._run(levels, float(given.scale[0]), given.zero, torch.uint8, "gelu", "none")

    def add(self, x: Tensor, levels: Tensor) -> None:
        """``(M, O)`` float32 += that of the first ``M`` of ``(N, K)`` uint8."""
        if len(x) < len(levels) or not x.is_contiguous():
            x += self(levels)[: len(x)]
            return
        # The same sums, rounded alike, and no other memory.
        torch.ops.onednn.qlinear_pointwise.binary(
            levels, 1.0, 0, self.packed, self.scales, self.zeros, x, self.bias,
            1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], "",
        )  # fmt: skip

    def _run(self, levels: Tensor, scale: float, zero: int, kind: Any, then: str, way: str) -> Any:
        return torch.ops.onednn.qlinear_pointwise.default(
            levels, 1.0, 0, self.packed, self.scales, self.zeros, self.bias,
            scale, zero, kind, then, [], way,
        )  # fmt: skip


def _cut(x: Tensor) -> Tensor:
    """``(M, K)`` levels as floats, 1/2 added, overwritten → ``(N, K)`` uint8, ``N ≥ M``.

    What is in the rows from ``M`` on means nothing.
    """
    rows, channels = x.shape
    found = torch.empty(_filled_up(rows), channels, dtype=torch.uint8)
    # NumPy's conversion: torch's takes three times as long.
    np.copyto(found.numpy()[:rows], x.clamp_(0.0, float(TOP)).numpy(), casting="unsafe")
    return found


def _filled_up(rows: int) -> int:
    """Rows of a product, so that few kernels serve all numbers of rows."""
    if rows <= FINE:
        return rows
    grain = 1 << (rows.bit_length() - BITS)
    return -(-rows // grain) * grain


def is_exact() -> bool:
    """Whether this processor's 8-bit products are: without VNNI sums of two of them saturate."""
    if not torch.backends.mkldnn.is_available():
        return False
    size = 64
    whole = torch.full((size, size), MOST, dtype=torch.int8)
    levels = torch.full((size, size), TOP, dtype=torch.uint8)
    ones, zeros = torch.ones(size), torch.zeros(size, dtype=torch.int64)
    packed = torch.ops.onednn.qlinear_prepack(whole, None)
    product = _Product(packed, ones, zeros, torch.zeros(size))
    return bool((product(levels) == size * MOST * TOP).all())
