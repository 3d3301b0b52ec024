"""The settings of a refiner as transformers keeps them."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import PreTrainedConfig

from imadarem.config import FOREIGN_KEYS, MODEL_TYPE, ImplicitRefinementConfig

OUR_KEYS = tuple(field.name for field in dataclasses.fields(ImplicitRefinementConfig))
#: Settings that transformers puts into any configuration; the underscored ones come on top.
THEIR_KEYS = (
    frozenset(field.name for field in dataclasses.fields(PreTrainedConfig))
    | FOREIGN_KEYS
    | {"attn_implementation", "experts_implementation", "name_or_path", "num_labels"}
    | {"output_attentions", "tie_word_embeddings"}
)


class ImadaremConfig(PreTrainedConfig):
    """The settings of :class:`~imadarem.ImplicitRefinementConfig`, as transformers keeps them.

    Takes the same names and defaults, checked in the same way, beside the settings that
    transformers knows for any model.

    Raises:
        ConfigError: A setting is unknown, missing or out of range.
    """

    model_type = MODEL_TYPE
    attribute_map = {
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "max_position_embeddings": "max_seq_len",
    }

    def __init__(self, **settings: Any) -> None:
        settings.pop("model_type", None)
        theirs = {
            key: settings.pop(key)
            for key in list(settings)
            if key.startswith("_") or (key in THEIR_KEYS and key not in OUR_KEYS)
        }
        settings = {self.attribute_map.get(key, key): value for key, value in settings.items()}
        core = ImplicitRefinementConfig.from_dict(settings)
        super().__init__(**theirs)
        for key, value in dataclasses.asdict(core).items():
            setattr(self, key, value)

    def core(self) -> ImplicitRefinementConfig:
        """The refiner's own configuration.

        Raises:
            ConfigError: A setting was changed to something illegal.
        """
        return ImplicitRefinementConfig(**{key: getattr(self, key) for key in OUR_KEYS})

    def to_diff_dict(self) -> dict[str, Any]:
        """What ``config.json`` holds: all of our settings, and what the core reads over."""
        theirs = super().to_diff_dict()
        foreign = {key: value for key, value in theirs.items() if key in FOREIGN_KEYS}
        return {**self.core().to_dict(), **foreign}
