"""``imadarem train --task``: train a model to answer, and come back to it later.

The flags are others than those of ``imadarem train`` on data. So the two are two commands,
and :func:`with_task` sends a command line to this one before its flags are read.
"""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from imadarem.cli.console import heading, json_line, note, out, stages
from imadarem.cli.models import Switch, device_named
from imadarem.cli.settings import given, read_toml
from imadarem.cli.start import task_model
from imadarem.cli.task_settings import (
    OrchestrationFlags,
    TaskModelFlags,
    TaskRunSettings,
    TaskTrainingFlags,
    parse_settings,
    read_task_settings,
)
from imadarem.cli.task_view import TaskView, accuracies
from imadarem.cli.train import (
    INTERRUPTED,
    SETTINGS,
    keep_settings,
    refuse_old_run,
    resume_run,
    stopping,
)
from imadarem.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from imadarem.data.tasks import Task
    from imadarem.orchestrator.trainer import TaskEvaluated, TaskTrainer
    from imadarem.workers import Progress

__all__ = ["COMMAND", "train_task", "with_task"]

#: What cyclopts knows the command by; a person writes ``train --task``.
COMMAND = "train-task"
#: What can be done with a model of a task on the command line.
NEXT = {
    "sudoku": "imadarem solve --model {} puzzle.txt",
    "text": "imadarem infill --model {} PROMPT   (<mask> for each blank)",
    "molecules": "imadarem infill --model {} PROMPT   (<mask> for each blank)",
}
_MODEL, _ORCHESTRATION, _TRAINING = TaskModelFlags(), OrchestrationFlags(), TaskTrainingFlags()


def with_task(tokens: Sequence[str]) -> list[str]:
    """``train …`` as ``train-task …`` where a task is named: by a flag, a file or a run."""
    if list(tokens[:1]) != ["train"]:
        return list(tokens)
    flags = _flag_values(tokens)
    files = [Path(flags["--config"])] if flags.get("--config") else []
    if "--resume" in flags and flags.get("--out"):
        files.append(Path(flags["--out"]) / SETTINGS)
    named = "--task" in flags or any(_names_task(file) for file in files)
    return [COMMAND if named else "train", *tokens[1:]]


def train_task(
    *,
    task: str | None = None,
    setting: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    out: Path | None = None,
    resume: Switch = False,
    config: Path | None = None,
    print_config: Switch = False,
    device: str | None = None,
    processes: int | None = None,
    json: Switch = False,
    model: TaskModelFlags = _MODEL,  # type: ignore[valid-type]
    orchestration: OrchestrationFlags = _ORCHESTRATION,  # type: ignore[valid-type]
    training: TaskTrainingFlags = _TRAINING,  # type: ignore[valid-type]
) -> int:
    """Train a model on a task with answers: many refinement steps in training, few after.

    **Examples**

    ```
    imadarem train --task sudoku --out runs/sudoku
    imadarem train --task sudoku --set sizes=4,6 --set n=5000 --unroll-steps 8 --window 2
    imadarem train --task text --set source=novel.txt --out runs/novel
    imadarem train --task modular --set p=31 --print-config
    imadarem train --out runs/sudoku --resume
    python -m torch.distributed.run --nproc_per_node 2 -m imadarem train --task sudoku
    ```

    Ctrl-C saves and stops; a second one stops at once. All settings can stand in a TOML
    file (`--print-config` writes one); flags win over it.

    Args:
        task: sudoku, modular, addition, arc, text or molecules.
        setting: A setting of the task as NAME=VALUE, as often as needed; a wrong name lists
            the right ones.
        out: The run's folder; default is runs/ and the name of the task.
        resume: Go on with the run in that folder, with its settings.
        config: A TOML file of settings.
        print_config: Print the settings as TOML and stop.
        device: cpu or cuda; default is cuda where there is one.
        processes: Worker processes that make the data; default is one for each core.
        json: Print every record as JSON Lines.
    """
    flags = TaskRunSettings(
        task=task,
        settings=parse_settings(setting or []),
        model=given(model),
        orchestration=given(orchestration),
        training=given(training),
    )
    lower = read_task_settings(config) if config is not None else TaskRunSettings()
    settings = lower.under(flags).anchored()
    if out is None and settings.task is None:
        raise ConfigError("there is no task to train on: give --task sudoku, say.")
    folder = Path("runs") / str(settings.task) if out is None else out
    if resume:
        settings = _saved_settings(folder, settings)
    settings = settings.resolved()
    if print_config:
        _print(settings.to_toml())
        return 0
    if not resume:
        refuse_old_run(folder)
    with _process_group():
        return _train(settings, folder, resume, device, processes, json)


