"""What users of other masked-diffusion and recursive models reported, and what happens here.

Each test names the reports, as repository and number; that lengths keep their law under
every policy (DreamLM/Dream 51) is held by ``tests/test_endings.py``.
"""

from __future__ import annotations

import orchestrator_parts as parts
import pytest
import torch
from fakes import SPECIAL, Scripted, peaked, shaken, tiny_model
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.evaluation.texts import evaluate_texts
from imadarem.sampling.batching import refine_all
from imadarem.sampling.loop import refine
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import Ancestral, Blocks, Confidence, LeftToRight, Margin, Policy
from imadarem.sampling.settings import SamplingSettings
from imadarem.training.objective import Objective


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_more_steps_make_no_token_worse_at_temperature_zero(steps: int) -> None:
    """kuleshov-group/mdlm 36: noise on the confidence changes the order, never a token."""

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        right = 3 + torch.arange(ids.shape[1]).expand(ids.shape) % 5
        return peaked(right, 8, height=2.0), torch.zeros(ids.shape)

    policy = Confidence(gumbel=5.0)
    settings = SamplingSettings(policy=policy, steps=steps, temperature=0.0, may_end=False)
    canvas = Canvas.blank([10] * 4, SPECIAL)
    *_, last = refine(Scripted(answer), canvas, settings, seeds=row_seeds(4, 0))
    wanted = (3 + torch.arange(10) % 5).tolist()
    assert [row.tolist() for row in last.canvas.sequences()] == [wanted] * 4


def of_the_or_another_word(policy: Policy, steps: int) -> list[str]:
    """Two hundred texts of ten words; each is "3" with probability .4, else one of six others."""
    probs = torch.tensor([0.0, 0.0, 0.0, 0.4, *[0.1] * 6])

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        return probs.log().expand(*ids.shape, -1).clone(), torch.zeros(ids.shape)

    settings = SamplingSettings(policy=policy, steps=steps, may_end=False)
    canvas = Canvas.blank([10] * 200, SPECIAL)
    rows = refine_all(Scripted(answer), canvas, row_seeds(200, 0), settings)
    return [" ".join(str(int(token)) for token in row.ids) for row in rows]


@pytest.mark.parametrize("policy", [Ancestral(), LeftToRight(), Margin()])
def test_one_token_a_pass_keeps_the_share_of_a_frequent_word(policy: Policy) -> None:
    """kuleshov-group/mdlm 35: most confident first repeats itself; other orders do not.

    A blank is drawn anew in every pass, and is written once the frequent word was drawn: the
    figures of texts show it. 2,000 words: a share of .4 has a standard error of .011.
    """
    texts = of_the_or_another_word(policy, steps=10)
    assert sum(text.split().count("3") for text in texts) / 2000 == pytest.approx(0.4, abs=0.035)
    kept = evaluate_texts(texts)
    sure = evaluate_texts(of_the_or_another_word(Confidence(gumbel=0.0), steps=10))
    assert kept.unigram_entropy > 1.6 and kept.repetition < 0.6
    assert sure.unigram_entropy < 1.0 and sure.repetition > 0.7


def test_blocks_go_from_one_token_after_the_other_to_the_whole_row_at_once() -> None:
    """ML-GSAI/LLaDA 39: the two ends of semi-autoregressive sampling, at any number of passes."""
    model = shaken(tiny_model(length_mode="drawn"))
    row = {"length": 8, "seed": 0, "steps": 8}
    left = model.sample(5, **row, policy="left-to-right").texts
    assert model.sample(5, **row, policy=Blocks(count=8)).texts == left
    whole = model.sample(5, **row, policy="confidence").texts
    assert model.sample(5, **row, policy=Blocks(count=1)).texts == whole != left
    # Two blocks of four in two passes each: four passes, and not one a block.
    assert {
        one.steps for one in model.sample(5, length=8, steps=4, policy=Blocks(count=2)).rows
    } == {4}


