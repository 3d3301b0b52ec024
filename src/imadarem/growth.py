"""A trained model's weights for a larger one: more tokens, blocks, positions or joint units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError

__all__ = ["grown_weights", "larger_config"]

#: Nats below the mean token at which one that is new to a model starts.
RARE = 4.0


def larger_config(
    config: ImplicitRefinementConfig, **sizes: int | None
) -> ImplicitRefinementConfig:
    """The config with these sizes in their place; None keeps the present one.

    Raises:
        ConfigError: A size is lower than the present one.
    """
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    for name, size in given.items():
        if size < getattr(config, name):
            raise ConfigError(
                f"{name}={size} is less than the {getattr(config, name)} of this model, and a "
                "model can only be enlarged. Train a new one."
            )
    return replace(config, **given)


def grown_weights(trained: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a trained model put into those of a larger one.

    What is new to the model is as its initialisation made it: a block is the identity. A new
    position starts like the last known one. A new token starts as the mean of the known ones, and
    as one that is hardly ever drawn. New units of the joint head read the old ones, and nothing
    reads them yet.

    Args:
        trained: State of the model, without its teacher.
        fresh: State of a new, larger model by the same names.

    Returns:
        A weight for each name of ``fresh``.
    """
    grown = {}
    for name, new in fresh.items():
        old = trained.get(name, new)
        if old.shape == new.shape:
            grown[name] = old
        elif name.endswith("positions.decay"):
            grown[name] = torch.cat([old, old[-1:].expand(len(new) - len(old))])
        elif "joint.recurrence" in name or old.shape[0] == new.shape[0]:
            grown[name] = _more_units(old, new, gates=3 if "recurrence" in name else 1)
        else:
            mean = old.mean(dim=0) - (RARE if name.endswith("to_logits.bias") else 0.0)
            grown[name] = torch.cat([old, mean.expand(len(new) - len(old), *old.shape[1:])])
    return grown


def _more_units(old: Tensor, new: Tensor, gates: int) -> Tensor:
    """A weight of the joint head; a recurrence stacks three gates over its units."""
    grown, known = new.clone().unflatten(0, (gates, -1)), old.unflatten(0, (gates, -1))
    rows = known.shape[1]
    if old.dim() == 2:
        grown[:, :rows, known.shape[2] :] = 0.0
        grown[:, :rows, : known.shape[2]] = known
    else:
        grown[:, :rows] = known
    return grown.flatten(0, 1)
