"""Conditions: what a row can be asked to be like, a number such as QED or a class such as a style.

A model's config holds for each condition, by name, ``{"mean": …, "std": …}`` of a number in the
training data, or ``{"classes": […]}``. The network reads a row's condition as one number for each
name: the standardised value or the number of the class; NaN asks for nothing.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from imadarem import checks
from imadarem.errors import ConfigError, DataError

#: Conditions of a model, and classes of a condition, at most.
MOST, MOST_CLASSES = 256, 65_536


def check_conditions(conditions: Any) -> None:
    """Check the setting ``conditions`` of a model.

    Raises:
        ConfigError: It is not as described above.
    """
    if not isinstance(conditions, Mapping) or not 1 <= len(conditions) <= MOST:
        raise ConfigError(
            f"conditions must be an object of 1 to {MOST} conditions by name; got "
            f"{reprlib.repr(conditions)}."
        )
    for name, facts in conditions.items():
        if not isinstance(name, str) or not isinstance(facts, Mapping):
            raise ConfigError(
                f"conditions: {name!r} must be the name of an object of settings; got "
                f"{reprlib.repr(facts)}."
            )
        if facts.keys() == {"classes"}:
            classes = facts["classes"]
            legal = isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)
            if not legal or not 1 <= len(set(classes)) == len(classes) <= MOST_CLASSES:
                raise ConfigError(
                    f"conditions: the classes of {name!r} must be 1 to {MOST_CLASSES} different "
                    f"texts; got {reprlib.repr(classes)}."
                )
        elif facts.keys() == {"mean", "std"}:
            mean = facts["mean"]
            if not isinstance(mean, int | float) or not math.isfinite(mean):
                raise ConfigError(f"conditions: {name}: mean={mean!r} must be a finite number.")
            checks.above_zero(**{f"conditions: {name}: std": facts["std"]})
        else:
            raise ConfigError(
                f"conditions: {name!r} must have mean and std, or classes; it has "
                f"{sorted(map(str, facts))}."
            )


def as_numbers(
    conditions: Mapping[str, Any] | None, asked: Mapping[str, Any], rows: int
) -> list[list[float]]:
    """What rows are asked to be like as a network reads it: ``rows`` lists of a number for each.

    Args:
        conditions: Of the model's config.
        asked: By name a number or a class, for all rows or one for each; None, NaN or a name left
            out asks for nothing.
        rows: How many.

    Raises:
        ConfigError: The model was trained without conditions or has none of that name.
        DataError: A value is no number or unknown class, or there are more or fewer than rows.
    """
    if conditions is None:
        raise ConfigError(
            f"condition={reprlib.repr(dict(asked))} needs a model that was trained with "
            "conditions (imadarem train --condition NAME), and this one was not. Leave it out."
        )
    checks.known_keys(asked, conditions.keys(), "condition")
    columns = []
    for name, facts in conditions.items():
        values = asked.get(name)
        if isinstance(values, str) or not isinstance(values, Sequence):
            each = [values] * rows
        else:
            each = list(values)
        if len(each) != rows:
            raise DataError(f"there are {len(each)} values of {name} for {rows} rows.")
        columns.append([_number(name, facts, value) for value in each])
    return [list(row) for row in zip(*columns, strict=True)]


def _number(name: str, facts: Mapping[str, Any], value: Any) -> float:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if "classes" in facts:
        if value not in facts["classes"]:
            raise DataError(
                f"{name}={value!r} is no class that this model knows: legal are "
                f"{reprlib.repr(list(facts['classes']))}."
            )
        return float(facts["classes"].index(value))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{name}={value!r} must be a finite number.")
    return (number - facts["mean"]) / facts["std"]
