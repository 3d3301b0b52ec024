"""The orchestrator's settings: defaults, ranges, how steps share the loss."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imadarem.errors import ConfigError
from imadarem.orchestrator.config import OrchestrationConfig


def test_defaults_are_those_of_the_founding_document() -> None:
    config = OrchestrationConfig()
    assert (config.max_steps_train, config.max_steps_infer) == (16, 4)
    assert config.truncated_backprop is True
    assert config.backprop_truncate_steps == 8
    assert config.gradient_clip_threshold == 1.0
    assert config.loss_smoothing_window == 3
    assert config.augmentation_count == 300
    assert config.adaptive_edit_selection is True
    assert config.augmentation_strategies == [
        "token_noise", "position_shift", "masking", "paraphrase", "format_variation",
    ]  # fmt: skip
    assert config.canvas_edit_strategies == ["append", "replace", "patch"]


def test_no_two_settings_share_a_list() -> None:
    one, other = OrchestrationConfig(), OrchestrationConfig()
    one.canvas_edit_strategies.append("replace")
    assert other.canvas_edit_strategies == ["append", "replace", "patch"]


# How steps share the loss


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("uniform", [0.25, 0.25, 0.25, 0.25]),
        ("linear", [0.1, 0.2, 0.3, 0.4]),  # s / (1 + 2 + 3 + 4)
        ("last", [0.0, 0.0, 0.0, 1.0]),
        (lambda step, steps: steps - step, [0.5, 1 / 3, 1 / 6, 0.0]),  # 3, 2, 1, 0 over 6
    ],
)
def test_steps_weigh_what_the_weighting_says(weighting: Any, expected: list[float]) -> None:
    config = OrchestrationConfig(step_weighting=weighting)
    assert config.step_weights(4) == pytest.approx(expected)


@given(
    steps=st.integers(1, 40),
    weighting=st.sampled_from(["uniform", "linear", "last"])
    | st.floats(0.1, 3).map(lambda power: lambda step, steps: step**power),
)
def test_weights_of_steps_sum_to_one_and_never_fall(steps: int, weighting: Any) -> None:
    weights = OrchestrationConfig(step_weighting=weighting).step_weights(steps)
    assert len(weights) == steps
    assert math.isclose(sum(weights), 1.0)
    assert weights == sorted(weights)


@pytest.mark.parametrize(
    "weighting",
    [lambda s, n: 0.0, lambda s, n: -1.0, lambda s, n: math.nan, lambda s, n: math.inf],
)
def test_a_function_that_gives_no_weights_is_refused(weighting: Any) -> None:
    config = OrchestrationConfig(step_weighting=weighting)
    with pytest.raises(ConfigError, match="finite, at least 0, and not all 0"):
        config.step_weights(3)


def test_terms_left_out_keep_their_weight() -> None:
    config = OrchestrationConfig(step_loss_weights={"gate": 0.1})
    assert config.term_weights == {"token": 1.0, "gate": 0.1, "halt": 0.5, "memory": 0.0}


def test_without_truncation_the_unroll_is_full_whatever_the_mode() -> None:
    for mode in ("full", "window", "last_k", "carry"):
        assert OrchestrationConfig(unroll_mode=mode).gradient_mode == mode
        config = OrchestrationConfig(unroll_mode=mode, truncated_backprop=False)
        assert config.gradient_mode == "full"


# Plain values


@given(
    st.builds(
        OrchestrationConfig,
        max_steps_train=st.integers(8, 16),
        max_steps_infer=st.integers(2, 6),
        truncated_backprop=st.booleans(),
        unroll_mode=st.sampled_from(["full", "window", "last_k", "carry"]),
        step_weighting=st.sampled_from(["uniform", "linear", "last"]),
        step_loss_weights=st.dictionaries(
            st.sampled_from(["token", "gate", "halt", "memory"]), st.floats(0, 2)
        ),
        canvas_edit_strategies=st.lists(
            st.sampled_from(["append", "replace", "patch"]), min_size=1, max_size=3
        ),
        halt_confidence=st.none() | st.floats(0, 1),
        patience=st.none() | st.integers(1, 9),
        seed=st.integers(0, 2**31),
    )
)
def test_settings_survive_json(config: OrchestrationConfig) -> None:
    again = OrchestrationConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config


def halves(step: int, steps: int) -> float:
    return 0.5**step


def test_a_weighting_function_is_told_by_its_name() -> None:
    saved = OrchestrationConfig(step_weighting=halves).to_dict()
    assert saved["step_weighting"] == "halves"
    with pytest.raises(ConfigError, match="step_weighting='halves'"):
        OrchestrationConfig.from_dict(saved)


def test_an_unknown_setting_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match='max_step_train.*did you mean "max_steps_train"'):
        OrchestrationConfig.from_dict({"max_step_train": 8})


# Ranges


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps_train", 7),
        ("max_steps_train", 17),
        ("max_steps_infer", 1),
        ("max_steps_infer", 7),
    ],
)
def test_unusual_numbers_of_steps_work_and_warn(name: str, value: int) -> None:
    with pytest.warns(UserWarning, match=f"{name}={value} lies outside the usual"):
        config = OrchestrationConfig(**{name: value})  # type: ignore[arg-type]
    assert getattr(config, name) == value


def test_usual_numbers_of_steps_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OrchestrationConfig(max_steps_train=8, max_steps_infer=2)
        OrchestrationConfig(max_steps_train=16, max_steps_infer=6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_steps_train": 0}, "max_steps_train=0 must be a whole number of at least 1"),
        ({"max_steps_infer": 2.5}, "max_steps_infer=2.5"),
        ({"max_steps_infer": True}, "max_steps_infer=True"),
        ({"backprop_truncate_steps": 0}, "backprop_truncate_steps=0"),
        ({"loss_smoothing_window": 0}, "loss_smoothing_window=0"),
        ({"augmentation_count": -1}, "augmentation_count=-1 must be a whole number of at least 0"),
        ({"seed": -1}, "seed=-1"),
        ({"patience": 0}, "patience=0"),
        ({"step_loss_weights": {"tokn": 1.0}}, 'tokn.*did you mean "token".*step_weighting'),
        ({"step_loss_weights": {"token": -1.0}}, r"\['token'\]=-1.0 must be at least 0"),
        ({"step_loss_weights": {"token": math.nan}}, r"\['token'\]=nan"),
        ({"augmentation_strategies": ["noise"]}, "names 'noise'.*legal are token_noise"),
        ({"canvas_edit_strategies": ["pach"]}, 'did you mean "patch"'),
        ({"canvas_edit_strategies": []}, "is empty; name one of append, replace, patch"),
        ({"unroll_mode": "windows"}, 'did you mean "window".*is not one of full'),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8'"),
        ({"step_weighting": "quadratic"}, "step_weighting='quadratic'"),
        ({"base_loss_share": 1.1}, "base_loss_share=1.1 must be from 0 to 1"),
        ({"halt_exploration": -0.1}, "halt_exploration=-0.1"),
        ({"halt_confidence": 1.1}, "halt_confidence=1.1"),
        ({"quality_threshold": math.nan}, "quality_threshold=nan"),
        ({"gradient_clip_threshold": 0.0}, "must be a finite number above 0"),
        ({"gradient_clip_threshold": math.inf}, "gradient_clip_threshold=inf"),
        ({"temperature": -1.0}, "temperature=-1.0 must be a finite number at least 0"),
        ({"grok_fast_lamb": -1.0}, "grok_fast_lamb=-1.0"),
        ({"grok_fast_alpha": 1.0}, "grok_fast_alpha=1.0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OrchestrationConfig(**wrong)


def test_settings_of_version_0_1_are_read_and_a_loss_that_is_gone_is_refused() -> None:
    old = {"halting_loss": "exact", "ponder_prior": 0.2, "ponder_weight": 0.01}
    assert OrchestrationConfig.from_dict({"seed": 3, **old}) == OrchestrationConfig(seed=3)
    with pytest.raises(ConfigError, match="halting_loss='ponder' no longer exists"):
        OrchestrationConfig.from_dict({**old, "halting_loss": "ponder"})