@pytest.mark.parametrize("mode", ["drawn", "eos"])
def test_padding_is_neither_hidden_nor_learned(mode: str) -> None:
    """ZHZisZZ/dllm 81: a batch's padding does not dilute what is learned of the tokens.

    Where a model writes its ends, what lies behind a visible end is not asked for either.
    """
    model = tiny_model(length_mode=mode)
    objective = Objective(config=model.config, special=model.special, on_policy_share=0.0)
    ids = torch.tensor([[4, 5, 6, 7, 0, 0, 0, 0], [4, 5, 6, 7, 8, 9, 4, 5]])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        made = objective.corrupt(ids, ids != 0, generator)
        open_, targets = made.canvas.open, made.targets
        assert not bool((targets[open_] == model.special.pad).any())
        ends = (made.canvas.ids == model.special.eos).long().cumsum(dim=1) - (
            made.canvas.ids == model.special.eos
        ).long()
        assert not bool(open_[ends > 0].any())
        if mode == "drawn":
            assert bool((made.canvas.state[0, 4:] == State.PAD).all())


def test_draws_differ_and_a_token_that_fills_texts_can_be_ruled_out() -> None:
    """ML-GSAI/LLaDA 59: the most likely token is not the only choice."""
    model = shaken(tiny_model(length_mode="drawn"))
    with torch.no_grad():
        model.network.backbone.to_logits.bias[5] = 4.0
    filled = model.sample(20, length=8, seed=0)
    assert len(set(filled.texts)) > 10 and any(5 in row.ids for row in filled.rows)
    without = model.sample(20, length=8, seed=0, suppress_tokens=[5])
    assert not any(5 in row.ids for row in without.rows)


def test_a_masked_sentence_comes_back_with_as_many_tokens_and_the_given_ones() -> None:
    """DreamLM/Dream 73: a model that can end rows fills masks in the middle and at the end."""
    model = shaken(tiny_model(length_mode="eos"))
    prompt = [4, 1, 6, 7, 1, 1]
    for policy in ("gate", "confidence", "ancestral"):
        (row,) = model.infill([prompt], seed=1, policy=policy).rows
        assert len(row.ids) == 6
        assert [row.ids[i].item() for i in (0, 2, 3)] == [4, 6, 7]


def test_padding_changes_no_number_of_a_row() -> None:
    """ZHZisZZ/dllm 15 and 87: neither the logits, nor what is filled, depend on padding."""
    model = shaken(tiny_model(length_mode="drawn"))
    row = torch.tensor([[4, 1, 6, 1]])
    padded = torch.cat([row, torch.zeros(1, 5, dtype=torch.long)], dim=1)
    alone, beside = model(row).logits, model(padded, padded != 0).logits
    assert torch.allclose(beside[:, :4], alone, atol=1e-5)
    longer = [5, 1, 5, 1, 5, 1, 5, 1, 5]
    together = model.infill([row[0].tolist(), longer], seed=3)
    assert together.rows[0].ids.equal(model.infill(row, seed=3).rows[0].ids)


def test_a_row_halts_in_evaluation_by_the_head_that_halts_it_in_training() -> None:
    """SamsungSAILMontreal/TinyRecursiveModels 64: no fixed number of steps in evaluation."""
    model = parts.model()
    with torch.no_grad():
        model.network.halt.score.bias.fill_(20.0)  # type: ignore[union-attr]
    over = parts.orchestrator(model, quality_threshold=None, patience=None).eval()
    found = over.inference(parts.episodes(3).inputs, task_type="unverified")
    assert found["stopping_reason"] == ["confidence"] * 3 and found["steps_taken"] == [1] * 3


def test_a_state_carried_from_step_to_step_is_the_supervision_loop_of_the_paper() -> None:
    """SamsungSAILMontreal/TinyRecursiveModels 26: the loop over supervision steps and the carry.

    Without an optimiser step in between, eight calls in ``carry`` mode are the eight steps of one
    unroll whose graph is cut after every step; then the rows make room for the next batch.
    """
    fixed = {
        "canvas_edit_strategies": ["replace"],
        "augmentation_count": 0,
        "halt_exploration": 0.0,
        "step_weighting": "uniform",
    }
    batch = parts.episodes(4)
    unrolled = parts.orchestrator(parts.model(dropout=0.0), backprop_truncate_steps=1, **fixed)
    still = torch.optim.SGD(unrolled.model.parameters(), lr=0.0)
    losses = unrolled.train_step(batch, still, task_type="copy")["step_losses"]
    carried = parts.orchestrator(parts.model(dropout=0.0), unroll_mode="carry", **fixed)
    still = torch.optim.SGD(carried.model.parameters(), lr=0.0)
    calls = [carried.train_step(batch, still, task_type="copy") for _ in range(9)]
    assert [call["step_losses"][0] for call in calls[:8]] == pytest.approx(losses, rel=1e-5)
    assert [call["rows_replaced"] for call in calls] == [4, *[0] * 7, 4]
