"""Randomness that belongs to a row: the same seed gives the same draws in any batch.

A counter-based generator: each number is a hash of (seed, step, stream, position), so a
row's draws do not depend on its neighbours, on the order of the calls, or on the device.
The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which passes
BigCrush; it runs vectorised in wrapping 64-bit integers, on a CPU in NumPy (its calls cost less).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
MIX_A = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_B = -7723592293110705685  # 0x94D049BB133111EB
#: Turns a row's seed into that of the noise in its states.
STATES = 0x5354415445


class Stream(enum.IntEnum):
    """What a random number is for; streams never share numbers."""

    TOKEN = 0
    ENDING = 1
    ORDER = 2
    COIN = 3
    LENGTH = 4


@dataclass(frozen=True)
class RowNoise:
    """Uniform noise for a batch of rows.

    Attributes:
        seeds: ``(B,)`` int64, one seed per row.
        step: The refinement step the noise is for.
    """

    seeds: Tensor
    step: int

    def at(self, step: int) -> RowNoise:
        """The same rows' noise of another step."""
        return replace(self, step=step)

    def uniform(self, stream: Stream, length: int) -> Tensor:
        """``(B, length)`` float64 in the open interval (0, 1)."""
        salt = _wrap((self.step * len(Stream) + stream) * GOLDEN)
        if self.seeds.device.type == "cpu":
            return torch.from_numpy(_on_cpu(self.seeds.numpy(), salt, length))
        return _on_device(self.seeds, salt, length)

    def gumbel(self, stream: Stream, length: int) -> Tensor:
        """``(B, length)`` standard Gumbel noise in float64 (fp32 would lose its tail)."""
        return -torch.log(-torch.log(self.uniform(stream, length)))

    def of_states(self, shape: Sequence[int]) -> Tensor:
        """``(B, *shape)`` standard normal noise in float64; no stream shares its numbers."""
        apart = replace(self, seeds=self.seeds ^ STATES)
        uniform = apart.uniform(Stream.TOKEN, math.prod(shape))
        return torch.special.ndtri(uniform).view(-1, *shape)


def row_seeds(count: int, seed: int | Tensor, first: int = 0) -> Tensor:
    """``(count,)`` different row seeds for the rows ``first``, ``first + 1``, … of one run seed.

    Of ``(N,)`` run seeds: ``(N, count)``, each row as of one alone.
    """
    # Key the run seed first: seeds 0 and 1 must not share rows shifted by one.
    run = seed[:, None] if isinstance(seed, Tensor) else torch.tensor(_wrap(seed))
    return _mix(_mix(run + GOLDEN) + torch.arange(first + 1, first + count + 1) * GOLDEN)


def candidate_seeds(seeds: Tensor, width: int, first: int = 0, key: int = 0) -> Tensor:
    """``(N,)`` row seeds → ``(N · W,)``, a row's candidates side by side.

    Args:
        seeds: The candidate of number 0 has the row's own seed.
        width: ``W``.
        first: Number of the first candidate.
        key: Another one gives the further candidates other seeds.
    """
    if first:
        return row_seeds(width, seeds ^ key, first - 1).flatten()
    return torch.cat([seeds[:, None], row_seeds(width - 1, seeds ^ key)], dim=1).flatten()


def mix_rows(ids: Tensor) -> Tensor:
    """``(B, L)`` ids → ``(B,)`` numbers from 0 on that equal rows share, and no others."""
    number = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
    for column in ids.unbind(dim=1):
        number = _mix(number + GOLDEN + column)
    return _shift(number, 1)


def _on_device(seeds: Tensor, salt: int, length: int) -> Tensor:
    key = _mix(_mix(seeds + GOLDEN) + salt)
    positions = torch.arange(1, length + 1, device=seeds.device)
    bits = _mix(key[:, None] + positions * GOLDEN)
    # 53 bits fill a float64; the half keeps 0 out, so a logarithm is always finite.
    return (_shift(bits, 11).double() + 0.5) * 2.0**-53


def _on_cpu(seeds: Array, salt: int, length: int) -> Array:
    """The same numbers as :func:`_on_device`."""
    key = _mix_in_place(seeds.astype(np.uint64) + _unsigned(GOLDEN))
    key += _unsigned(salt)
    bits = _mix_in_place(_mix_in_place(key)[:, None] + _counts(length))
    bits >>= _SHIFTS[3]
    found = bits.astype(np.float64)
    found += 0.5
    found *= 2.0**-53
    return found


@lru_cache(maxsize=64)
def _counts(length: int) -> Array:
    """``(length,)``: 1, 2, 3, … times the golden number."""
    found = np.arange(1, length + 1, dtype=np.uint64) * _unsigned(GOLDEN)
    found.flags.writeable = False
    return found


def _mix_in_place(x: Array) -> Array:
    """:func:`_mix` of uint64."""
    first, second, third, _ = _SHIFTS
    x ^= x >> first
    x *= _MIX_A
    x ^= x >> second
    x *= _MIX_B
    x ^= x >> third
    return x


def _unsigned(value: int) -> np.uint64:
    return np.uint64(value % 2**64)


_MIX_A, _MIX_B = _unsigned(MIX_A), _unsigned(MIX_B)
_SHIFTS = tuple(np.uint64(bits) for bits in (30, 27, 31, 11))


def _wrap(value: int) -> int:
    """A whole number as the signed 64-bit one with the same low bits."""
    return (value + 2**63) % 2**64 - 2**63


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * MIX_A
    x = (x ^ _shift(x, 27)) * MIX_B
    return x ^ _shift(x, 31)
