"""How to repair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from imadarem import checks
from imadarem.errors import ConfigError

#: Says of a text whether it is right.
Checker = Callable[[str], bool]


class RepairOptions(TypedDict, total=False):
    """The settings of :class:`RepairSettings` that a caller gives."""

    rounds: int
    threshold: float
    checker: Checker | None
    budget: int
    flagged_too: bool
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How to repair.

    Attributes:
        rounds: Times that a row is changed and judged again, at most.
        threshold: Probability of an error above which a row is repaired, and of a place above
            which it is blanked.
        checker: Says of a text whether it is right; None leaves it to the judge.
        budget: Calls of the checker for each row, at most.
        flagged_too: With a checker, repair rows too that it takes and the judge flags. Only for
            rows like the model's data: what is new to the model looks wrong to its judge.
        batch_size: Rows in one pass; no row's result depends on it.
    """

    rounds: int = 4
    threshold: float = 0.5
    checker: Checker | None = None
    budget: int = 60
    flagged_too: bool = False
    batch_size: int = 256

    def __post_init__(self) -> None:
        checks.whole("rounds", self.rounds, 1)
        checks.whole("budget", self.budget, 1)
        checks.whole("batch_size", self.batch_size, 1)
        checks.share(threshold=self.threshold)


def check_judge(model: Any, settings: RepairSettings) -> None:
    """Check that something says which rows are right."""
    if settings.checker is None and not judges_tokens(model):
        raise ConfigError(
            "this model has no trained judge, so nothing says which tokens are wrong. Give a "
            "checker, or take a model that has a judge."
        )


def judges_tokens(model: Any) -> bool:
    """Whether it has a judge, or a gate that reads the likelihood of a pretrained model."""
    return bool(model.config.judge or model.config.gate_from_likelihood)
