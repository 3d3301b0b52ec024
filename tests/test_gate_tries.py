"""The benchmark of tries at the gate: what its passes cost, and that a judged canvas ends full."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from imadarem import ImplicitRefinementConfig

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SPECIAL = {"mask_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gate_tries")


def model_of(tries: ModuleType, **settings):
    torch.manual_seed(0)
    config = ImplicitRefinementConfig(
        vocab_size=8,
        hidden_size=16,
        num_layers=3,
        num_heads=2,
        max_seq_len=12,
        dropout=0.0,
        self_conditioning=False,
        length_mode="drawn",
        length_counts=[0] * 12 + [1],
        gate_bias_init=4.0,
        **SPECIAL,
        **settings,
    )
    return tries.LightGate(config).eval()


# A whole second pass, 6 passes: 4 draws and 2 judgements, of the draws 2 and 3; the last cannot
# be judged. A third of a pass each: 5 draws and 3 judgements, of 2, 3 and 4, are 6 again; of 4
# passes 3 draws and 2 judgements take 3 2/3.
@pytest.mark.parametrize(
    ("budget", "light", "plan", "passes"),
    [
        (4, False, "ddjd", 4.0),
        (6, False, "ddjdjd", 6.0),
        (4, True, "djdjd", 11 / 3),
        (6, True, "ddjdjdjd", 6.0),
    ],
)
def test_judging_passes_are_paid_from_the_budget(tries, budget, light, plan, passes):
    model = model_of(tries)
    policy = tries.SecondPass(model, budget, model.short() if light else None)
    assert "".join("dj"[judging] for judging in policy.plan) == plan
    assert policy.passes == pytest.approx(passes)


@pytest.mark.parametrize("light", [False, True])
def test_a_canvas_that_was_judged_in_between_ends_without_a_blank(tries, light):
    model = model_of(tries)
    policy = tries.SecondPass(model, 6, model.short() if light else None)
    remasked = []
    samples = policy.sample(
        5, 0, on_step=lambda rows, step: remasked.append(int(step.remasked.sum()))
    )
    assert all(len(row.ids) == 12 and 1 not in row.ids for row in samples.rows)
    # A gate of +4 flags all that lost more than a nat: something goes back, and only when judged.
    judged = [count for count, judging in zip(remasked, policy.plan, strict=True) if judging]
    assert sum(judged) > 0
    assert sum(remasked) == sum(judged)


@pytest.mark.parametrize("canvases", ["mixed", "one-shot", "two-step", "policy"])
def test_every_kind_of_canvas_trains_both_gates(tries, canvases):
    model = model_of(tries)
    objective = tries.Tried(
        config=model.config, special=model.special, canvases=canvases, mistakes=0.1
    )
    ids = torch.randint(3, 8, (8, 12), generator=torch.Generator().manual_seed(0))
    objective(model, ids, None, torch.Generator().manual_seed(0)).total.backward()
    for gate in (model.gate, model.light):
        assert gate.score.weight.grad is not None
        assert gate.score.weight.grad.abs().sum() > 0
