"""A task that only a memory can solve: what was this key's value, when we met it before?"""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from imadarem.data.tasks import Episodes
from imadarem.errors import ConfigError
from imadarem.tokenizers import CharTokenizer

KEYS = string.ascii_lowercase
VALUES = string.ascii_uppercase
#: Digits of a world's name; worlds go from 000 to 999.
DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class RecallWorlds:
    """Worlds in which every key has a random value, drawn anew in each.

    An episode is five characters: the world's number, a key, and a blank for its value, such
    as ``"042c?"`` with the answer ``"042cD"``. Nothing but an earlier episode of that world
    with that key tells the value: without one, ``1 / n_values`` is the best accuracy there is.

    Args:
        n_keys: Keys of a world, ``a`` onwards; at most 26.
        n_values: Values to draw from, ``A`` onwards; at most 26.
        seed: Draws the values; a world is a pure function of (seed, its number).

    Raises:
        ConfigError: A number is out of range.
    """

    n_keys: int = 16
    n_values: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, letters in (("n_keys", 1, KEYS), ("n_values", 2, VALUES)):
            if not least <= getattr(self, name) <= len(letters):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is out of range: "
                    f"legal is {least} to {len(letters)}."
                )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative.")

    @property
    def chance(self) -> float:
        """Accuracy of whoever remembers nothing."""
        return 1 / self.n_values

    @cached_property
    def tokenizer(self) -> CharTokenizer:
        """Digits, keys and values."""
        return CharTokenizer.from_corpus(
            [string.digits + KEYS[: self.n_keys] + VALUES[: self.n_values]]
        )

    def values(self, world: int) -> Tensor:
        """``(n_keys,)`` the value of each key of a world, 0 to ``n_values - 1``."""
        rng = np.random.default_rng([0, self.seed, world])
        return torch.from_numpy(rng.integers(self.n_values, size=self.n_keys))

    def episodes(self, world: int, visit: int) -> Episodes:
        """The questions about every key of a world, in random order.

        The answers of ``visit`` 0 can only be guessed; written to a memory, they answer those
        of every later visit. Each (world, visit, key) is a task of its own.

        Raises:
            ConfigError: ``world`` is not one of 0 to 999, or ``visit`` is negative.
        """
        if not 0 <= world < 10**DIGITS or visit < 0:
            raise ConfigError(
                f"world={world}, visit={visit} does not exist: worlds go from 0 to "
                f"{10**DIGITS - 1}, visits from 0."
            )
        # The 1 keeps this stream apart from that of the values.
        rng = np.random.default_rng([1, self.seed, world, visit])
        keys = torch.from_numpy(rng.permutation(self.n_keys))
        values = self.values(world)[keys]
        texts = [
            f"{world:0{DIGITS}d}{KEYS[key]}{VALUES[value]}"
            for key, value in zip(keys.tolist(), values.tolist(), strict=True)
        ]
        labels = torch.tensor([self.tokenizer.encode(text) for text in texts])
        inputs = labels.clone()
        inputs[:, -1] = self.tokenizer.mask_token_id
        task_ids = (visit * 10**DIGITS + world) * len(KEYS) + keys
        return Episodes(inputs, labels, task_ids)
