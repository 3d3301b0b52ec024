"""Checkpoints: an interrupted run ends as a straight one, and a kill loses nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from orchestrator_parts import (
    HALF,
    LENGTH,
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
from processes import start

from imadarem.data.tasks import Episodes
from imadarem.errors import CheckpointError
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.training.optim import build_optimizer, parameter_groups
from imadarem.training.run_folder import latest_checkpoint

# ---------------------------------------------------------------- N + N = 2N


class Run:
    """An orchestrator with everything switched on, its optimiser and its scheduler."""

    def __init__(self, optimizer: str = "adamw", seed: int = 0, **settings: Any) -> None:
        self.over = orchestrator(model(seed, memory=True), bank(size=8), **settings)
        groups = parameter_groups(self.over.model, 3e-3, 0.01, 1.0)
        self.optimizer = build_optimizer(optimizer, groups, steps=10)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    def train(self, first: int, last: int, batch: Any) -> list[dict[str, Any]]:
        return [
            self.over.train_step(batch(step), self.optimizer, "copy", self.scheduler)
            for step in range(first, last)
        ]

    def everything(self) -> dict[str, Any]:
        return {
            **learned(self.over, self.optimizer),
            "scheduler": self.scheduler.state_dict(),
            "stats": self.over.get_training_stats(),
            "stability": self.over.get_stability(),
            "rng": torch.get_rng_state(),
        }

    def files(self) -> tuple[Any, Any]:
        return self.optimizer, self.scheduler


def answers(step: int) -> Episodes:
    """Four questions; every other batch is padded, so that rows under way are widened."""
    given = episodes(4, seed=step % 3)
    if step % 2:
        return given
    inputs, labels = given.inputs.clone(), given.labels.clone()
    inputs[:, LENGTH - 1], labels[:, LENGTH - 1] = PAD, PAD
    return Episodes(inputs[:, : LENGTH - 1], labels[:, : LENGTH - 1], given.task_ids)


def text(step: int) -> torch.Tensor:
    return episodes(4, seed=step % 3).labels[:, :HALF]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "optimizer", "batch"),
    [
        ({"unroll_mode": "window"}, "adamw", answers),
        ({"unroll_mode": "window", "grok_fast": True}, "muon", answers),
        ({"unroll_mode": "carry", "grok_fast": True}, "adamw", answers),
        ({"unroll_mode": "carry"}, "muon", answers),
        ({"unroll_mode": "last_k", "mixed_precision": "fp16"}, "adamw", text),
        ({"unroll_mode": "carry", "mixed_precision": "bf16"}, "adamw", text),
    ],
)
def test_an_interrupted_run_ends_bit_for_bit_as_a_straight_one(
    tmp_path: Path, settings: dict[str, Any], optimizer: str, batch: Any
) -> None:
    straight = Run(optimizer, **settings)
    straight.over.model.init_teacher()
    infos = straight.train(0, 8, batch)
    assert not any(info["skipped"] for info in infos) or "fp16" in settings.values()

    first = Run(optimizer, **settings)
    first.over.model.init_teacher()
    before = first.train(0, 4, batch)
    first.over.save_checkpoint(tmp_path, *first.files(), extra={"position": 4})
    torch.manual_seed(99)

    # Other weights to begin with, and no teacher yet: all of it comes from the checkpoint.
    second = Run(optimizer, seed=5, **settings)
    assert second.over.load_checkpoint(tmp_path, *second.files()) == {"position": 4}
    after = second.train(4, 8, batch)
    # Losses, edits, augmentations, rows replaced, what was written to the memory.
    assert frozen(before + after) == frozen(infos)
    assert_same(straight.everything(), second.everything())


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    run = Run(unroll_mode="carry", grok_fast=True)
    run.train(0, 3, answers)
    run.over.save_checkpoint(tmp_path, *run.files())
    saved = frozen(run.everything())
    other = Run(seed=5, unroll_mode="carry", grok_fast=True)
    assert other.over.load_checkpoint(tmp_path, *other.files()) == {}
    assert_same(saved, other.everything())
    memory, loaded = run.over.memory_bank, other.over.memory_bank
    assert memory is not None and loaded is not None and len(loaded) == len(memory) > 0


def test_a_checkpoint_needs_no_pickle_and_no_optimizer(tmp_path: Path) -> None:
    over = orchestrator()
    over.train_step(episodes(2), adam(over), "copy")
    over.save_checkpoint(tmp_path)
    folder = latest_checkpoint(tmp_path)
    assert folder is not None and folder.name == "step-00000001"
    kinds = {path.suffix for path in folder.iterdir()}
    assert kinds <= {".safetensors", ".json", ".md"}
    other = orchestrator(model(seed=5))
    other.load_checkpoint(tmp_path)
    assert_same(over.model.state_dict(), other.model.state_dict())
    assert other.step_count == 1


def test_the_newest_of_several_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    over = orchestrator(unroll_mode="carry")
    optimizer = adam(over)
    for step in range(4):
        over.train_step(episodes(2), optimizer, "copy")
        over.save_checkpoint(tmp_path, optimizer, extra={"step": step})
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000003", "step-00000004"]
    assert orchestrator(unroll_mode="carry").load_checkpoint(tmp_path) == {"step": 3}


# ---------------------------------------------------------------- what does not belong together


def saved(folder: Path) -> UnifiedRefinerOrchestrator:
    over = orchestrator(model(memory=True), bank())
    optimizer = adam(over)
    over.train_step(episodes(2), optimizer, "copy")
    over.save_checkpoint(folder, optimizer)
    return over


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_steps_train", 9),
        ("unroll_mode", "carry"),
        ("backprop_truncate_steps", 4),
        ("step_loss_weights", {"gate": 0.1}),
        ("augmentation_strategies", ["masking"]),
        ("canvas_edit_strategies", ["replace"]),
        ("grok_fast", True),
        ("seed", 1),
        ("mixed_precision", "bf16"),
        ("step_weighting", "uniform"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, setting: str, value: Any) -> None:
    saved(tmp_path)
    other = orchestrator(model(seed=5, memory=True), bank(), **{setting: value})
    before = frozen(other.model.state_dict())
    with pytest.raises(CheckpointError, match=f"saved with {setting}="):
        other.load_checkpoint(tmp_path)
    assert frozen(other.model.state_dict()) == before and other.step_count == 0


def test_another_model_memory_or_optimizer_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        orchestrator(model(hidden_size=32, memory=True), bank()).load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="size=64.*size=32"):
        orchestrator(model(memory=True), bank(size=32)).load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="saved with a memory and this orchestrator has none"):
        orchestrator(model(memory=True)).load_checkpoint(tmp_path)
    over = orchestrator(model(memory=True), bank())
    half = torch.optim.AdamW(list(over.model.parameters())[:3])
    with pytest.raises(CheckpointError, match="does not fit this model and optimizer"):
        over.load_checkpoint(tmp_path, half)


def test_how_inference_stops_may_change_on_the_way(tmp_path: Path) -> None:
    first = orchestrator()
    first.train_step(episodes(2), adam(first), "copy")
    first.save_checkpoint(tmp_path)
    other = orchestrator(halt_confidence=0.6, max_steps_infer=6, patience=None)
    other.load_checkpoint(tmp_path)
    assert other.step_count == 1


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        orchestrator().load_checkpoint(tmp_path)


def test_a_checkpoint_without_its_last_file_is_not_complete(tmp_path: Path) -> None:
    over = orchestrator(unroll_mode="carry")
    optimizer = adam(over)
    for _ in range(2):
        over.train_step(episodes(2), optimizer, "copy")
        over.save_checkpoint(tmp_path, optimizer)
    (tmp_path / "checkpoints" / "step-00000002" / "trainer.json").unlink()
    other = orchestrator(unroll_mode="carry")
    other.load_checkpoint(tmp_path, adam(other))
    assert other.step_count == 1


# ---------------------------------------------------------------- kill -9


def save_for_ever(folder: str, same_step: bool) -> None:
    """All weights of save number n are n."""
    over = orchestrator(model(memory=True), bank(), unroll_mode="carry")
    optimizer = adam(over)
    over.train_step(episodes(4), optimizer, "copy")
    for count in range(10**6):
        if not same_step:
            over.record.step_count += 1
        with torch.no_grad():
            for parameter in over.model.parameters():
                parameter.fill_(count)
        over.save_checkpoint(folder, optimizer, extra={"count": count})


def wait_for_a_checkpoint(folder: Path) -> None:
    end = time.monotonic() + 60.0
    while latest_checkpoint(folder) is None:
        assert time.monotonic() < end, "nothing was saved within a minute"
        time.sleep(0.005)


@pytest.mark.slow
def test_killing_a_saving_process_leaves_the_newest_checkpoint_loadable(tmp_path: Path) -> None:
    delays = random.Random(0)
    for trial in range(2):
        folder = tmp_path / str(trial)
        child = start(save_for_ever, str(folder), trial % 2 == 0, output=tmp_path / "printed")
        wait_for_a_checkpoint(folder)
        time.sleep(delays.uniform(0.0, 0.2))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL

        over = orchestrator(model(memory=True), bank(), unroll_mode="carry")
        count = over.load_checkpoint(folder, adam(over))["count"]
        # One whole save and no mixture.
        values = {float(weight.flatten()[0]) for weight in over.model.state_dict().values()}
        assert values == {float(count)}
        # The next save goes through whatever the kill left lying about.
        over.save_checkpoint(folder, adam(over), extra={"count": -1})
        assert over.load_checkpoint(folder, adam(over)) == {"count": -1}


@pytest.mark.parametrize("renames", [1, 2])
def test_a_crash_between_the_renames_of_a_second_save_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    over = orchestrator()
    over.save_checkpoint(tmp_path, extra={"save": 1})
    real, done = Path.rename, []

    def rename(self: Path, target: Any) -> Any:
        # Files are renamed by os.replace: only whole folders come here.
        result = real(self, target)
        done.append(target)
        if len(done) == renames:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", rename)
        over.save_checkpoint(tmp_path, extra={"save": 2})
    assert orchestrator().load_checkpoint(tmp_path)["save"] in (1, 2)
    over.save_checkpoint(tmp_path, extra={"save": 3})
    assert orchestrator().load_checkpoint(tmp_path) == {"save": 3}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000000"]
