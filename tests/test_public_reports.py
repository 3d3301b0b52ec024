"""What users of other masked-diffusion and recursive models reported, and what happens here.

Each test names the reports, as repository and number; that lengths keep their law
(DreamLM/Dream 51) is held by ``tests/test_endings.py``.
"""

from __future__ import annotations

import orchestrator_parts as parts
import pytest
import torch
from fakes import SPECIAL, Scripted, peaked, shaken, tiny_model
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.sampling.loop import refine
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import Confidence
from imadarem.sampling.settings import SamplingSettings


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
