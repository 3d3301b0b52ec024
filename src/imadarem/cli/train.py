"""``imadarem train``: train a model on molecules, text or a task, and come back to it later."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from imadarem.cli.before_after import compare_before_after, samples_to_compare
from imadarem.cli.condition_sources import condition_sources
from imadarem.cli.console import note, speaks, stages
from imadarem.cli.flags import (
    DataFlags,
    ModelFlags,
    OrchestrationFlags,
    TrainingFlags,
    given,
)
from imadarem.cli.models import Switch, device_named, is_molecular
from imadarem.cli.numbers import Processes, whole
from imadarem.cli.settings import RunSettings, parse_settings, read_settings, settings_from_run
from imadarem.cli.start import (
    initial_model,
    loaded_task,
    new_model,
    prepared_data,
    same_model,
    saved_model,
    several_processes,
    task_model,
)
from imadarem.cli.training_report import (
    CURVE,
    draw_records,
    print_line,
    report_data,
    report_end,
    report_task,
)
from imadarem.cli.training_view import TrainingView
from imadarem.errors import CheckpointError, ConfigError
from imadarem.training.settings import TrainingConfig

if TYPE_CHECKING:
    from imadarem.training.contract import TrainingObjective, TrainingResult
    from imadarem.training.trainer import Trainer

SETTINGS = "settings.toml"
#: Seconds in which a second signal is taken for an echo of the first: torchrun passes Ctrl-C
#: on to processes that already had it from the terminal.
SAME_SIGNAL = 1.0
_ADVANCED = Parameter(group=Group("Advanced: run", sort_key=10))
Compared = Annotated[int, whole(0, 1_000_000)]
_DATA, _MODEL, _ORCHESTRATION = DataFlags(), ModelFlags(), OrchestrationFlags()
_TRAINING = TrainingFlags()


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is done with and shown as; nothing that it computes depends on it."""

    folder: Path
    resume: bool
    device: str
    processes: int
    compare: int | None
    json: bool


@dataclass(frozen=True)
class Run:
    """A run that is ready to begin.

    Attributes:
        objective: What to train, on what.
        molecular: Whether samples are molecules.
        then: What there is to do once it ends or is stopped.
    """

    objective: TrainingObjective
    molecular: bool
    then: Callable[[TrainingResult], None]


def train(
    *,
    out: Path | None = None,
    resume: Switch = False,
    config: Path | None = None,
    print_config: Switch = False,
    device: str | None = None,
    processes: Annotated[Processes | None, _ADVANCED] = None,
    compare: Compared | None = None,
    json: Switch = False,
    data: DataFlags = _DATA,
    task: str | None = None,
    setting: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    training: TrainingFlags = _TRAINING,  # type: ignore[valid-type]
    model: ModelFlags = _MODEL,  # type: ignore[valid-type]
    orchestration: OrchestrationFlags = _ORCHESTRATION,  # type: ignore[valid-type]
) -> int:
    """Train a model on molecules, on lines of text, or on a task with answers.

    **Examples**

    ```
    imadarem train --data moses-sample --out runs/first --steps 2000
    imadarem train --data mine.csv --column SMILES --init smiles --out runs/mine
    imadarem train --data moses --init smiles --condition QED --condition logP --out runs/asked
    imadarem train --data words.txt --tokenizer char --out runs/words
    imadarem train --task sudoku --set sizes=4,6 --unroll-steps 8 --out runs/sudoku
    imadarem train --task text --set source=novel.txt --out runs/novel
    imadarem train --task my_tasks.py:sorting --out runs/sorting
    imadarem train --out runs/first --resume
    imadarem train --config run.toml --learning-rate 5e-4 --print-config
    python -m torch.distributed.run --nproc_per_node 2 -m imadarem train --data moses
    ```

    Ctrl-C saves, compares and stops; a second one stops at once. All settings can be given in a
    TOML file (`--print-config` writes one); flags override it.

    Args:
        out: The run's folder; default: runs/ and the name of the data or the task.
        resume: Continue the run in that folder, with its settings.
        config: A TOML file of settings.
        print_config: Print the settings as TOML and stop.
        device: cpu or cuda; default: cuda where there is one.
        processes: Worker processes that prepare the data; default: one for each core.
        compare: Samples to score before and after a run that starts from another model
            (--init); default: 500 for a file of molecules, 0 scores none.
        json: Print every record as JSON Lines.
        task: Train on a task with answers instead of --data: sudoku, modular, addition, arc,
            text, molecules or reasoning; or a function that returns a Task, as
            my_module:make_task or file.py:make_task.
        setting: A setting of the task as NAME=VALUE; can be repeated. A wrong name lists the
            right ones.
    """
    flags = RunSettings(
        task=task,
        data=given(data),
        settings=parse_settings(setting or []),
        model=given(model),
        orchestration=given(orchestration),
        training=given(training),
    )
    lower = read_settings(config) if config is not None else RunSettings()
    settings = lower.under(flags).anchored()
    folder = _folder(out, settings)
    if resume:
        if not (folder / SETTINGS).is_file():
            raise CheckpointError(
                f"{folder} holds no run to resume: it has no {SETTINGS}. Start without --resume."
            )
        settings = settings_from_run(folder, SETTINGS, settings)
    settings = settings.resolved()
    if print_config:
        print_line(settings.to_toml())
        return 0
    if not resume:
        _refuse_old_run(folder)
    options = Options(
        folder=folder,
        resume=resume,
        device=device_named(device),
        processes=processes or os.cpu_count() or 1,
        compare=compare,
        json=json,
    )
    with several_processes(options.device):
        return _train(settings, options)


