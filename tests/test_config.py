"""The settings: defaults of the founding document, ranges, round trip."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError


def test_defaults_are_those_of_the_founding_document() -> None:
    config = ImplicitRefinementConfig(vocab_size=100)
    assert config.max_refinement_steps == 6
    assert config.sampling_temperature == 1.2
    assert config.min_refine_uncertainty == 0.1
    assert config.stop_threshold == 0.02
    assert config.use_refine_gate is True
    assert config.gate_bias_init == 2.0


@given(
    st.builds(
        ImplicitRefinementConfig,
        vocab_size=st.integers(4, 1000),
        hidden_size=st.integers(1, 16).map(lambda n: 8 * n),
        num_heads=st.sampled_from([1, 2, 4]),
        max_seq_len=st.integers(4, 100),
        dropout=st.floats(0, 0.99),
        sampling_temperature=st.floats(0, 10),
        length_counts=st.none() | st.just([0, 2, 3]),
        length_mode=st.sampled_from(["eos", "drawn"]),
    )
)
def test_json_round_trip_keeps_every_setting(config: ImplicitRefinementConfig) -> None:
    assert ImplicitRefinementConfig.from_dict(json.loads(config.to_json())) == config


def test_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match='hiden_size.*did you mean "hidden_size"'):
        ImplicitRefinementConfig.from_dict({"vocab_size": 9, "hiden_size": 64})


def test_foreign_keys_of_hugging_face_are_let_through() -> None:
    config = ImplicitRefinementConfig.from_dict({"vocab_size": 9, "architectures": ["X"]})
    assert config.vocab_size == 9


@pytest.mark.parametrize(
    "setting",
    [
        {"vocab_size": 0},
        {"vocab_size": 9, "num_layers": 0},
        {"vocab_size": 9, "hidden_size": 66, "num_heads": 4},
        {"vocab_size": 9, "hidden_size": 12, "num_heads": 4},  # odd heads cannot be rotated
        {"vocab_size": 9, "conv_kernel_size": 4},
        {"vocab_size": 9, "dropout": 1.0},
        {"vocab_size": 9, "stop_threshold": 1.5},
        {"vocab_size": 9, "sampling_temperature": -0.1},
        {"vocab_size": 9, "sampling_temperature": float("nan")},
        {"vocab_size": 9, "gate_temperature": 0.0},
        {"vocab_size": 9, "ema_decay": 1.0},
        {"vocab_size": 9, "max_refinement_steps": 0},
        {"vocab_size": 9, "max_refinement_steps": 2.5},
        {"vocab_size": 9, "length_mode": "magic"},
        {"vocab_size": 9, "max_seq_len": 2, "length_counts": [0, 1, 1, 1]},
        {"vocab_size": 9, "length_counts": [3]},
        {"vocab_size": 9, "mask_token_id": 9},
    ],
)
def test_out_of_range_settings_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ImplicitRefinementConfig(**setting)  # type: ignore[arg-type]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from([10**400, -(10**400), 10**9]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150)
@given(
    name=st.sampled_from([field.name for field in dataclasses.fields(ImplicitRefinementConfig)]),
    value=anything,
)
@example(name="conditions", value={"": 0})
@example(name="conditions", value={"a": {"mean": [], "std": 1}})
@example(name="conditions", value={"a": {"mean": 0, "std": 0}})
@example(name="conditions", value={"a": {"classes": []}})
def test_any_value_of_any_setting_is_taken_or_refused_by_its_name(name: str, value: Any) -> None:
    given = {"vocab_size": 9, "length_mode": "drawn", name: value}
    try:
        config = ImplicitRefinementConfig.from_dict(given)
    except ConfigError as error:
        assert name in str(error)
    else:
        # What is taken can be written and read again: no NaN, no infinity, no other type.
        assert ImplicitRefinementConfig.from_dict(json.loads(config.to_json())) == config


@pytest.mark.parametrize("counts", [[0, "many"], [0, math.nan], [0, -1], [0, 10**30], [0, True]])
def test_length_counts_that_are_no_counts_are_refused(counts: list[Any]) -> None:
    with pytest.raises(ConfigError, match=r"length_counts must be .* from 0 to 2\^53"):
        ImplicitRefinementConfig(vocab_size=9, length_counts=counts)


def test_a_group_number_needs_a_position_of_its_own() -> None:
    # Two positions have at most the groups 0 and 1; a larger number would only cost memory.
    ImplicitRefinementConfig(vocab_size=9, relations=[[[0, 1]]])
    with pytest.raises(ConfigError, match="whole numbers from 0 to 1"):
        ImplicitRefinementConfig(vocab_size=9, relations=[[[0, 10**9]]])


def test_every_setting_is_documented() -> None:
    documented = ImplicitRefinementConfig.__doc__ or ""
    for field in dataclasses.fields(ImplicitRefinementConfig):
        assert f"        {field.name}:" in documented, field.name
