"""A model by its name, whatever wrote its folder."""

from __future__ import annotations

from imadarem.model import ImplicitRefinementModel
from imadarem.pretrained import is_masked_lm


def open_model(name: str) -> ImplicitRefinementModel:
    """The named model; a folder that transformers wrote is opened as a masked language model.

    Raises:
        CheckpointError: There is no such model.
    """
    if is_masked_lm(name):
        return ImplicitRefinementModel.from_masked_lm(name)
    return ImplicitRefinementModel.from_pretrained(name)
