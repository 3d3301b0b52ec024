"""The founding document of the orchestrator, word for word: its examples, names and defaults."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orchestrator_parts as parts
import pytest
import torch

from imadarem import OrchestrationConfig, UnifiedRefinerOrchestrator
from imadarem.orchestrator.memory import MemoryBank

TRAINING = """\
# Create orchestrator with enhanced config
config = OrchestrationConfig(
    max_steps_train=16,
    max_steps_infer=4,
    truncated_backprop=True,
    augmentation_count=300,
    adaptive_edit_selection=True
)

orchestrator = UnifiedRefinerOrchestrator(model, tokenizer, memory_bank, config)

# Train with full train-many paradigm
orchestrator.train()
loss_info = orchestrator.train_step(batch, optimizer, task_type="text")

# Monitor training progress
stats = orchestrator.get_training_stats()
print(f"Gradient norm: {stats['gradient_norm']['recent']}")
print(f"Edit strategies: {stats['edit_strategy_performance']}")
"""

INFERENCE = """\
# Switch to inference mode (infer-few)
orchestrator.eval()

# Run inference with enhanced stopping criteria
result = orchestrator.inference(
    input_ids,
    return_traces=True,
    max_steps_override=6
)

print(f"Steps taken: {result['steps_taken']}")
print(f"Stopping reason: {result['stopping_reason']}")
print(f"Final quality: {result['final_canvas_scores']}")
"""

#: Parameters that the document names with a value, and the values.
DEFAULTS = {
    "max_steps_train": 16,
    "max_steps_infer": 4,
    "truncated_backprop": True,
    "backprop_truncate_steps": 8,
    "step_loss_weights": {"token": 1.0, "gate": 0.5, "halt": 0.5, "memory": 0.0},
    "gradient_clip_threshold": 1.0,
    "loss_smoothing_window": 3,
    "augmentation_strategies": [
        "token_noise", "position_shift", "masking", "paraphrase", "format_variation",
    ],
    "augmentation_count": 300,
    "canvas_edit_strategies": ["append", "replace", "patch"],
    "adaptive_edit_selection": True,
}  # fmt: skip

Namespace = dict[str, Any]


def namespace(batch: Callable[[], Any]) -> Namespace:
    """What the examples take for granted."""
    model = parts.model(length_mode="eos", memory=True)
    return {
        "OrchestrationConfig": OrchestrationConfig,
        "UnifiedRefinerOrchestrator": UnifiedRefinerOrchestrator,
        "model": model,
        "tokenizer": parts.TOKENIZER,
        "memory_bank": parts.bank(),
        "batch": batch(),
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "input_ids": torch.tensor([[3, 4, 5, 6, 1, 1, 1, 1], [3, 3, 1, 1, 1, 1, 0, 0]]),
    }


def plain_text() -> torch.Tensor:
    return parts.episodes(3).labels


def with_answers() -> dict[str, torch.Tensor]:
    given = parts.episodes(3)
    return {"input_ids": given.inputs, "labels": given.labels}


@pytest.mark.parametrize("batch", [plain_text, with_answers])
def test_the_examples_run_as_they_are_written(
    batch: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    names = namespace(batch)
    before = {name: value.clone() for name, value in names["model"].state_dict().items()}
    exec(TRAINING, names)
    norm, edits = capsys.readouterr().out.splitlines()
    assert norm == f"Gradient norm: {names['loss_info']['gradient_norm']}"
    assert names["loss_info"]["gradient_norm"] > 0
    assert edits == f"Edit strategies: {names['orchestrator'].edit_performance}"
    # Steps 1 to 16 lie in four buckets, and every step has pulled one arm.
    told = names["stats"]["edit_strategy_performance"]["text"]
    pulls = {steps: sum(arm["pulls"] for arm in arms.values()) for steps, arms in told.items()}
    assert pulls == {"1": 1, "2-3": 2, "4-7": 4, "8+": 9}
    after = names["model"].state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)

    exec(INFERENCE, names)
    result = names["result"]
    assert capsys.readouterr().out.splitlines() == [
        f"Steps taken: {result['steps_taken']}",
        f"Stopping reason: {result['stopping_reason']}",
        f"Final quality: {result['final_canvas_scores']}",
    ]
    assert len(result["steps_taken"]) == len(result["traces"]) == 2
    assert all(1 <= steps <= 6 for steps in result["steps_taken"])
    assert not bool((result["output_ids"] == parts.MASK).any())


def test_every_parameter_of_the_document_is_there_with_its_default() -> None:
    fields = [field.name for field in dataclasses.fields(OrchestrationConfig)]
    assert fields[: len(DEFAULTS)] == list(DEFAULTS)
    config = OrchestrationConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


def test_the_statistics_have_the_documents_keys_before_and_after_training() -> None:
    over = parts.orchestrator()
    keys = [
        "step_count", "training_mode", "gradient_norm", "loss", "edit_strategy_performance",
        "memory_stats", "config",
    ]  # fmt: skip
    stats = over.get_training_stats()
    assert list(stats) == keys
    nothing = {"recent": None, "average": None, "history_length": 0}
    assert stats["gradient_norm"] == stats["loss"] == nothing
    assert (stats["step_count"], stats["training_mode"], stats["memory_stats"]) == (0, True, {})

    optimizer = parts.adam(over)
    infos = [over.train_step(parts.episodes(2), optimizer, task_type="copy") for _ in range(2)]
    stats = over.eval().get_training_stats()
    assert list(stats) == keys
    assert (stats["step_count"], stats["training_mode"]) == (2, False)
    losses, norms = ([info[key] for info in infos] for key in ("loss", "gradient_norm"))
    for key, values in (("loss", losses), ("gradient_norm", norms)):
        assert stats[key] == {
            "recent": values[1],
            "average": pytest.approx(sum(values) / 2),
            "history_length": 2,
        }
    assert stats["config"]["max_steps_infer"] == 4


def test_memory_statistics_are_those_of_the_bank() -> None:
    memory = parts.bank()
    over = parts.orchestrator(parts.model(memory=True), memory)
    assert over.get_training_stats()["memory_stats"] == memory.get_stats()


def test_a_checkpoint_has_the_documents_keys() -> None:
    memory = parts.bank()
    over = parts.orchestrator(parts.model(memory=True), memory, grok_fast=True)
    optimizer = parts.adam(over)
    for _ in range(2):
        over.train_step(parts.episodes(2), optimizer, task_type="copy")
    checkpoint = over.checkpoint()
    keys = [
        "model_state", "config", "step_count", "memory_bank_stats", "recent_losses",
        "gradient_norms", "edit_performance", "grok_fast_state",
    ]  # fmt: skip
    assert list(checkpoint)[: len(keys)] == keys
    assert checkpoint["model_state"].keys() == over.model.state_dict().keys()
    assert checkpoint["config"] == vars(over.config)
    assert checkpoint["step_count"] == 2
    assert checkpoint["memory_bank_stats"] == memory.get_stats()
    assert checkpoint["recent_losses"] == over.recent_losses
    assert len(checkpoint["recent_losses"]) == len(checkpoint["gradient_norms"]) == 2
    assert checkpoint["edit_performance"] == over.edit_performance
    assert set(checkpoint["grok_fast_state"]["means"]) <= set(checkpoint["model_state"])


def test_a_checkpoint_keeps_the_last_hundred_gradient_norms() -> None:
    over = parts.orchestrator()
    for step in range(103):
        over.record.good_step(loss=1.0, norm=float(step))
    assert over.checkpoint()["gradient_norms"] == [float(step) for step in range(3, 103)]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("select_edit_strategy", ["self", "step", "canvas_scores", "task_type"]),
        ("apply_truncated_backprop", ["self", "step_outputs", "config"]),
        ("get_training_stats", ["self"]),
    ],
)
def test_methods_take_the_documents_arguments(method: str, arguments: list[str]) -> None:
    signature = inspect.signature(getattr(UnifiedRefinerOrchestrator, method))
    assert list(signature.parameters) == arguments


def test_three_ids_and_a_bank_without_settings_are_enough_and_the_result_says_what_was_not_done():
    bare = SimpleNamespace(mask_token_id=1, pad_token_id=0, eos_token_id=2)
    model = parts.model(length_mode="eos", memory=True)
    config = OrchestrationConfig()
    over = UnifiedRefinerOrchestrator(model, bare, MemoryBank(), config)
    assert over.memory_bank.vocab_size == model.config.vocab_size
    over.train()
    info = over.train_step(torch.randint(3, 7, (4, 6)), parts.adam(over), task_type="text")
    left_out = info["augmentations_left_out"]
    assert left_out.keys() == {"position_shift", "paraphrase", "format_variation"}
    assert "convert_ids_to_tokens" in left_out["format_variation"]
    # The same in a model of drawn lengths, whose rows have no padding to move into.
    config = OrchestrationConfig(augmentation_strategies=["position_shift"])
    over = UnifiedRefinerOrchestrator(parts.model(), bare, None, config).train()
    shifts = over.train_step(torch.randint(3, 7, (4, 6)), parts.adam(over), task_type="text")
    assert "no padding" in shifts["augmentations_left_out"]["position_shift"]
    # Plain data: half of the loss for the first step, the rest growing with the steps.
    weights = info["step_weights"]
    assert weights[0] == 0.5 and weights[1:] == sorted(weights[1:])
    assert info["graph_cuts"] == [8]
