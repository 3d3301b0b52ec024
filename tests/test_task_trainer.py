"""The trainer over a task: it learns, keeps a run folder, and goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from orchestrator_parts import (
    LENGTH,
    PAD,
    assert_same,
    bank,
    copy_task,
    episodes,
    frozen,
    learned,
    model,
    orchestrator,
)

from imadarem.data.sudoku import sudoku_task
from imadarem.data.tasks import Episodes
from imadarem.errors import CheckpointError, ConfigError
from imadarem.model import ImplicitRefinementModel
from imadarem.orchestrator.accuracy import record_steps
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.orchestrator.training import UnrolledTraining, by_length
from imadarem.training.trainer import Evaluated, Progress, Trainer, TrainingConfig


def settings(**given: Any) -> TrainingConfig:
    base = {
        "steps": 6, "batch_size": 8, "warmup_steps": 2, "log_every": 2, "eval_every": 3,
        "save_every": 3, "valid_rows": 6, "learning_rate": 2e-3, "schedule": "wsd",
    }  # fmt: skip
    return TrainingConfig(**{**base, **given})


def trainer(run: Path, config: TrainingConfig | None = None, seed: int = 0, **more: Any) -> Trainer:
    over = orchestrator(model(seed, memory=True), bank(size=16), **more)
    return Trainer(UnrolledTraining(over, copy_task()), config or settings(), run, device="cpu")


def of(made: Trainer) -> UnifiedRefinerOrchestrator:
    """The orchestrator that a trainer trains."""
    assert isinstance(made.objective, UnrolledTraining)
    return made.objective.orchestrator


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


# ---------------------------------------------------------------- it learns


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:max_steps_train=4")
def test_a_model_learns_sudoku_and_knows_when_it_is_right(tmp_path: Path) -> None:
    task = sudoku_task(sizes=4, n=400, valid=100, cache_dir=tmp_path / "cache")
    torch.manual_seed(0)
    over = UnifiedRefinerOrchestrator(
        ImplicitRefinementModel(sudoku_model(task), task.tokenizer),
        task.tokenizer,
        None,
        OrchestrationConfig(
            max_steps_train=4,
            backprop_truncate_steps=2,
            step_weighting="uniform",
            canvas_edit_strategies=["replace"],
        ),
    )
    config = TrainingConfig(
        steps=LEARNING_STEPS,
        batch_size=24,
        learning_rate=6e-3,
        optimizer="muon",
        schedule="wsd",
        gate_lr_scale=1.0,
        warmup_steps=10,
        eval_every=10_000,
        save_every=10_000,
        valid_rows=100,
    )
    made = Trainer(UnrolledTraining(over, task), config, tmp_path / "run", device="cpu")
    before = record_steps(over, task.valid, 8, "sudoku").exact([8])[8]
    found = made.run().last
    assert before < 0.05
    assert found.exact[16][4] > 0.8
    # What is printed is what the saved model does, and more steps than in training do as well.
    model = ImplicitRefinementModel.from_pretrained(tmp_path / "run" / "model")
    saved = UnifiedRefinerOrchestrator(model, task.tokenizer, None, over.config).eval()
    assert record_steps(saved, task.valid, 4, "sudoku").exact([1, 2, 4]) == found.exact[16]
    record = record_steps(saved, task.valid, 8, "sudoku")
    assert record.exact([8])[8] >= 0.9 * found.exact[16][4]
    # So early in training it takes 0.98 for the head to be right nearly always.
    halted = record.halted(0.98, 8)
    assert halted.halted_wrong <= 0.03
    assert halted.accuracy >= halted.fixed_accuracy - 0.03
    # It stops rows early all the same: a head that never halts takes eight steps.
    assert halted.mean_steps < 5


LEARNING_STEPS = 100


def sudoku_model(task: Any) -> Any:
    from imadarem.config import ImplicitRefinementConfig

    return ImplicitRefinementConfig(
        vocab_size=len(task.tokenizer),
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=64,
        max_seq_len=16,
        dropout=0.0,
        positions=False,
        attention=False,
        relations=task.relations,
        inner_steps=2,
        carry=True,
        halting=True,
        length_mode="drawn",
        ema_decay=0.95,
    )


# ---------------------------------------------------------------- the run folder


def test_a_run_folder_tells_what_was_done(tmp_path: Path) -> None:
    events: list[Any] = []
    made = trainer(tmp_path)
    made.on_event = events.append
    last = made.run().last
    assert {path.name for path in tmp_path.iterdir()} >= {
        "run.json", "metrics.jsonl", "checkpoints", "model",
    }  # fmt: skip
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["task"] == "copy" and run["episodes"] == {"train": 64, "valid": 16}
    assert run["training"]["steps"] == 6 and run["orchestration"]["max_steps_train"] == 8
    assert run["model"]["hidden_size"] == 16 and run["processes"] == 1
    assert run["versions"]["torch"] == torch.__version__
    student = made.model.student_parameters()
    assert run["parameters"] == sum(parameter.numel() for parameter in student)

    assert [record["step"] for record in records(tmp_path, "train")] == [2, 4, 6]
    valid = records(tmp_path, "valid")
    assert [record["step"] for record in valid] == [3, 6]
    assert [type(event) for event in events] == [
        Progress, Evaluated, Progress, Progress, Evaluated,
    ]  # fmt: skip
    assert last == events[-1].figures and events[-1].step == 6
    # Rows of eight positions, at the usual numbers of steps up to the eight of the training.
    assert list(last.exact) == [LENGTH] and list(last.exact[LENGTH]) == [1, 2, 4, 6, 8]
    for step, share in last.exact[LENGTH].items():
        assert valid[-1][f"exact_{LENGTH}_at_{step}"] == share
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000003", "step-00000006"]


def test_the_saved_model_has_the_averaged_weights(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.run()
    saved = ImplicitRefinementModel.from_pretrained(tmp_path / "model")
    averaged = made.model.averaged().state_dict()
    assert_same(saved.state_dict(), averaged)
    student = made.model.state_dict()
    assert any(not torch.equal(student[name], averaged[name]) for name in averaged)


def test_the_learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    trainer(tmp_path, settings(log_every=1, learning_rate=0.01)).run()
    rates = [record["learning_rate"] for record in records(tmp_path, "train")]
    # Half at the first of two warm-up steps; the last fifth of six steps falls to the floor:
    # (6 - 5) / (0.2 * 6) = 0.83.
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.01, 0.01 / 1.2])


# ---------------------------------------------------------------- going on


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["window", "carry"])
def test_a_run_that_was_asked_to_stop_ends_as_a_straight_one(tmp_path: Path, mode: str) -> None:
    more = {"unroll_mode": mode, "grok_fast": True}
    straight = trainer(tmp_path / "straight", **more)
    straight.run()

    stopped = trainer(tmp_path / "parts", **more)
    stopped.on_event = lambda event: stopped.request_stop() if event.step == 4 else None
    assert stopped.run().step == 4
    assert stopped.step == 4

    resumed = trainer(tmp_path / "parts", seed=5, **more)
    assert resumed.resume() == 4
    last = resumed.run()
    assert last.step == 6
    ends = [learned(of(made), made.optimizer) for made in (straight, resumed)]
    assert_same(*ends)
    assert last.last.exact == straight.objective.validate()[0].exact  # type: ignore[attr-defined]


def test_a_run_that_was_asked_to_stop_is_not_validated(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.on_event = lambda event: made.request_stop() if event.step == 4 else None
    result = made.run()
    assert (result.finished, result.last) == (False, None)
    assert [record["step"] for record in records(tmp_path, "valid")] == [3]


def test_a_setting_that_the_orchestrator_has_itself_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="gradient_clip=0.5 has no effect.*threshold=1.0 counts"):
        trainer(tmp_path, settings(gradient_clip=0.5))
    trainer(tmp_path, settings(gradient_clip=0.5), gradient_clip_threshold=0.5)


def test_a_stop_before_the_first_step_saves_the_start(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.request_stop()
    assert made.run().step == 0
    assert trainer(tmp_path, seed=5).resume() == 0


def test_a_validation_changes_nothing_that_training_follows_from(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    batch = episodes(8)
    of(made).train_step(batch, made.optimizer, "copy")
    before = frozen(learned(of(made), made.optimizer))
    made.objective.validate()
    assert_same(before, learned(of(made), made.optimizer))
    # The bandit learns on: eight steps, eight rewards.
    of(made).train_step(batch, made.optimizer, "copy")
    told = of(made).edit_performance["copy"]
    assert sum(arm["pulls"] for arms in told.values() for arm in arms.values()) == 16


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        trainer(tmp_path).resume()
    trainer(tmp_path, settings(steps=1)).run()
    with pytest.raises(CheckpointError, match="saved with unroll_mode='window'"):
        trainer(tmp_path, unroll_mode="carry").resume()


def test_a_run_may_go_on_for_longer_but_not_otherwise(tmp_path: Path) -> None:
    trainer(tmp_path, settings(steps=1)).run()
    assert trainer(tmp_path, settings(steps=4, log_every=1)).resume() == 1
    with pytest.raises(CheckpointError, match="training setting batch_size=8.*this run has 4"):
        trainer(tmp_path, settings(batch_size=4)).resume()
    other = trainer(tmp_path)
    other.model.config.dropout = 0.5
    with pytest.raises(CheckpointError, match="model setting dropout=0.1.*this run has 0.5"):
        other.resume()


# ---------------------------------------------------------------- lengths and settings


def test_rows_are_validated_by_their_length() -> None:
    given = episodes(3)
    inputs, labels = given.inputs.clone(), given.labels.clone()
    inputs[1, 6:], labels[1, 6:] = PAD, PAD
    parts = by_length(Episodes(inputs, labels, given.task_ids), PAD)
    assert {length: part.inputs.shape for length, part in parts.items()} == {6: (1, 6), 8: (2, 8)}
    assert parts[6].task_ids.tolist() == [1] and parts[8].task_ids.tolist() == [0, 2]


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0}, {"batch_size": 0}, {"log_every": 0}, {"valid_rows": 0}, {"seed": -1},
        {"warmup_steps": -1}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
        {"schedule": "line"},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        settings(**setting)


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match='did you mean "batch_size"'):
        TrainingConfig.from_dict({"batch_sise": 3})
