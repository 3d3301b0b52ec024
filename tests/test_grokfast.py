"""The GrokFast filter: its equation, its state, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from imadarem.checkpoint import load_state, save_state
from imadarem.errors import CheckpointError, ConfigError, TrainingError
from imadarem.training.grokfast import GrokFastEma


def with_gradient(values: list[float], dtype: torch.dtype = torch.float64) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(len(values), dtype=dtype))
    parameter.grad = torch.tensor(values, dtype=dtype)
    return parameter


def filtered(grokfast: GrokFastEma, **gradients: list[float]) -> dict[str, list[float]]:
    """The gradients after the filter, by name."""
    parameters = {name: with_gradient(values) for name, values in gradients.items()}
    grokfast.filter_(parameters.items())
    return {name: gradient_of(p).tolist() for name, p in parameters.items()}


def gradient_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


# α = ½, λ = 2. g = 4, 0, 2: μ = 4 (starts there), then 2, then 2.
# g + 2μ = 12, 4, 6.
def test_the_average_of_the_gradients_is_added_to_each():
    grokfast = GrokFastEma(alpha=0.5, lamb=2.0)
    assert filtered(grokfast, w=[4.0]) == {"w": [12.0]}
    assert filtered(grokfast, w=[0.0]) == {"w": [4.0]}
    assert filtered(grokfast, w=[2.0]) == {"w": [6.0]}


def test_the_defaults_are_the_papers():
    assert (GrokFastEma().alpha, GrokFastEma().lamb) == (0.98, 2.0)


@given(
    gradient=st.floats(-1e6, 1e6),
    alpha=st.floats(0.0, 0.999),
    lamb=st.floats(0.0, 10.0),
)
def test_a_constant_gradient_grows_by_one_plus_lamb_from_the_first_step_on(gradient, alpha, lamb):
    grokfast = GrokFastEma(alpha, lamb)
    for _ in range(3):
        (value,) = filtered(grokfast, w=[gradient])["w"]
        assert value == pytest.approx((1 + lamb) * gradient, rel=1e-9, abs=1e-9)


def test_lamb_zero_changes_no_bit():
    grokfast = GrokFastEma(lamb=0.0)
    for gradient in ([0.1, -3.0], [1e-30, 7.0]):
        assert filtered(grokfast, w=gradient) == {"w": gradient}


# The one packaged filter found right: the same equation, so the same numbers.
@pytest.mark.slow
def test_it_agrees_with_the_function_of_pytorch_optimizer():
    from pytorch_optimizer.optimizer import grokfast as packaged

    torch.manual_seed(0)
    ours = nn.Linear(3, 2).double()
    theirs = copy.deepcopy(ours)
    grokfast, averages = GrokFastEma(0.9, 1.5), None
    for _ in range(5):
        x = torch.randn(4, 3, dtype=torch.float64)
        for model in (ours, theirs):
            model.zero_grad()
            model(x).square().sum().backward()
        grokfast.filter_(ours.named_parameters())
        averages = packaged.gradfilter_ema(theirs, averages, alpha=0.9, lamb=1.5)
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


# α = ½, λ = 1. w is without a gradient in step 2, so its average stays 4 and step 3 has
# μ = ½·4 + ½·2 = 3 and g + μ = 5.
def test_a_parameter_without_a_gradient_is_skipped_and_its_average_waits():
    grokfast = GrokFastEma(alpha=0.5, lamb=1.0)
    filtered(grokfast, w=[4.0], v=[1.0])
    frozen = nn.Parameter(torch.zeros(1))
    grokfast.filter_([("w", frozen), ("v", with_gradient([1.0]))])
    assert frozen.grad is None
    assert filtered(grokfast, w=[2.0]) == {"w": [5.0]}


# Names, not places: v and w keep their own averages (1 and 4) when the order turns.
def test_averages_are_kept_by_name():
    grokfast = GrokFastEma(alpha=0.5, lamb=1.0)
    filtered(grokfast, w=[4.0], v=[1.0])
    assert filtered(grokfast, v=[1.0], w=[4.0]) == {"v": [2.0], "w": [8.0]}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_refused_and_leaves_no_trace(bad):
    grokfast = GrokFastEma(alpha=0.5, lamb=2.0)
    filtered(grokfast, v=[1.0], w=[4.0])
    v, w = with_gradient([1.0]), with_gradient([bad])
    with pytest.raises(TrainingError, match="gradient of w is not finite"):
        grokfast.filter_([("v", v), ("w", w)])
    # Not even the finite gradient before it was touched, and step 2 is as if it were the next.
    assert gradient_of(v).tolist() == [1.0]
    assert filtered(grokfast, v=[1.0], w=[0.0]) == {"v": [3.0], "w": [4.0]}


def test_resuming_continues_bit_for_bit_through_a_file(tmp_path):
    torch.manual_seed(0)
    gradients = torch.randn(8, 5).tolist()
    straight = GrokFastEma()
    for gradient in gradients[:4]:
        filtered(straight, w=gradient)
    save_state(straight.state_dict(), tmp_path / "grokfast")
    resumed = GrokFastEma()
    resumed.load_state_dict(load_state(tmp_path / "grokfast"))
    for gradient in gradients[4:]:
        assert filtered(resumed, w=gradient) == filtered(straight, w=gradient)


def test_a_saved_state_does_not_move_with_the_filter():
    grokfast = GrokFastEma(alpha=0.5)
    filtered(grokfast, w=[4.0])
    saved = grokfast.state_dict()
    other = GrokFastEma(alpha=0.5)
    other.load_state_dict(saved)
    filtered(grokfast, w=[0.0])
    filtered(other, w=[0.0])
    assert saved["means"]["w"].tolist() == [4.0]


@pytest.mark.parametrize("other", [{"alpha": 0.9}, {"lamb": 5.0}])
def test_a_state_of_other_settings_is_refused(other):
    grokfast = GrokFastEma(**other)
    with pytest.raises(CheckpointError, match=f"saved with {next(iter(other))}="):
        grokfast.load_state_dict(GrokFastEma().state_dict())


def test_a_state_of_another_model_is_refused_before_anything_changes():
    grokfast = GrokFastEma()
    filtered(grokfast, w=[1.0, 2.0])
    v, w = with_gradient([1.0]), with_gradient([1.0])
    with pytest.raises(CheckpointError, match="another model"):
        grokfast.filter_([("v", v), ("w", w)])
    assert gradient_of(v).tolist() == [1.0]


# bfloat16 has 8 significant bits: from 1 upwards it steps by 1/128, and a step of
# (1 - α)·(2 - 1) = 0.001 would be lost in it for ever. In float32, a thousand of them arrive
# at 2 - 0.999^1000 = 1.632.
def test_the_average_of_half_precision_gradients_does_not_stall():
    grokfast = GrokFastEma(alpha=0.999, lamb=1.0)
    for value in [1.0] + [2.0] * 1000:
        parameter = with_gradient([value], torch.bfloat16)
        grokfast.filter_([("w", parameter)])
    assert gradient_of(parameter).dtype == torch.bfloat16
    assert grokfast.state_dict()["means"]["w"].item() == pytest.approx(1.632, abs=0.001)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ConfigError, match="alpha="):
        GrokFastEma(alpha=alpha)


@pytest.mark.parametrize("lamb", [-1.0, float("inf"), float("nan")])
def test_lamb_outside_its_range_is_refused(lamb):
    with pytest.raises(ConfigError, match="lamb="):
        GrokFastEma(lamb=lamb)


def test_a_model_without_gradients_is_left_alone():
    grokfast = GrokFastEma()
    grokfast.filter_(nn.Linear(2, 2).named_parameters())
    assert grokfast.state_dict()["means"] == {}
