"""``imadarem train --task``: its settings, and the runs it leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import pytest
from cli_parts import records
from processes import errors, finish, start_command, start_command_ranks, wait_until

from imadarem.cli.flags import NO_FLAG, ModelFlags, OrchestrationFlags, TrainingFlags, given
from imadarem.cli.recipes import RECIPES
from imadarem.cli.settings import parse_settings, read_settings
from imadarem.config import ImplicitRefinementConfig
from imadarem.data.task_registry import TASKS
from imadarem.model import ImplicitRefinementModel
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.training.settings import TrainingConfig

TINY = (
    "--hidden-size 16 --num-layers 1 --num-heads 2 --inner-steps 1 --batch-size 8 "
    "--valid-rows 8 --processes 1 --device cpu --log-every 1 --optimizer adamw"
).split()
MODULAR = ("train", "--task", "modular", "--set", "p=5", *TINY)

pytestmark = pytest.mark.usefixtures("elsewhere")


# --- settings


def test_every_setting_has_a_flag_and_an_explanation(said):
    code, out, _ = said("train", "--help")
    assert code == 0
    assert out.count("imadarem train --") >= 5
    for flags, settings in (
        (ModelFlags, ImplicitRefinementConfig),
        (OrchestrationFlags, OrchestrationConfig),
        (TrainingFlags, TrainingConfig),
    ):
        known = {field.name for field in dataclasses.fields(settings)} - set(NO_FLAG[settings])
        assert {field.name for field in dataclasses.fields(flags)} == known
        for field in dataclasses.fields(flags):
            assert f"--{field.name.replace('_', '-')}" in out
            assert field.type.__metadata__[0].help.endswith(".")


def test_the_help_begins_with_the_flags_that_most_runs_need(said):
    _, out, _ = said("train", "--help")
    first, sign, advanced = out.partition("Advanced:")
    assert sign
    # A line that begins with a flag is one parameter, whatever its other names.
    count = {
        part: len(re.findall(r"^│ --[a-z]", text, re.M))
        for part, text in (("first", first), ("advanced", advanced))
    }
    assert 20 <= count["first"] <= 30 < count["advanced"]
    # What is fitted after training is nobody's to choose.
    assert "--gate-temperature" not in out and "--gate-offset" not in out


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sizes=6", {"sizes": 6}),
        ("sizes=4,6", {"sizes": [4, 6]}),
        ("givens=minimal", {"givens": "minimal"}),
        ("givens=32,minimal", {"givens": [32, "minimal"]}),
        ('givens={"9": 30}', {"givens": {9: 30}}),  # JSON knows no numbers as keys
        ("fill-share=0.5", {"fill_share": 0.5}),
        ("fix_zero=false", {"fix_zero": False}),
        ("rows=null", {"rows": None}),
        ("source=a=b.txt", {"source": "a=b.txt"}),
    ],
)
def test_settings_of_a_task_are_read_as_what_they_look_like(text, value):
    assert parse_settings([text]) == value


def test_printed_settings_read_back_as_the_same_settings(said):
    line = ("train", "--task", "sudoku", "--set", 'givens={"4": 8}', "--set", "sizes=4,6")
    more = ("--unroll-steps", 12, "--window", 3, "--step-loss-weights.halt", 0.2, "--steps", 7)
    code, out, _ = said(*line, *more, "--inner-steps", 3, "--print-config")
    assert code == 0
    Path("s.toml").write_text(out)
    read = read_settings("s.toml")
    assert (read.task, read.settings) == ("sudoku", {"givens": {4: 8}, "sizes": [4, 6]})
    assert read.orchestration["max_steps_train"] == 12
    assert read.orchestration["backprop_truncate_steps"] == 3
    assert read.orchestration["step_loss_weights"] == {"halt": 0.2}
    assert (read.training["steps"], read.model["inner_steps"]) == (7, 3)
    # A cell of a sudoku is known by its groups alone.
    assert (read.model["positions"], read.model["attention"]) == (False, False)
    assert said("train", "--config", "s.toml", "--print-config") == (0, out, "")
    # Flags win over the file.
    _, other, _ = said("train", "--config", "s.toml", "--steps", 9, "--print-config")
    assert other == out.replace("steps = 7\n", "steps = 9\n")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_settings_that_go_together(said, task):
    code, out, err = said("train", "--task", task, "--print-config")
    assert (code, err) == (0, "")
    assert RECIPES.keys() <= TASKS.keys()
    assert f'task = "{task}"' in out
    if task != "sudoku":
        assert "positions = true\nattention = true" in out


def test_a_window_that_has_no_effect_is_told(said):
    line = ("train", "--task", "modular", "--window", 3, "--print-config")
    assert "--window) has no effect with unroll_mode='carry'" in said(*line)[2]
    assert "no effect" not in said(*line, "--unroll-mode", "window")[2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--task", "parameter --task requires an argument"),
        ("--task sudokuu", 'did you mean "sudoku"?'),
        ("--task sudoku --set size=4", 'did you mean "sizes"?'),
        ("--task sudoku --set sizes", "NAME=VALUE"),
        ("--task sudoku --set sizes=5", "size 5 is not known"),
        ("--task text", "needs --set source=VALUE"),
        ("--task text --set source=none.txt", "there is no file none.txt"),
        ("--task modular --steps 0", "steps=0"),
        ("--task modular --window 0", "backprop_truncate_steps=0"),
        ("--task modular --unroll-mode windows", "unroll_mode='windows'"),
        ("--task modular --num-heads 3", "num_heads=3"),
        ("--task modular --stepz 3", "Did you mean --steps? See: imadarem train --help"),
        ("--task modular --resume --out {plain}", "task = 'modular' was given"),
        ("--task modular --resume --out none", "has no settings.toml"),
        ("--task modular --max-seq-len 9", "max_seq_len is decided by the task modular"),
        ("--task modular --rows 9", "--rows is for rows of data, and a task was given"),
        ("--task modular --surplus 9", "surplus is a setting of training on rows of data"),
        ("--data moses-sample --window 2", "backprop_truncate_steps is a setting of a task"),
        ("--data moses-sample --set p=5", "p is a setting of a task"),
        ("--data moses-sample --halting", "halting=True needs a task"),
        ("--data moses-sample --carry", "carry=True needs a task"),
        ("--config {memory}", "memory=True needs a task"),
        ("--config {wrong}", "unknown setting 'taks'"),
        ("--config {table}", "[training] steps = 'many' must be of type int"),
        ("--config {unknown}", 'did you mean "unroll_mode"?'),
    ],
)
@pytest.mark.filterwarnings("error")
def test_wrong_use_is_one_line_on_stderr_and_exit_code_2(said, tmp_path, line, reason):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/settings.toml").write_text('data = "moses-sample"\n')
    contents = {
        "wrong": 'task = "modular"\ntaks = 1\n',
        "table": 'task = "modular"\n[training]\nsteps = "many"\n',
        "memory": 'data = "moses-sample"\n[model]\nmemory = true\n',
        "unknown": 'task = "modular"\n[orchestration]\nunrol_mode = "full"\n',
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.toml").write_text(content)
    places = {"plain": "plain", **{name: f"{name}.toml" for name in contents}}
    before = sorted(tmp_path.rglob("*"))
    code, out, err = said("train", *(token.format(**places) for token in line.split()))
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: .+\n", err)
    assert reason in err
    assert sorted(tmp_path.rglob("*")) == before


def test_files_of_version_0_1_are_read(said):
    Path("task.toml").write_text(
        'task = "modular"\n[model]\ngate_temperature = 1.0\n[orchestration]\n'
        'gradient_clip_threshold = 0.5\nmixed_precision = "no"\nhalting_loss = "exact"\n'
        "ponder_prior = 0.2\n[training]\nsteps = 3\n"
    )
    read = read_settings("task.toml")
    assert read.orchestration == {}
    assert read.training == {"steps": 3, "gradient_clip": 0.5, "mixed_precision": "no"}
    assert read.resolved().orchestration_config().gradient_clip_threshold == 0.5
    code, out, _ = said("train", "--config", "task.toml", "--print-config")
    assert code == 0 and "gradient_clip = 0.5\n" in out


def test_flags_that_were_not_given_are_none():
    assert given(OrchestrationFlags()) == {}


# --- runs


@pytest.mark.slow
def test_a_run_leaves_a_model_and_goes_on_where_it_was(said):
    code, out, err = said(*MODULAR, "--steps", 4, "--eval-every", 2, "--out", "a")
    assert code == 0
    assert re.search(r"^held out, 5 tokens, after 1, 2, 4, 6, 8 steps: rows right ", out, re.M)
    assert re.search(r"^step 2  held out 5 tokens", err, re.M)
    assert re.search(r"^step 4/4  loss \d\.\d{3}  blanks right ", err, re.M)
    model = ImplicitRefinementModel.from_pretrained("a/model")
    assert (model.config.max_seq_len, model.config.hidden_size) == (5, 16)
    assert model.config.positions and model.config.halting
    # What is finished, taken, or of other settings is refused.
    for line, reason in (
        (("train", "--out", "a", "--resume"), "is finished"),
        ((*MODULAR, "--out", "a"), "already holds a run"),
        (("train", "--out", "a", "--resume", "--set", "p=7"), "p = 7 was given"),
        (("train", "--out", "a", "--resume", "--hidden-size", 8), "hidden_size = 8 was given"),
        (("train", "--out", "a", "--resume", "--task", "arc"), "task = 'arc' was given"),
    ):
        code, _, err = said(*line)
        assert (code, reason in err) == (2, True)
    code, out, err = said("train", "--out", "a", "--resume", "--steps", 6, "--json")
    *events, result = records(out)
    assert code == 0
    assert "resuming a at step 4" in err
    assert [event["step"] for event in events if event["kind"] == "train"] == [5, 6]
    assert (result["kind"], result["step"]) == ("result", 6)
    assert set(result["exact"]["5"]) == {"1", "2", "4", "6", "8"}
    assert read_settings("a/settings.toml").training["steps"] == 6


@pytest.mark.slow
def test_text_has_no_right_answer_and_trains_with_relative_paths(said, tmp_path, monkeypatch):
    Path("novel.txt").write_text("\n\n".join(f"the cat {n} sat on mat {n % 7}" for n in range(40)))
    line = ("train", "--task", "text", "--set", "source=novel.txt", "--set", "length=12", *TINY)
    code, out, err = said(*line, "--steps", 2, "--out", "t", "--augmentation-strategies", "masking")
    assert code == 0
    assert "imadarem infill --model t/model" in out
    saved = read_settings("t/settings.toml")
    assert saved.settings["source"] == str(tmp_path / "novel.txt")
    assert saved.model["halting"] is False
    monkeypatch.chdir(tmp_path.parent)
    code, _, err = said("train", "--out", tmp_path / "t", "--resume", "--steps", 3)
    assert (code, "at step 2" in err) == (0, True)


@pytest.mark.slow
def test_a_sudoku_model_is_one_that_solve_takes(said, monkeypatch, tmp_path):
    monkeypatch.setenv("IMADAREM_CACHE", str(tmp_path / "cache"))
    sizes = ("--set", "sizes=4", "--set", "n=40", "--set", "valid=4")
    code, out, _ = said("train", "--task", "sudoku", *sizes, *TINY, "--steps", 2, "--out", "s")
    assert code == 0
    assert "imadarem solve --model s/model puzzle.txt" in out
    code, out, _ = said("solve", "132442133142243.", "--model", "s/model", "--json")
    assert code in (0, 1)  # two steps teach little
    assert len(records(out)[-2]["answer"]) == 16


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    line = [*MODULAR, "--steps", "100000", "--eval-every", "100000", "--out", "run"]
    running = start_command(*line, output=tmp_path / "printed")
    # The file is there as soon as Ctrl-C is caught.
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(metrics.exists, running, output=tmp_path / "printed")
    os.kill(running.pid, signal.SIGINT)
    assert finish(running) == 130
    err = errors(tmp_path / "printed")
    assert "continue with: imadarem train --out run --resume" in err
    assert "Traceback" not in err
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*/trainer.json")
    assert json.loads(checkpoint.read_text())["step"] >= 1


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    line = [*MODULAR, "--steps", "3", "--out", "two", "--json"]
    both = start_command_ranks(2, *line, output=tmp_path / "printed")
    assert finish(*both) == 0, errors(tmp_path / "printed")[-2000:]
    # Only one of them speaks.
    kinds = [record["kind"] for record in records((tmp_path / "printed").read_text())]
    assert kinds == ["train"] * 3 + ["valid", "result"]
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
