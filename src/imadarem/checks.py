"""Checks of settings, in the same words wherever there are settings."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable
from typing import Any

from imadarem.errors import ConfigError, DataError, nearest


def whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number from ``least`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}.")


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """The value as an ``int``; NumPy's and torch's whole numbers are taken too."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}={value!r} must be a whole number.") from None
    if not (least is None or least <= number) or not (most is None or number <= most):
        legal = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name}={number} must be a whole number {legal}.")
    return number


def at_least(least: float, **settings: float) -> None:
    """Refuse a number below ``least``."""
    for name, value in settings.items():
        if not value >= least:
            raise ConfigError(f"{name}={value} must be at least {least}.")


def finite(**settings: float) -> None:
    """Refuse what is no finite number from 0 on."""
    for name, value in settings.items():
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ConfigError(f"{name}={value!r} must be a finite number of at least 0.")


def above_zero(**settings: float) -> None:
    """Refuse a number that is not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise ConfigError(f"{name}={value} must be above 0.")


def share(**settings: float | None) -> None:
    """Refuse what is no share of a whole; None stands for no setting."""
    for name, value in settings.items():
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{name}={value} must be from 0 to 1.")


def one_of(name: str, value: Any, legal: Iterable[str]) -> None:
    """Refuse a name that is not one of the legal ones."""
    names = tuple(legal)
    if value not in names:
        near = nearest(str(value), names)
        raise ConfigError(f"{name}={value!r}{near} is not one of {', '.join(names)}.")


def known_keys(settings: Iterable[str], known: Collection[str], kind: str = "setting") -> None:
    """Refuse settings with a key that nobody reads."""
    for key in settings:
        if key not in known:
            raise ConfigError(f"unknown {kind} {key!r}{nearest(key, known)}.")


def canvas_length(length: int, most: int, what: str = "a canvas") -> None:
    """Refuse rows of more tokens than a model takes; ``what`` names them in the error."""
    if length > most:
        raise DataError(
            f"{what} has {length} tokens; the model takes at most max_seq_len={most}. Shorten it "
            "or leave it out, or train a model with a larger max_seq_len."
        )
