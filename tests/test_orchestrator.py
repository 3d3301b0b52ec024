"""The orchestrator as users see it: a training step, edits, inference, and what harms neither."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

import pytest
import torch
from fakes import shaken
from orchestrator_parts import (
    LENGTH,
    MASK,
    PAD,
    adam,
    assert_same,
    bank,
    episodes,
    frozen,
    learned,
    model,
    orchestrator,
)
from torch import Tensor

from imadarem.errors import ConfigError, DataError, TrainingError
from imadarem.orchestrator.batch import Question, canvas_of
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.orchestrator.unroll import Plan, StepOutput, UnrollState, unroll
from imadarem.sampling.halting import Halting
from imadarem.sampling.noise import RowNoise, row_seeds
from imadarem.sampling.trajectory import Trajectory

# ---------------------------------------------------------------- truncated backpropagation


def powers(w: Tensor, count: int) -> list[Tensor]:
    """w, w², …: each step's output from the one before."""
    outputs, x = [], torch.ones(())
    for _ in range(count):
        x = w * x
        outputs.append(x)
    return outputs


# The sum of w³ and w⁴ has the slope 3·4 + 4·8 = 44 at w = 2; w and w² have no part in it.
@pytest.mark.parametrize(
    ("settings", "slope"),
    [
        ({"backprop_truncate_steps": 2}, 44.0),
        ({"backprop_truncate_steps": 4}, 1.0 + 4.0 + 44.0),
        ({"backprop_truncate_steps": 9}, 1.0 + 4.0 + 44.0),
        ({"backprop_truncate_steps": 2, "truncated_backprop": False}, 1.0 + 4.0 + 44.0),
    ],
)
def test_only_the_last_outputs_have_a_gradient(settings: dict[str, Any], slope: float) -> None:
    w = torch.tensor(2.0, requires_grad=True)
    kept = orchestrator(**settings).apply_truncated_backprop(powers(w, 4))
    assert [float(x.detach()) for x in kept] == [2.0, 4.0, 8.0, 16.0]
    torch.stack(kept).sum().backward()
    assert w.grad is not None and float(w.grad) == slope


def test_the_settings_given_count_and_not_the_orchestrators() -> None:
    config = OrchestrationConfig(backprop_truncate_steps=1)
    w = torch.tensor(2.0, requires_grad=True)
    kept = orchestrator(truncated_backprop=False).apply_truncated_backprop(powers(w, 3), config)
    assert [x.requires_grad for x in kept] == [False, False, True]
    assert orchestrator().apply_truncated_backprop([]) == []


def test_outputs_of_an_unroll_are_detached_whole() -> None:
    over = orchestrator(unroll_mode="full")
    given = episodes(2)
    question = Question(canvas_of(given.inputs, over.model.special), given.labels)

    def everything(step: int, open: Tensor, written: Tensor, gate: Tensor) -> Tensor:
        return open | written

    plan = Plan.of(over.config, has_answers=True)
    taken = unroll(over.model, question, UnrollState(question.canvas.ids), plan, everything)
    outputs = [output for _, output in taken]
    kept = over.apply_truncated_backprop(outputs)

    def graphs(output: StepOutput) -> set[bool]:
        found = (output.log_probs, output.gate_logits, output.halt_logits, *output.state[1:])
        return {x.requires_grad for x in found if x is not None}

    # Eight steps, K = 3.
    assert [graphs(output) for output in kept] == [{False}] * 5 + [{True}] * 3
    assert [graphs(output) for output in outputs] == [{True}] * 8
    assert all(torch.equal(a.log_probs, b.log_probs) for a, b in zip(outputs, kept, strict=True))


# ---------------------------------------------------------------- steps that are not finite


class Poison:
    """Turns gradients, or the logits, of a model into NaN while switched on."""

    def __init__(self, over: UnifiedRefinerOrchestrator, where: str) -> None:
        self.on = False
        if where == "gradient":
            over.model.network.backbone.tokens.weight.register_hook(self._spoilt)
        else:
            over.model.network.backbone.to_logits.register_forward_hook(
                lambda *a: self._spoilt(a[-1])
            )

    def _spoilt(self, value: Tensor) -> Tensor:
        return value * float("nan") if self.on else value


def experienced(**settings: Any) -> tuple[UnifiedRefinerOrchestrator, torch.optim.Optimizer]:
    """Two steps into training, with a teacher, a filter and a memory."""
    over = orchestrator(model(memory=True), bank(), grok_fast=True, **settings)
    over.model.init_teacher()
    optimizer = adam(over)
    for seed in range(2):
        over.train_step(episodes(4, seed), optimizer, "copy")
    return over, optimizer


