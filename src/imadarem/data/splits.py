"""Which side of a split things fall on, by a key that all copies of a thing share."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from imadarem.errors import ConfigError, DataError


def stable_hash(key: str | bytes, seed: int = 0) -> int:
    """A whole number below 2**63 that depends on nothing but the key and the seed."""
    text = key.encode() if isinstance(key, str) else key
    digest = blake2b(text, digest_size=8, key=seed.to_bytes(16, "big", signed=True)).digest()
    return int.from_bytes(digest, "big") >> 1


def held_out(keys: Iterable[str | bytes], fraction: float, seed: int) -> set[str | bytes]:
    """The keys to hold out: a share of the distinct ones, at least one, never all.

    A key's rank is a hash, so the order in which the keys come makes no difference, and
    further keys move few of the others.

    Raises:
        ConfigError: ``fraction`` is not between 0 and 1, both exclusive.
        DataError: There are fewer than two distinct keys.
    """
    if not 0 < fraction < 1:
        raise ConfigError(
            f"valid_fraction={fraction} must lie between 0 and 1, both exclusive: 0.1 holds "
            "out a tenth."
        )
    ranked = sorted(set(keys), key=lambda key: (stable_hash(key, seed), key))
    if len(ranked) < 2:
        raise DataError(
            f"{len(ranked)} different entries cannot be split into a part to train on and a "
            "part to validate on. Give at least 2; a useful model needs hundreds."
        )
    count = min(max(1, round(fraction * len(ranked))), len(ranked) - 1)
    return set(ranked[:count])
