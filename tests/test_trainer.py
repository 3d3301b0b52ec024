"""The training loop: it learns, it resumes exactly, and nothing poisons it."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MOLECULES, tiny_model

from imadarem.checkpoint import load_state
from imadarem.data.corpus import TokenCorpus
from imadarem.errors import BusyError, CheckpointError, ConfigError, DataError, TrainingError
from imadarem.model import ImplicitRefinementModel
from imadarem.training.best import BestWeights
from imadarem.training.masked import MaskedTraining
from imadarem.training.optim import build_optimizer, learning_rate_factor, parameter_groups
from imadarem.training.run_folder import latest_checkpoint, remove_leftovers
from imadarem.training.trainer import (
    Evaluated,
    Progress,
    Trainer,
    TrainingConfig,
)
from imadarem.training.validation import Validation


def corpus(copies: int = 6) -> TokenCorpus:
    tokenizer = tiny_model().tokenizer
    return TokenCorpus.from_rows([tokenizer.encode(s) for s in MOLECULES * copies], 256)


def settings(**given: object) -> TrainingConfig:
    base: dict[str, object] = {
        "steps": 8,
        "batch_size": 12,
        "warmup_steps": 2,
        "gate_warmup": 0.25,
        "log_every": 2,
        "eval_every": 4,
        "save_every": 4,
        "sample_count": 2,
        "learning_rate": 3e-3,
    }
    return TrainingConfig(**{**base, **given})  # type: ignore[arg-type]


def trainer(run: Path, config: TrainingConfig | None = None, **more: object) -> Trainer:
    model = tiny_model(length_mode="drawn", length_counts=corpus().length_counts(), dropout=0.1)
    return over(model, run, config, **more)


def over(
    model: ImplicitRefinementModel,
    run: Path,
    config: TrainingConfig | None = None,
    rows: tuple[TokenCorpus, TokenCorpus] | None = None,
    **more: object,
) -> Trainer:
    """A trainer over a model and the corpus, or other rows."""
    objective = MaskedTraining(model, *(rows or (corpus(), corpus(1))))
    return Trainer(objective, config or settings(), run, device="cpu", **more)  # type: ignore[arg-type]


def records(run: Path) -> list[dict[str, object]]:
    """The lines of ``metrics.jsonl`` without what differs from run to run."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in line.items() if k not in ("time", "tokens_per_second")} for line in lines
    ]


