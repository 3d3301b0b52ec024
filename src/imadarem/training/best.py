"""The best weights of a run, by a figure of its validations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from imadarem.errors import ConfigError, nearest

#: Figures of which the lowest is the best; of all others the highest is.
LOWER_IS_BETTER = ("loss", "gate_ece", "wrong_share")


class BestWeights:
    """Which validation was the best, and for how long none was better.

    Args:
        figure: Of the validations; a name that several share as the beginning, such as
            ``exact`` of ``exact_36_at_4``, is their mean.
        patience: Validations without a better one after which a run may stop; None: never.
    """

    def __init__(self, figure: str, patience: int | None) -> None:
        self.figure, self.patience = figure, patience
        self.value: float | None = None
        self.step = self.stale = 0

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` validations brought nothing better."""
        return self.patience is not None and self.stale >= self.patience

    def see(self, step: int, record: Mapping[str, Any]) -> bool:
        """Whether a validation is the best so far.

        Raises:
            ConfigError: It has no such figure.
        """
        value = self._value(record)
        sign = 1.0 if self.figure in LOWER_IS_BETTER else -1.0
        better = self.value is None or sign * value < sign * self.value
        if math.isnan(value) or not better:
            self.stale += 1
            return False
        self.value, self.step, self.stale = value, step, 0
        return True

    def restore(self, metrics: Path) -> None:
        """Become what the records of a run folder say."""
        self.value, self.step, self.stale = None, 0, 0
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        for record in map(json.loads, lines):
            if record["kind"] == "valid":
                self.see(record["step"], record)

    def _value(self, record: Mapping[str, Any]) -> float:
        figures = {k: v for k, v in record.items() if isinstance(v, int | float) or v is None}
        found = [
            math.nan if value is None else float(value)
            for name, value in figures.items()
            if name == self.figure or name.startswith(f"{self.figure}_")
        ]
        if not found:
            names = [name for name in figures if name not in ("time", "step")]
            raise ConfigError(
                f"no validation has the figure best_by={self.figure!r}"
                f"{nearest(self.figure, names)}. There are: {', '.join(names)}."
            )
        return fmean(found)