def _train(settings: RunSettings, options: Options) -> int:
    from imadarem.training.run_folder import hold
    from imadarem.training.trainer import Trainer

    with ExitStack() as during:
        # A resumed run reads the folder. Another one makes it, once there is data to train on.
        if options.resume:
            during.enter_context(hold(options.folder))
        run = _on_rows(settings, options) if settings.task is None else _on_task(settings, options)
        if not options.resume:
            during.enter_context(hold(options.folder))
            _refuse_old_run(options.folder)
        config = TrainingConfig(**settings.training)
        view = TrainingView(config.steps, molecular=run.molecular, json=options.json)
        trainer = Trainer(
            run.objective, config, options.folder, device=options.device, on_event=view
        )
        if options.resume:
            _resume(trainer)
        _keep_settings(settings, options.folder)
        with view, _stopping(trainer):
            result = trainer.run(locked=True)
    code = report_end(result, run.objective, options.folder, options.json)
    run.then(result)
    return code


def _on_rows(settings: RunSettings, options: Options) -> Run:
    """A run on rows of data: they, the model that it starts from, and what to compare."""
    from imadarem.training.masked import MaskedTraining

    before = saved_model(settings, options.folder if options.resume else None)
    with stages() as progress:
        data = prepared_data(settings, before, options.processes, progress)
    if before is None:
        model = new_model(settings, data)
    elif options.resume:
        model = same_model(before, data)
    else:
        model = initial_model(before, settings, data)
    report_data(data, model)

    def compare(result: TrainingResult) -> None:
        wanted = samples_to_compare(options.compare, data)
        if speaks() and wanted and "init" in settings.data:
            seed, init = settings.training["seed"], settings.data["init"]
            compare_before_after(init, result.model_dir, data, wanted, seed, options.json)

    conditions = condition_sources(settings, data)
    objective = MaskedTraining(model, data.train, data.valid, conditions)
    return Run(objective, is_molecular(data.tokenizer), compare)


def _on_task(settings: RunSettings, options: Options) -> Run:
    """A run over a task: its episodes, a model for them, and what unrolls it."""
    from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
    from imadarem.orchestrator.training import UnrolledTraining

    with stages() as progress:
        task = loaded_task(settings, options.processes, progress)
    report_task(task)
    model = task_model(settings.model, task, settings.training["seed"])
    config = settings.orchestration_config()
    orchestrator = UnifiedRefinerOrchestrator(model, task.tokenizer, None, config)
    return Run(UnrolledTraining(orchestrator, task), False, lambda result: None)


# --- settings and folders


def _folder(given_folder: Path | None, settings: RunSettings) -> Path:
    if given_folder is not None:
        return given_folder
    # A task of the user's is file.py:function: the run goes by the function.
    return Path("runs") / Path(settings.subject).name.rpartition(":")[2].split(".")[0]


def _refuse_old_run(folder: Path) -> None:
    """Refuse a folder in which another run would be overwritten."""
    from imadarem.training.run_folder import latest_checkpoint

    if latest_checkpoint(folder) is not None:
        raise ConfigError(
            f"{folder} already holds a run. Continue it with --resume, or choose another --out."
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; give a folder.")


def _keep_settings(settings: RunSettings, folder: Path) -> None:
    """Write down what the run is started with; of several processes the first one does."""
    if int(os.environ.get("RANK", "0")) == 0:
        from imadarem.files import write_text

        write_text(settings.to_toml(), folder / SETTINGS)


# --- running


def _resume(trainer: Trainer) -> None:
    """Go on with a run, and say so."""
    step = trainer.resume()
    if trainer.finished:
        # A run that was killed at its very end has no picture yet.
        if not (trainer.run_dir / CURVE).exists():
            draw_records(trainer.run_dir, trainer.objective)
        raise ConfigError(
            f"the run in {trainer.run_dir} is finished: it did all {step:,} steps. Give a larger "
            "--steps to continue."
        )
    note(f"resuming {trainer.run_dir} at step {step:,}")


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the trainer to save and stop; the second kills."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    echo = SAME_SIGNAL if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0.0
    first_signal = -math.inf

    def stop(number: int, frame: Any) -> None:
        nonlocal first_signal
        now = time.monotonic()
        if first_signal == -math.inf:
            first_signal = now
            note("\nsaving and stopping; a second Ctrl-C stops at once", style="yellow")
            trainer.request_stop()
        elif now - first_signal > echo:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
