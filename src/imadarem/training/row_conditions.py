"""What the rows of a training set are like, for models that can be asked for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imadarem.conditions import as_numbers
from imadarem.data.corpus import TokenCorpus
from imadarem.errors import ConfigError, DataError
from imadarem.nn.conditions import ConditionEmbedding

#: A value for each row, or a function that gives it for a row's text; None where it is unknown.
Source = Sequence[Any] | Callable[[str], Any]

#: Share of the rows that are shown no condition: what guidance needs (arXiv:2207.12598) ...
DROPPED = 0.1
#: ... and share of the others' conditions that are left out one by one.
LEFT_OUT = 0.25
#: Rows that the mean and the standard deviation of a number are taken from.
MEASURED = 2_000


class RowConditions:
    """Conditions of training rows; a function is asked when a row is first used.

    A model without conditions is given an input for them, in place.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel`.
        sources: By name, for each condition.
        rows: The rows that sequences among the sources belong to.
        kept: Numbers of the rows that are trained on.

    Raises:
        ConfigError: The model was trained with other conditions.
        DataError: A source has not as many values as there are rows.
    """

    def __init__(
        self, model: Any, sources: Mapping[str, Source], rows: TokenCorpus, kept: np.ndarray
    ) -> None:
        self.sources, self.rows, self.kept = dict(sources), rows, kept
        self.decode = getattr(model.tokenizer, "decode", None)
        for name, source in sources.items():
            if not callable(source) and len(source) != len(rows):
                raise DataError(f"{name} has {len(source)} values for {len(rows)} training rows.")
        if model.config.conditions is None:
            measured = self._measured(np.random.default_rng(0))
            model.config = replace(model.config, conditions=measured)
            embedding = ConditionEmbedding(measured, model.config.hidden_size)
            device = next(model.parameters()).device
            model.network.backbone.conditions = embedding.to(device)
        self.known: Mapping[str, Any] = model.config.conditions
        if self.known.keys() != sources.keys():
            raise ConfigError(
                f"this model was trained with the conditions {', '.join(self.known)}; given are "
                f"{', '.join(sources)}. Give the same, or start from a model without any."
            )
        self.numbers = torch.zeros(len(kept), len(sources))
        self.computed = np.zeros(len(kept), dtype=bool)

    def of(self, numbers: np.ndarray, generator: torch.Generator) -> Tensor:
        """``(B, C)`` conditions of some rows as a network reads them, some left out at random."""
        fresh = [int(n) for n in numbers if not self.computed[n]]
        if fresh:
            values = {name: [self._value(name, n) for n in fresh] for name in self.sources}
            self.numbers[fresh] = torch.tensor(as_numbers(self.known, values, len(fresh)))
            self.computed[fresh] = True
        asked = self.numbers[torch.from_numpy(np.asarray(numbers))]
        none = torch.rand(len(asked), 1, generator=generator) < DROPPED
        some = torch.rand(asked.shape, generator=generator) < LEFT_OUT
        # One condition by itself is left out by the first rule alone.
        return asked.masked_fill(none | (some & (asked.shape[1] > 1)), torch.nan)

    def _value(self, name: str, number: int) -> Any:
        source, row = self.sources[name], int(self.kept[number])
        if not callable(source):
            return source[row]
        if self.decode is None:
            raise ConfigError(
                f"{name} is a function of a row's text, and this model's tokenizer cannot decode. "
                "Give a value for each row."
            )
        return source(self.decode(self.rows[row].tolist()))

    def _measured(self, generator: np.random.Generator) -> dict[str, Any]:
        """The setting ``conditions`` of a model for these rows."""
        some = generator.permutation(len(self.kept))[:MEASURED]
        found: dict[str, Any] = {}
        for name in self.sources:
            values = [v for n in some if (v := self._value(name, int(n))) is not None]
            if not values:
                raise DataError(f"no training row has a value of {name}.")
            if isinstance(values[0], str):
                every = (self._value(name, n) for n in range(len(self.kept)))
                found[name] = {"classes": sorted({str(v) for v in every if v is not None})}
                continue
            column = np.asarray(values, dtype=np.float64)
            spread = float(column.std())
            if not spread > 0:
                raise DataError(f"all training rows have the same {name}, {values[0]}.")
            found[name] = {"mean": float(column.mean()), "std": spread}
        return found