@pytest.mark.parametrize("where", ["gradient", "loss"])
@pytest.mark.parametrize("mode", ["window", "last_k", "full", "carry"])
def test_a_step_that_is_not_finite_is_skipped_and_changes_nothing(mode: str, where: str) -> None:
    over, optimizer = experienced(unroll_mode=mode)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    poison = Poison(over, where)
    before = frozen(learned(over, optimizer)), frozen(scheduler.state_dict())
    losses, norms = over.recent_losses, over.gradient_norms

    poison.on = True
    info = over.train_step(episodes(4, 7), optimizer, "copy", scheduler)
    assert info["skipped"] and info["gradient_norm"] is None and info["memory_written"] == 0
    assert_same(before[0], learned(over, optimizer))
    assert frozen(scheduler.state_dict()) == before[1]
    assert (over.recent_losses, over.gradient_norms) == (losses, norms)
    assert over.step_count == 3 and over.get_stability()["skipped_steps"] == 1
    assert all(parameter.grad is None for parameter in over.model.parameters())

    poison.on = False
    info = over.train_step(episodes(4, 8), optimizer, "copy", scheduler)
    assert not info["skipped"] and info["gradient_norm"] > 0
    assert all(bool(torch.isfinite(value).all()) for value in over.model.state_dict().values())


def test_a_skipped_step_in_half_precision_lowers_the_scale_and_nothing_else() -> None:
    over, optimizer = experienced(mixed_precision="fp16")
    poison = Poison(over, "gradient")
    before, scale = frozen(learned(over, optimizer)), over.checkpoint()["scaler"]["scale"]
    poison.on = True
    assert over.train_step(episodes(4, 7), optimizer, "copy")["skipped"]
    assert_same(before, learned(over, optimizer))
    assert over.checkpoint()["scaler"]["scale"] == scale / 2


def test_training_gives_up_after_twenty_skipped_steps_in_a_row() -> None:
    over, optimizer = experienced(unroll_mode="carry")
    poison = Poison(over, "gradient")
    before = frozen(learned(over, optimizer))

    def skip(count: int) -> None:
        poison.on = True
        for _ in range(count):
            assert over.train_step(episodes(4, 7), optimizer, "copy")["skipped"]
        poison.on = False

    skip(19)
    assert_same(before, learned(over, optimizer))
    # A good step starts the count anew.
    assert not over.train_step(episodes(4, 8), optimizer, "copy")["skipped"]
    before = frozen(learned(over, optimizer))
    skip(19)
    poison.on = True
    with pytest.raises(TrainingError, match="20 steps in a row.*learning rate"):
        over.train_step(episodes(4, 9), optimizer, "copy")
    assert_same(before, learned(over, optimizer))
    assert over.get_stability()["skipped_steps"] == 39


# ---------------------------------------------------------------- what a training step tells


def test_the_smoothed_loss_is_the_mean_of_the_last_three() -> None:
    over = orchestrator(unroll_mode="carry")
    optimizer = adam(over)
    infos = [over.train_step(episodes(4, seed), optimizer, "copy") for seed in range(5)]
    losses = [info["loss"] for info in infos]
    assert over.recent_losses == losses
    for step in range(5):
        assert infos[step]["smoothed_loss"] == pytest.approx(fmean(losses[: step + 1][-3:]))
    assert over.get_stability()["smoothed_loss"] == infos[-1]["smoothed_loss"]


def test_the_loss_is_the_sum_of_its_weighted_terms() -> None:
    over = orchestrator(step_loss_weights={"gate": 0.25, "halt": 2.0})
    info = over.train_step(episodes(4), adam(over), "copy")
    parts = 1.0 * info["token_loss"] + 0.25 * info["gate_loss"] + 2.0 * info["halt_loss"]
    assert info["loss"] == pytest.approx(parts, rel=1e-5)
    # Linear weights: step s has the share s / 36 of eight steps.
    shares = [step / 36 for step in range(1, 9)]
    token = sum(w * loss for w, loss in zip(shares, info["step_losses"], strict=True))
    assert info["token_loss"] == pytest.approx(token, rel=1e-5)


def test_a_refused_batch_leaves_training_as_it_was() -> None:
    over, optimizer = experienced()
    before = frozen(learned(over, optimizer))
    with pytest.raises(DataError):
        over.train_step({"input_ids": episodes(2).inputs}, optimizer, "copy")
    assert_same(before, learned(over, optimizer))
    assert over.step_count == 2