def _train(
    settings: TaskRunSettings,
    folder: Path,
    resume: bool,
    device: str | None,
    processes: int | None,
    json: bool,
) -> int:
    from imadarem.orchestrator.config import OrchestrationConfig
    from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
    from imadarem.orchestrator.trainer import TaskTrainer, TaskTrainingConfig

    # 1. The task.
    device = _own_device(device_named(device))
    with stages() as progress:
        task = _task(settings, processes or os.cpu_count() or 1, progress)
    note(
        f"{len(task.train):,} episodes to train on, {len(task.valid):,} held out, "
        f"{task.train.inputs.shape[1]} tokens each at most"
    )
    # 2. The model, and what trains it.
    training = TaskTrainingConfig(**settings.training)
    model = task_model(settings.model, task, training.seed).to(device)
    config = OrchestrationConfig(**settings.orchestration, seed=training.seed)
    orchestrator = UnifiedRefinerOrchestrator(model, task.tokenizer, None, config)
    # 3. The run.
    with TaskView(training.steps, json=json) as view:
        trainer = TaskTrainer(orchestrator, task, training, folder, on_event=view)
        if resume:
            resume_run(trainer, folder)
        keep_settings(settings, folder)
        with stopping(trainer):
            last = trainer.run()
    return _finish(trainer, last, folder, json)


# --- which command is meant


def _flag_values(tokens: Sequence[str]) -> dict[str, str]:
    """Every ``--flag`` and what stands behind it, roughly: enough to tell commands apart."""
    values = {}
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        name, sign, value = token.partition("=")
        if name.startswith("--"):
            values[name] = value if sign else following
    return values


def _names_task(file: Path) -> bool:
    try:
        return "task" in read_toml(file)
    except ConfigError:
        return False  # the command that reads it says what is wrong


# --- settings and folders


def _saved_settings(folder: Path, upper: TaskRunSettings) -> TaskRunSettings:
    """The settings that a run was started with, under those given now.

    Raises:
        CheckpointError: There is no run of this command in the folder.
        ConfigError: A setting was given that a run cannot change on the way.
    """
    file = folder / SETTINGS
    if not file.is_file() or not _names_task(file):
        raise CheckpointError(
            f"{folder} holds no run over a task to resume: its {SETTINGS} "
            f"{'names none' if file.is_file() else 'is missing'}. Start without --resume."
        )
    saved = read_task_settings(file)
    pairs = [({"task": saved.task}, {"task": upper.task} if upper.task else {})]
    for name in ("settings", "model", "orchestration"):
        pairs.append((getattr(saved, name), getattr(upper, name)))
    for was, now in pairs:
        for name, value in now.items():
            if was.get(name) != value:
                raise ConfigError(
                    f"{name} = {value!r} was given, but the run in {folder} has "
                    f"{was.get(name)!r}, and only settings of the training can change on "
                    "--resume. Leave it out, or start another run."
                )
    return saved.under(upper)


# --- running


@contextmanager
def _process_group() -> Iterator[None]:
    """The processes that torchrun started, as one group."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch.distributed as dist

    # Gradients are small and the rest are objects: gloo does both, on any device.
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _own_device(device: str) -> str:
    """Of several processes on one machine each has a GPU of its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def _task(settings: TaskRunSettings, processes: int, progress: Progress) -> Task:
    """The task; of several processes the first one fills the cache that the others read."""
    import torch.distributed as dist

    from imadarem.data.task_registry import load_task, task_settings
    from imadarem.orchestrator.processes import rank, world_size

    assert settings.task is not None
    known = task_settings(settings.task)
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in settings.settings:
            raise ConfigError(f"the task {settings.task} needs --set {name}=VALUE.")
    means: dict[str, Any] = {"processes": processes, "progress": progress}
    ours = {name: value for name, value in means.items() if name in known}
    if rank() > 0:
        dist.barrier()
    task = load_task(settings.task, **{**ours, **settings.settings})
    if rank() == 0 and world_size() > 1:
        dist.barrier()
    return task


def _finish(trainer: TaskTrainer, last: TaskEvaluated, folder: Path, json: bool) -> int:
    finished = trainer.step >= trainer.config.steps
    if not finished:
        note(f"stopped at step {trainer.step:,}; everything is saved", style="bold")
        # Alone on its line, so that it can be copied.
        command = f"imadarem train --out {shlex.quote(str(folder))} --resume"
        note(f"go on with: {command}", style="bold")
        return INTERRUPTED
    model = folder / "model"
    if json:
        skipped = trainer.orchestrator.record.skipped
        json_line({"kind": "result", **asdict(last), "skipped": skipped, "model": str(model)})
        return 0
    heading(f"done: {trainer.step:,} steps")
    for line in accuracies(last):
        _print(f"held out, {line}")
    if trainer.orchestrator.record.skipped:
        _print(f"{trainer.orchestrator.record.skipped} steps were skipped: not finite")
    _print(f"model: {model}\nrecords: {folder / 'metrics.jsonl'}")
    name = shlex.quote(str(model))
    if trainer.task.name in NEXT:
        heading("next")
        _print(f"  {NEXT[trainer.task.name].format(name)}")
    return 0


def _print(text: str) -> None:
    out().print(Text(text))
