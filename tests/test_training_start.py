"""A run that starts from another model: which settings it may change."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fakes import MOLECULES, tiny_model

from imadarem.cli.flags import ModelFlags
from imadarem.cli.settings import RunSettings
from imadarem.cli.start import MAY_CHANGE, MAY_GROW, initial_model
from imadarem.config import LENGTH_MODES, MASK_SCHEDULES, ImplicitRefinementConfig
from imadarem.data.corpus import TokenCorpus
from imadarem.data.prepare import PreparedData
from imadarem.errors import ConfigError
from imadarem.model import ImplicitRefinementModel

NAMES = [field.name for field in dataclasses.fields(ModelFlags)]
CHOICES = {"length_mode": LENGTH_MODES, "mask_schedule": MASK_SCHEDULES}


def other(config: ImplicitRefinementConfig, name: str) -> Any:
    """A legal value of a setting that is not the model's."""
    now = getattr(config, name)
    if name in CHOICES:
        return next(choice for choice in CHOICES[name] if choice != now)
    if isinstance(now, bool):
        return not now
    if now is None or isinstance(now, int):
        return 2 * (now or 4) + (name == "conv_kernel_size")
    return now / 2 or 0.5


def started(name: str) -> ImplicitRefinementModel:
    # Draws are compared by a joint head.
    joint_size = 6 if name == "infill_best_of" else 0
    saved = tiny_model(length_mode="drawn", length_counts=[0, 1], joint_size=joint_size)
    corpus = TokenCorpus.from_rows(map(saved.tokenizer.encode, MOLECULES), 256)
    data = PreparedData(saved.tokenizer, corpus, corpus, [], {})
    settings = RunSettings(data={"init": "x"}, model={name: other(saved.config, name)})
    return initial_model(saved, settings, data)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MAY_CHANGE | {*MAY_GROW}])
def test_what_belongs_to_the_weights_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = .* was given.*--init keeps the architecture"):
        started(name)


@pytest.mark.parametrize("name", sorted(MAY_CHANGE | {*MAY_GROW}))
def test_what_does_not_belong_to_them_may_change(name: str) -> None:
    assert name in NAMES
    config = tiny_model().config
    assert getattr(started(name).config, name) == other(config, name) != getattr(config, name)