# ---------------------------------------------------------------- edits

SOME, NONE = torch.tensor([0.5, 0.2]), torch.zeros(2)


def taught(best: str, refiner: Any = None, **settings: Any) -> UnifiedRefinerOrchestrator:
    """One whose bandit has seen ``best`` pay and the others not."""
    over = orchestrator(refiner, **settings)
    for step in (1, 2, 4, 8):
        for _ in range(60):
            for arm in over.config.canvas_edit_strategies:
                over.bandit.update("copy", step, arm, 0.9 if arm == best else 0.0)
    return over


def chosen(over: UnifiedRefinerOrchestrator, scores: Any) -> set[str]:
    return {
        over.select_edit_strategy(step, scores, "copy") for step in range(1, 17) for _ in range(5)
    }


@pytest.mark.parametrize("best", ["replace", "patch", "append"])
def test_the_edit_that_pays_is_chosen(best: str) -> None:
    over = taught(best, model(length_mode="eos"))
    assert chosen(over, SOME) == {best}
    # Another task knows nothing of it.
    others = {over.select_edit_strategy(2, SOME, "other") for _ in range(60)}
    assert others == {"replace", "patch", "append"}


@pytest.mark.parametrize("nothing", [None, NONE, [0.0, 0.0]])
def test_nothing_is_patched_where_nothing_is_written(nothing: Any) -> None:
    over = taught("patch")
    assert "patch" not in chosen(over, nothing)
    assert chosen(over, SOME) == chosen(over, [0.0, 0.1]) == {"patch"}
    assert chosen(orchestrator(canvas_edit_strategies=["patch"]), nothing) == {"patch"}


def test_nothing_is_appended_where_the_length_is_drawn() -> None:
    over = taught("append")
    assert over.available_edits() == ("replace", "patch")
    assert "append" not in chosen(over, SOME) | chosen(over, None)


def test_nothing_is_patched_without_a_gate() -> None:
    over = taught("patch", model(length_mode="eos", use_refine_gate=False))
    assert "patch" not in chosen(over, SOME)


def test_without_adaptive_selection_the_edit_is_fixed() -> None:
    fixed = {"adaptive_edit_selection": False}
    assert chosen(taught("patch", **fixed), SOME) == {"replace"}
    over = taught(
        "append", model(length_mode="eos"), canvas_edit_strategies=["patch", "append"], **fixed
    )
    assert chosen(over, SOME) == {"patch"}
    assert chosen(over, None) == {"append"}
    before = over.bandit.state_dict()
    over.train_step(episodes(2), adam(over), "copy")
    assert over.bandit.state_dict() == before


def test_edits_that_cannot_be_made_are_refused() -> None:
    over = orchestrator(canvas_edit_strategies=["append"])
    with pytest.raises(ConfigError, match="length of this canvas is fixed"):
        over.select_edit_strategy(1, None, "copy")


# ---------------------------------------------------------------- inference changes nothing