def weights(t: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in t.model.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run of eight steps that is done."""
    made = trainer(tmp_path_factory.mktemp("straight"))
    made.run()
    return made


def test_a_run_that_is_asked_to_stop_saves_and_does_nothing_more(tmp_path: Path) -> None:
    events: list[object] = []
    stopped = trainer(tmp_path, settings(save_every=1_000), on_event=events.append)

    def stop(event: Progress | Evaluated) -> None:
        events.append(event)
        if event.step == 2:
            stopped.request_stop()

    stopped.on_event = stop
    result = stopped.run()
    assert (result.step, result.finished, result.last) == (2, False, None)
    assert [type(event) for event in events] == [Evaluated, Progress]
    assert trainer(tmp_path).resume() == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "steps"), [("validate", 0), ("calibrate", 8)], ids=["first validation", "calibration"]
)
def test_a_stop_does_not_wait_for_a_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Trainer, which: str, steps: int
) -> None:
    stopped = trainer(tmp_path / "parts")
    work = getattr(stopped.objective, which)

    def cut_off() -> None:
        work()
        stopped.request_stop()  # as a signal handler does
        raise AssertionError("the stop did not end this")

    with monkeypatch.context() as patch:
        patch.setattr(stopped.objective, which, cut_off)
        result = stopped.run()
    assert (result.step, result.finished) == (steps, False)
    resumed = trainer(tmp_path / "parts")
    assert resumed.resume() == steps and not resumed.finished
    result = resumed.run()
    assert result.finished and result.last is not None
    # What a stop cut off is made up for: the run ends as one that was never stopped.
    assert_same(weights(straight), weights(resumed))
    assert records(tmp_path / "parts") == records(straight.run_dir)
    models = [run / "model" for run in (straight.run_dir, tmp_path / "parts")]
    assert len({(model / "config.json").read_text() for model in models}) == 1


def killed_at(step: int, running: Trainer) -> None:
    """Run until the first record of a step, and stop there without saving."""

    def kill(event: Progress | Evaluated) -> None:
        if event.step == step:
            raise KeyboardInterrupt

    running.on_event = kill
    with pytest.raises(KeyboardInterrupt):
        running.run()


def test_a_killed_run_leaves_no_record_twice_and_no_temporary_file(
    tmp_path: Path, straight: Trainer
) -> None:
    run = tmp_path / "parts"
    killed_at(6, trainer(run, settings(save_every=3)))
    for left in (".run.json.abc.tmp", "model/.config.json.abc.tmp", "checkpoints/.step-00000005/x"):
        (run / left).parent.mkdir(parents=True, exist_ok=True)
        (run / left).touch()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    resumed = trainer(run)
    assert resumed.resume() == 3
    resumed.run()
    assert records(run) == records(straight.run_dir)
    assert [path.name for path in run.rglob(".*")] == []


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_afresh(tmp_path: Path) -> None:
    killed_at(2, trainer(tmp_path))
    trainer(tmp_path).run()
    assert [line["step"] for line in records(tmp_path) if line["kind"] == "train"] == [2, 4, 6, 8]


def test_a_checkpoint_that_was_being_replaced_is_put_back(
    tmp_path: Path, straight: Trainer
) -> None:
    run = shutil.copytree(straight.run_dir, tmp_path / "run")
    newest = run / "checkpoints" / "step-00000008"
    newest.rename(newest.with_name("step-00000008.before"))
    assert trainer(run).resume() == 8
    remove_leftovers(run)
    assert (newest / "trainer.json").is_file()
    assert len(list((run / "checkpoints").iterdir())) == 2


@pytest.mark.slow
def test_two_trainers_cannot_write_to_one_folder(tmp_path: Path) -> None:
    first, second = (trainer(tmp_path, settings(steps=4)) for _ in range(2))
    refused: list[BusyError] = []

    def meanwhile(event: Progress | Evaluated) -> None:
        if event.step == 2 and not refused:
            with pytest.raises(BusyError, match=f"process {os.getpid()}") as caught:
                second.run()
            refused.append(caught.value)

    first.on_event = meanwhile
    assert first.run().finished and refused
    assert second.step == 0
    # The lock ends with the run.
    trainer(tmp_path, settings(steps=1, sample_count=0)).run()


@pytest.mark.parametrize("part", ["carry", "halting", "memory"])
def test_a_part_that_rows_alone_do_not_train_is_refused(part: str) -> None:
    with pytest.raises(ConfigError, match=f"{part}=True needs a task"):
        MaskedTraining(tiny_model(**{part: True}), corpus(), corpus(1))


def test_a_checkpoint_comes_after_its_model_so_a_finished_run_lacks_nothing(
    tmp_path: Path,
) -> None:
    trainer = over(tiny_model(), tmp_path, settings(steps=2, save_every=1, sample_count=0))
    written: list[bool] = []
    save = trainer.objective.save

    def watched(*given: Any) -> None:
        written.append((tmp_path / "model" / "model.safetensors").exists())
        save(*given)

    trainer.objective.save = watched
    assert trainer.run().finished
    assert len(written) >= 2 and all(written)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "joint_size"), [("adamw", 0), ("muon", 6), ("ranger21", 0)])
def test_an_interrupted_run_ends_bit_for_bit_as_a_straight_one(
    tmp_path: Path, optimizer: str, joint_size: int
) -> None:
    def make(run: Path) -> Trainer:
        counts = corpus().length_counts()
        given = {"length_mode": "drawn", "length_counts": counts, "dropout": 0.1}
        model = tiny_model(**given, joint_size=joint_size)
        often = {"steps": 4, "log_every": 1, "eval_every": 3, "save_every": 3, "sample_count": 0}
        return over(model, run, settings(optimizer=optimizer, **often))

    straight = make(tmp_path / "straight")
    assert straight.run().finished

    stopped = make(tmp_path / "parts")
    stopped.on_event = lambda e: stopped.request_stop() if e.step == 2 else None
    result = stopped.run()
    assert (result.step, result.finished) == (2, False)

    resumed = make(tmp_path / "parts")
    assert resumed.resume() == 2
    assert resumed.run().finished
    # Student, teacher and optimiser alike.
    assert_same(weights(straight), weights(resumed))
    states = [
        load_state(tmp_path / run / "checkpoints" / "step-00000004" / "optimizer")
        for run in ("straight", "parts")
    ]
    assert repr(states[0]) == repr(states[1])


@pytest.mark.slow
def test_training_learns_and_leaves_a_model_that_samples(tmp_path: Path) -> None:
    events: list[object] = []
    result = trainer(
        tmp_path, settings(steps=150, eval_every=75, save_every=150), on_event=events.append
    ).run()
    assert result.last.loss < 0.7 * result.first.loss
    model = ImplicitRefinementModel.from_pretrained(result.model_dir)
    assert len(model.sample(3, seed=0).texts) == 3
    assert model.teacher is None  # the averaged weights are the model
    evaluations = [e for e in events if isinstance(e, Evaluated)]
    assert [e.step for e in evaluations] == [0, 75, 150]
    assert all(len(e.samples) == 2 for e in evaluations)
    assert sum(isinstance(e, Progress) for e in events) == 75


def test_a_run_folder_tells_what_was_done(straight: Trainer) -> None:
    folder = straight.run_dir
    run = json.loads((folder / "run.json").read_text())
    assert run["training"]["steps"] == 8
    assert run["versions"]["torch"] == torch.__version__
    lines = records(folder)
    assert [x["step"] for x in lines if x["kind"] == "valid"] == [0, 4, 8]
    assert [x["step"] for x in lines if x["kind"] == "train"] == [2, 4, 6, 8]
    assert list((folder / "tensorboard").iterdir())


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer(tmp_path, settings(save_every=2, eval_every=9, sample_count=0)).run()
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000006", "step-00000008"]


def poison(t: Trainer, steps: set[int]) -> None:
    """Turn the gradient of the named steps into NaN on its way to the weights."""

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan") if t.step in steps else gradient

    t.model.network.backbone.to_logits.weight.register_hook(hook)


def test_a_step_that_is_not_finite_is_skipped_and_poisons_nothing(tmp_path: Path) -> None:
    t = trainer(tmp_path, settings(steps=5, save_every=1))
    poison(t, {3})
    before: list[dict[str, torch.Tensor]] = []
    original = t.objective.training.skip

    def watched() -> None:
        before.append(weights(t))
        original()

    t.objective.training.skip = watched
    result = t.run()
    assert result.skipped == 1
    after = ImplicitRefinementModel.from_pretrained(tmp_path / "checkpoints" / "step-00000004")
    assert_same(before[0], after.state_dict())
    assert all(torch.isfinite(value).all() for value in weights(t).values())


@pytest.mark.slow
def test_training_gives_up_after_many_bad_steps_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    t = trainer(tmp_path, settings(steps=60, eval_every=60, save_every=10, sample_count=0))
    poison(t, set(range(4, 60)))
    with pytest.raises(TrainingError, match="20 steps in a row.*step-00000020"):
        t.run()
    kept = latest_checkpoint(tmp_path)
    assert kept is not None
    ImplicitRefinementModel.from_pretrained(kept)


def test_a_crash_while_saving_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = trainer(tmp_path, settings(save_every=2, steps=6))

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    t.on_event = lambda e: (
        e.step == 4 and monkeypatch.setattr("imadarem.training.run_folder.save_state", crash)
    )
    with pytest.raises(KeyboardInterrupt):
        t.run()
    newest = latest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step-00000002"
    assert trainer(tmp_path).resume() == 2


def test_resuming_nothing_or_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        trainer(tmp_path).resume()
    trainer(tmp_path, settings(steps=1)).run()
    other = over(tiny_model(hidden_size=32, length_mode="drawn"), tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        other.resume()


def test_rows_that_are_too_long_are_left_out_or_refused(tmp_path: Path) -> None:
    rows = TokenCorpus.from_rows([[5] * 40] * 3, 256)
    with pytest.raises(DataError, match="longer than max_seq_len=12"):
        over(tiny_model(length_mode="drawn"), tmp_path, rows=(rows, rows))
    # A canvas that ends by EOS needs room for it: 12 tokens do not fit into 12.
    rows = TokenCorpus.from_rows([[5] * 12, [5] * 11], 256)
    objective = MaskedTraining(tiny_model(length_mode="eos"), rows, rows)
    assert objective.train.lengths.tolist() == [11]


def test_the_learning_rate_warms_up_and_falls() -> None:
    cosine = [learning_rate_factor(s, 100, 10, "cosine") for s in range(100)]
    assert cosine[0] == pytest.approx(0.1) and cosine[9] == pytest.approx(1.0)
    assert cosine[55] == pytest.approx(0.02 + 0.98 / 2, abs=0.01)  # half way down
    assert cosine[10:] == sorted(cosine[10:], reverse=True) and cosine[-1] < 0.03
    stable = [learning_rate_factor(s, 100, 10, "wsd") for s in range(100)]
    assert stable[10:80] == [1.0] * 70
    assert stable[90] == pytest.approx(0.5)
    with pytest.raises(ConfigError, match='did you mean "cosine"'):
        learning_rate_factor(0, 1, 0, "cosin")


def test_every_weight_is_trained_once_and_the_gate_at_its_own_rate() -> None:
    model = tiny_model(conv_kernel_size=3)
    model.init_teacher()
    groups = parameter_groups(model, 1e-3, 0.1, gate_lr_scale=5.0)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.student_parameters())
    rates = {group["role"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {"matrix": (1e-3, 0.1), "other": (1e-3, 0.0), "gate": (5e-3, 0.0)}


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match='did you mean "ranger21"'):
        build_optimizer("rangr21", parameter_groups(tiny_model(), 1e-3, 0.0, 1.0), steps=1)
    with pytest.raises(ConfigError, match='did you mean "batch_size"'):
        TrainingConfig.from_dict({"batch_sise": 3})


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0}, {"learning_rate": 0.0}, {"gate_warmup": 1.2}, {"seed": -1},
        {"mixed_precision": "int4"}, {"schedule": "line"}, {"learning_rate": float("nan")},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        settings(**setting)


def test_validation_rows_are_capped(tmp_path: Path) -> None:
    t = trainer(tmp_path, settings(valid_rows=5))
    assert len(t.objective.valid) == 5  # type: ignore[attr-defined]
    assert np.array_equal(t.objective.valid[0], corpus(1)[0])  # type: ignore[attr-defined]


def test_a_run_without_a_gate_saves_the_figures_that_it_has(tmp_path: Path) -> None:
    def gateless() -> Trainer:
        model = tiny_model(use_refine_gate=False)
        return over(model, tmp_path, settings(steps=2))

    first = gateless().run().first
    assert np.isfinite(first.loss) and np.isnan(first.gate_auroc)
    resumed = gateless()
    assert resumed.resume() == 2
    again = resumed.run().first
    assert again.loss == first.loss and np.isnan(again.gate_auroc)


@pytest.mark.parametrize(
    ("joint_size", "given", "shares"),
    [
        (0, {}, (0.0, 0.0, 0.0)),
        (6, {}, (0.25, 0.12, 0.45)),
        (6, {"suffix_share": 0.0, "blank_share": 0.5}, (0.5, 0.0, 0.45)),
    ],
)
def test_a_joint_head_is_trained_on_a_mix_of_canvases_unless_told_otherwise(
    tmp_path: Path, joint_size: int, given: dict[str, float], shares: tuple[float, float, float]
) -> None:
    model = tiny_model(length_mode="drawn", joint_size=joint_size)
    made = over(model, tmp_path, settings(**given))
    objective = made.objective.objective()  # type: ignore[attr-defined]
    assert (objective.blank_share, objective.suffix_share, objective.window_share) == shares


def test_the_best_weights_are_kept_and_a_run_that_does_not_improve_ends_early(
    tmp_path: Path,
) -> None:
    # At a rate of 0 nothing improves after the first validation.
    asked = {"best_by": "loss", "early_stop": 2, "eval_every": 2, "learning_rate": 1e-12}
    run = trainer(tmp_path / "run", settings(steps=40, **asked))
    first = {name: value.clone() for name, value in run.model.averaged().state_dict().items()}
    run.objective.validate = lambda: (Validation(1.0, *[math.nan] * 4), [])
    result = run.run()
    assert (result.step, result.finished) == (4, True)
    best = ImplicitRefinementModel.from_pretrained(tmp_path / "run" / "best")
    assert all(value.equal(first[name]) for name, value in best.state_dict().items())
    again = trainer(tmp_path / "run", settings(steps=40, **asked))
    again.resume()
    assert again.finished


def test_the_best_validation_is_found_by_its_figure() -> None:
    best = BestWeights("exact", patience=2)
    values = [0.2, 0.6, 0.5, math.nan]
    seen = [best.see(i, {"exact_4_at_1": v, "exact_4_at_2": v}) for i, v in enumerate(values)]
    assert (seen, best.step, best.exhausted) == ([True, True, False, False], 1, True)
    with pytest.raises(ConfigError, match='did you mean "exact_4_at_1"'):
        BestWeights("exact_4_at_9", None).see(0, {"exact_4_at_1": 0.1})
    with pytest.raises(ConfigError, match="needs best_by"):
        settings(early_stop=3)
