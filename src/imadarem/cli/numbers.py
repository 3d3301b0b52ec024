"""The numbers that flags take; one outside its bounds is refused before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter, Token


@dataclass(frozen=True)
class _Bounds:
    """A validator of cyclopts.

    Attributes:
        kind: What an error calls the number.
        least: The smallest legal one.
        most: The largest.
    """

    kind: str
    least: float
    most: float

    def __call__(self, type_: Any, value: float | None) -> None:
        """Refuse a number outside the bounds, or NaN; None stands for no setting."""
        if value is not None and not self.least <= value <= self.most:
            raise ValueError(f"Give a {self.kind} from {self.least:,} to {self.most:,}.")


def whole(least: int, most: int, name: Sequence[str] | None = None) -> Parameter:
    """The parameter of a flag that takes a whole number from ``least`` to ``most``."""
    bounds = _Bounds("whole number", least, most)
    return Parameter(name=name, validator=bounds, converter=_int)


def real(least: float, most: float) -> Parameter:
    """The parameter of a flag that takes a number from ``least`` to ``most``."""
    return Parameter(validator=_Bounds("number", least, most))


def _int(type_: Any, tokens: Sequence[Token]) -> int:
    # cyclopts itself would round 1.5.
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a whole number.") from None


Count = Annotated[int, whole(1, 1_000_000, name=("--count", "-n"))]
Positive = Annotated[int, whole(1, 1_000_000)]
Processes = Annotated[int, whole(1, 1024)]
Seed = Annotated[int, whole(0, 2**63 - 1)]
Steps = Annotated[int, whole(1, 100_000)]
Temperature = Annotated[float, real(0, 100)]