def test_questions_without_a_sure_answer_get_further_candidates() -> None:
    def third(inputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        return answers.sum(dim=1) % 3 == 0

    over = orchestrator(model(3)).eval()
    over.register("third", verify=third)
    ids = episodes(12, seed=5).inputs
    how = {"task_type": "third", "max_steps_override": 2, "temperature": 1.0}
    once = over.inference(ids, **how)
    wide = over.inference(ids, **how, width=30)
    sure = [reason in ("verified", "confidence") for reason in once["stopping_reason"]]
    assert not all(sure)
    assert wide["candidates"] == [1 if known else 30 for known in sure]
    passes = zip(once["forward_passes"], wide["forward_passes"], sure, strict=True)
    assert all(a == b if known else b >= a + 29 for a, b, known in passes)
    verified = [reason == "verified" for reason in wide["stopping_reason"]]
    assert sum(verified) > sum(sure)
    assert third(ids, wide["output_ids"]).tolist() == verified
    parts = over.inference(ids, **how, width=30, batch_size=7)
    assert parts["output_ids"].tolist() == wide["output_ids"].tolist()


def test_noise_in_the_states_belongs_to_the_row_and_changes_it() -> None:
    seeds = row_seeds(5, 3)
    noise = RowNoise(seeds, step=2).of_states((7, 11))
    assert noise.shape == (5, 7, 11)
    assert torch.equal(RowNoise(seeds[3:4], step=2).of_states((7, 11))[0], noise[3])
    many = RowNoise(row_seeds(500, 0), step=1).of_states((8, 10))
    # Four standard errors of 40,000 standard normal numbers.
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.0142


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("votes", [1, 3])
def test_inference_leaves_training_as_it_was(mode: bool, votes: int) -> None:
    over, optimizer = experienced(unroll_mode="carry")
    over.train(mode)
    before, random = frozen(learned(over, optimizer)), torch.get_rng_state()
    over.inference(episodes(3).inputs, task_type="copy", votes=votes, temperature=1.0)
    assert_same(before, learned(over, optimizer))
    assert torch.equal(torch.get_rng_state(), random)
    assert (over.training, over.model.training, over.bandit.frozen) == (mode, mode, not mode)


def test_a_failed_inference_leaves_the_mode_as_it_was() -> None:
    def fails(inputs: Tensor, answers: Tensor) -> Tensor:
        raise RuntimeError("no verdict")

    over = orchestrator()
    with pytest.raises(RuntimeError, match="no verdict"):
        over.inference(episodes(2).inputs, halting=Halting(verify=fails))
    assert over.model.training and not over.bandit.frozen


def test_training_with_inference_in_between_is_the_same_training() -> None:
    ends = []
    for looks in (False, True):
        over, optimizer = experienced()
        if looks:
            over.inference(episodes(3).inputs, task_type="copy", temperature=1.0)
            over.averaged().inference(episodes(3).inputs, task_type="copy")
        over.train_step(episodes(4, 5), optimizer, "copy")
        ends.append(frozen(learned(over, optimizer)))
    assert_same(*ends)


# ---------------------------------------------------------------- what inference returns

PER_ROW = [
    "steps_taken", "stopping_reason", "final_canvas_scores", "halt_confidence",
    "forward_passes", "candidates", "edits", "texts", "votes",
]  # fmt: skip
NEVER = Halting()


def runner(**settings: Any) -> UnifiedRefinerOrchestrator:
    """Over a model with noise on its weights, so that rows differ; no row settles early."""
    given = {"canvas_edit_strategies": ["replace"], **settings}
    return orchestrator(shaken(model()), **given).eval()


def test_the_result_has_one_entry_per_row_of_every_kind() -> None:
    result = runner().inference(episodes(3).inputs, task_type="copy")
    others = ["output_ids", "traces", "edit_strategy_performance", "memory_stats"]
    assert sorted(result) == sorted(PER_ROW + others)
    kinds = (int, str, float, float, int, int, list, str, int)
    for name, kind in zip(PER_ROW, kinds, strict=True):
        assert [type(entry) for entry in result[name]] == [kind] * 3, name
    assert result["traces"] is None and result["memory_stats"] == {}
    outputs = result["output_ids"]
    assert outputs.shape == (3, LENGTH) and outputs.dtype == torch.int64
    assert torch.equal(outputs[:, :4], episodes(3).inputs[:, :4])
    assert not bool((outputs == MASK).any())
    for row in range(3):
        steps = result["steps_taken"][row]
        assert result["forward_passes"][row] == steps <= 4
        assert result["edits"][row] == ["replace"] * steps
        assert 0 < result["final_canvas_scores"][row] <= 1
        assert 0 < result["halt_confidence"][row] < 1


def same_results(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert torch.equal(one["output_ids"], other["output_ids"])
    for name in PER_ROW:
        if name in ("final_canvas_scores", "halt_confidence"):
            # Sums over a batch of another size are rounded otherwise.
            assert one[name] == pytest.approx(other[name], abs=1e-5), name
        else:
            assert one[name] == other[name], name


def test_one_canvas_may_come_without_its_batch() -> None:
    over, row = runner(), episodes(1).inputs[0]
    whole = over.inference(row[None], task_type="copy")
    assert whole["output_ids"].shape == (1, LENGTH)
    for form in (row, row.tolist(), row.int()):
        same_results(over.inference(form, task_type="copy"), whole)


def test_an_attention_mask_says_what_is_padding() -> None:
    over, ids = runner(), episodes(2).inputs
    seen = torch.ones_like(ids)
    seen[0, 6:] = 0
    padded = ids.masked_fill(seen == 0, PAD)
    masked = over.inference(ids, attention_mask=seen)
    same_results(masked, over.inference(padded))
    assert masked["output_ids"][0, 6:].tolist() == [PAD, PAD]
    # What lies under a zero is not read.
    other = ids.clone()
    other[0, 6:] = 5
    same_results(masked, over.inference(other, attention_mask=seen))
    single = over.inference(ids[0], attention_mask=seen[0])
    assert torch.equal(single["output_ids"][0], masked["output_ids"][0])


def test_padding_may_stand_in_front() -> None:
    ids = torch.tensor([[PAD, PAD, 3, 4, MASK, MASK], [3, 4, 5, 6, MASK, MASK]])
    result = runner().inference(ids, return_traces=True)
    outputs = result["output_ids"]
    assert torch.equal(outputs[:, :4], ids[:, :4])
    assert not bool((outputs[:, 4:] <= MASK).any())
    trace = result["traces"][0]
    assert trace.start == ["", "", "a", "b", "[MASK]", "[MASK]"]
    assert trace.given == [False, False, True, True, False, False]
    assert trace.steps[-1].ids == outputs[0].tolist()
    assert [len(trace.steps[0].gate), len(trace.steps[0].refined)] == [6, 6]


def test_a_row_without_a_blank_takes_no_step() -> None:
    ids = episodes(3).inputs
    ids[1] = 4
    result = runner().inference(ids, return_traces=True, votes=2, task_type="copy")
    entries = {name: result[name][1] for name in PER_ROW}
    assert entries == {
        "steps_taken": 0,
        "stopping_reason": "filled",
        "final_canvas_scores": None,
        "halt_confidence": None,
        "forward_passes": 0,
        "candidates": 1,
        "edits": [],
        "texts": "b" * LENGTH,
        "votes": 2,
    }
    assert torch.equal(result["output_ids"][1], ids[1])
    assert result["traces"][1].steps == []
    assert result["steps_taken"][0] > 0


def test_no_row_with_a_blank_is_no_error() -> None:
    result = runner().inference(episodes(2).labels)
    assert result["steps_taken"] == [0, 0]
    assert torch.equal(result["output_ids"], episodes(2).labels)


def test_traces_end_in_the_result() -> None:
    result = runner().inference(episodes(3).inputs, task_type="copy", return_traces=True)
    traces = result["traces"]
    assert isinstance(traces, Trajectory) and len(traces) == 3
    for row, trace in enumerate(traces):
        assert len(trace.steps) == result["steps_taken"][row]
        assert trace.steps[-1].ids == result["output_ids"][row].tolist()
        assert trace.steps[-1].quality == result["final_canvas_scores"][row]
        assert trace.steps[-1].halt == result["halt_confidence"][row]
        assert trace.stopping_reason == result["stopping_reason"][row]
        assert [step.edit for step in trace.steps] == result["edits"][row]
        assert trace.text == result["texts"][row]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_batch_size_changes_no_row(batch_size: int) -> None:
    ids = episodes(5).inputs
    ids[1, 6:], ids[3, 3:] = PAD, PAD
    ids[3, 2] = MASK
    over = runner(canvas_edit_strategies=["replace", "patch"], quality_threshold=0.6, patience=2)
    whole = over.inference(ids, task_type="copy", temperature=0.7, max_steps_override=6)
    parts = over.inference(
        ids, task_type="copy", temperature=0.7, max_steps_override=6, batch_size=batch_size
    )
    same_results(whole, parts)
    # Rows stop of their own accord, or the test says little.
    assert len(set(whole["steps_taken"])) > 1


def always(inputs: Tensor, answers: Tensor) -> Tensor:
    return torch.ones(len(answers), dtype=torch.bool)


# Every threshold of 0 is met at once, so the order of the rules alone decides.
@pytest.mark.parametrize(
    ("halting", "reason", "steps"),
    [
        (Halting(verify=always, confidence=0.0, quality=0.0, patience=1), "verified", 1),
        (Halting(confidence=0.0, quality=0.0, patience=1), "confidence", 1),
        (Halting(quality=0.0, patience=1), "quality", 1),
        (NEVER, "max_steps", 4),
    ],
)
def test_the_first_rule_that_holds_is_the_reason(halting: Any, reason: str, steps: int) -> None:
    result = runner().inference(episodes(2).inputs, halting=halting)
    assert result["stopping_reason"] == [reason] * 2
    assert result["steps_taken"] == [steps] * 2


def test_the_tasks_own_check_and_the_settings_are_the_rules() -> None:
    over = runner(halt_confidence=None, quality_threshold=None, patience=None)
    over.register("sure", verify=always)
    ids = episodes(2).inputs
    assert over.inference(ids, task_type="sure")["stopping_reason"] == ["verified"] * 2
    assert over.inference(ids)["steps_taken"] == [4, 4]
    longer = over.inference(ids, max_steps_override=7)
    assert (longer["steps_taken"], longer["stopping_reason"]) == ([7, 7], ["max_steps"] * 2)
    unsure = runner(quality_threshold=0.0)
    assert unsure.inference(ids)["stopping_reason"] == ["quality"] * 2


def test_a_vote_costs_the_passes_of_all_forms() -> None:
    over, ids = runner(), episodes(2).inputs
    once = over.inference(ids, halting=NEVER, task_type="copy")
    voted = over.inference(ids, halting=NEVER, task_type="copy", votes=3, return_traces=True)
    # Three forms of four steps each.
    assert voted["forward_passes"] == [12, 12]
    assert voted["steps_taken"] == [4, 4] and len(voted["traces"]) == 2
    assert all(1 <= votes <= 3 for votes in voted["votes"])
    assert [len(trace.steps) for trace in voted["traces"]] == [4, 4]
    # 4! names of the letters, and no more.
    assert over.inference(ids, halting=NEVER, task_type="copy", votes=50)["forward_passes"] == [
        4 * 24, 4 * 24,
    ]  # fmt: skip
    # A task without a symmetry has one form.
    alone = over.inference(ids, halting=NEVER, votes=3)
    assert alone["forward_passes"] == [4, 4] and alone["votes"] == [1, 1]
    assert torch.equal(alone["output_ids"], once["output_ids"])


def test_draws_follow_from_the_seed() -> None:
    over, ids = runner(), episodes(4).inputs

    def drawn(**given: Any) -> list[list[int]]:
        return over.inference(ids, halting=NEVER, **given)["output_ids"].tolist()

    assert drawn(temperature=2.0, seed=1) == drawn(temperature=2.0, seed=1)
    assert drawn(temperature=2.0, seed=1) != drawn(temperature=2.0, seed=2)
    assert drawn(seed=1) == drawn(seed=2)


LETTER = torch.full((1, 4), 3)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.rand(2, 3), "whole numbers"),
        (torch.zeros(0, 3, dtype=torch.long), "L ≥ 1"),
        (torch.zeros(1, 2, 3, dtype=torch.long), "must be"),
        ([], "L ≥ 1"),
        (torch.full((1, LENGTH + 1), 3), f"max_seq_len={LENGTH}"),
        (torch.full((1, 4), 99), "ids from 99 to 99; legal are 0 to 6"),
        (torch.full((1, 4), -1), "ids from -1"),
    ],
)
def test_ids_that_cannot_be_used_are_refused(ids: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        orchestrator().inference(ids)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_steps_override": 0}, ConfigError, "steps=0"),
        ({"votes": 0}, ConfigError, "votes=0"),
        ({"width": 2, "votes": 2}, ConfigError, "width=2 puts noise into the carry"),
        ({"votes": 2, "vote_by": "cuont"}, ConfigError, 'did you mean "count"'),
        ({"batch_size": 0}, ConfigError, "batch_size=0"),
        ({"temperature": -1.0}, ConfigError, "temperature=-1.0"),
        ({"temperature": float("nan")}, ConfigError, "temperature=nan"),
        ({"attention_mask": torch.ones(1, 3)}, DataError, "attention_mask"),
    ],
)
def test_arguments_out_of_range_are_refused(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        orchestrator().inference(LETTER, **given)


# ---------------------------------------------------------------- what is refused at the start


def test_a_model_that_lacks_what_the_settings_need_is_refused() -> None:
    with pytest.raises(ConfigError, match="carry=True"):
        orchestrator(model(carry=False, self_conditioning=False), unroll_mode="carry")


def test_a_memory_that_nobody_reads_is_told() -> None:
    with pytest.warns(UserWarning, match="written to and never read"):
        orchestrator(model(), bank())


@pytest.mark.parametrize(
    "batch", [lambda: episodes(2), lambda: episodes(2).labels], ids=["answers", "text"]
)
@pytest.mark.parametrize("mode", ["full", "window", "last_k", "carry"])
def test_every_mode_trains_on_answers_and_on_plain_data(
    mode: str, batch: Callable[[], Any]
) -> None:
    over = orchestrator(unroll_mode=mode)
    info = over.train_step(batch(), adam(over), "copy")
    assert not info["skipped"] and info["loss"] > 0
    assert len(info["step_losses"]) == len(info["edits"]) == (1 if mode == "carry" else 8)
