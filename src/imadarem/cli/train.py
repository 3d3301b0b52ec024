"""``imadarem train``: train a model on molecules or text, and come back to it later."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from imadarem.cli.before_after import compare_before_after, samples_to_compare
from imadarem.cli.console import heading, json_line, note, out, speaks, stages
from imadarem.cli.models import Switch, device_named, is_molecular
from imadarem.cli.settings import (
    DataFlags,
    ModelFlags,
    RunSettings,
    TrainingFlags,
    given,
    read_settings,
)
from imadarem.cli.start import (
    initial_model,
    new_model,
    prepared_data,
    same_model,
    saved_model,
)
from imadarem.cli.training_view import TrainingView
from imadarem.errors import CheckpointError, ConfigError, ImadaremError
from imadarem.training.settings import TrainingConfig

if TYPE_CHECKING:
    from imadarem.cli.task_settings import TaskRunSettings
    from imadarem.data.prepare import PreparedData
    from imadarem.model import ImplicitRefinementModel
    from imadarem.orchestrator.trainer import TaskTrainer
    from imadarem.training.trainer import Trainer, TrainingResult

__all__ = [
    "INTERRUPTED",
    "SETTINGS",
    "keep_settings",
    "refuse_old_run",
    "resume_run",
    "stopping",
    "train",
]

SETTINGS = "settings.toml"
INTERRUPTED = 130
REASONS_SHOWN = 3
#: Tokens that are named of those that a model is to learn anew.
NEW_SHOWN = 12
#: Seconds in which a second signal is taken for an echo of the first.
SAME_SIGNAL = 1.0
_DATA, _MODEL, _TRAINING = DataFlags(), ModelFlags(), TrainingFlags()


def train(
    *,
    out: Path | None = None,
    resume: Switch = False,
    config: Path | None = None,
    print_config: Switch = False,
    device: str | None = None,
    processes: int | None = None,
    compare: int | None = None,
    json: Switch = False,
    data: DataFlags = _DATA,
    model: ModelFlags = _MODEL,  # type: ignore[valid-type]
    training: TrainingFlags = _TRAINING,  # type: ignore[valid-type]
) -> int:
    """Train a model on molecules, on lines of text, or on a task with answers.

    **Examples**

    ```
    imadarem train --data moses-sample --out runs/first --steps 2000
    imadarem train --data mine.csv --column SMILES --init default --out runs/mine
    imadarem train --data words.txt --tokenizer char --out runs/words
    imadarem train --out runs/first --resume
    imadarem train --task sudoku --out runs/sudoku
    imadarem train --config run.toml --learning-rate 5e-4 --print-config
    python -m torch.distributed.run --nproc_per_node 2 -m imadarem train --data moses
    ```

    Ctrl-C saves and stops; a second one stops at once. All settings can stand in a TOML
    file (`--print-config` writes one); flags win over it.

    With `--task` sudoku, modular, addition, arc, text or molecules, the model learns to
    answer by refinement, and other flags apply: `imadarem train --task sudoku --help`.

    Args:
        out: The run's folder; default is runs/ and the name of the data.
        resume: Go on with the run in that folder, with its settings.
        config: A TOML file of settings.
        print_config: Print the settings as TOML and stop.
        device: cpu or cuda; default is cuda where there is one.
        processes: Worker processes that encode the data; default is one for each core.
        compare: Samples to score before and after a run that starts from another model
            (--init); default is 500 for a file of molecules, 0 scores none.
        json: Print every record as JSON Lines.
    """
    if compare is not None and compare < 0:
        raise ConfigError(f"--compare {compare} must be a number of samples, at least 0.")
    flags = RunSettings(data=given(data), model=given(model), training=given(training))
    lower = read_settings(config) if config is not None else RunSettings()
    settings = lower.under(flags).anchored()
    folder = _folder(out, settings)
    if resume:
        settings = _saved_settings(folder, settings)
    settings = settings.resolved()
    if print_config:
        _print(settings.to_toml())
        return 0
    if not resume:
        refuse_old_run(folder)
    return _train(settings, folder, resume, device, processes, compare, json)


def _train(
    settings: RunSettings,
    folder: Path,
    resume: bool,
    device: str | None,
    processes: int | None,
    compare: int | None,
    json: bool,
) -> int:
    from imadarem.training.trainer import Trainer

    device = device_named(device)
    # 1. The model that the run starts from, if it starts from one, and the data.
    before = saved_model(settings, folder if resume else None)
    with stages() as progress:
        data = prepared_data(settings, before, device, processes, progress)
    _report_rejected(data)
    # 2. The model to train.
    if before is None:
        network = new_model(settings, data)
    elif resume:
        network = same_model(before, data)
    else:
        network = initial_model(before, settings, data)
    _report_lengths(network, data)
    # 3. The run.
    config = TrainingConfig(**settings.training)
    with TrainingView(config, molecular=is_molecular(data.tokenizer), json=json) as view:
        trainer = Trainer(
            network, data.train, data.valid, config, folder, device=device, on_event=view
        )
        if resume:
            resume_run(trainer, folder)
        keep_settings(settings, folder)
        with stopping(trainer):
            result = trainer.run()
    code = _finish(result, folder, json)
    wanted = samples_to_compare(compare, data)
    if code == 0 and speaks() and wanted and "init" in settings.data:
        seed = settings.training["seed"]
        init = settings.data["init"]
        compare_before_after(init, result.model_dir, data, wanted, seed, json)
    return code


# --- settings and folders


def _folder(given_folder: Path | None, settings: RunSettings) -> Path:
    if given_folder is not None:
        return given_folder
    source = settings.data.get("data")
    if source is None:
        raise ConfigError("nothing to train on: give --data moses, moses-sample or FILE.")
    return Path("runs") / Path(source).name.split(".")[0]


def refuse_old_run(folder: Path) -> None:
    """Refuse a folder in which another run would be overwritten.

    Raises:
        ConfigError: It holds a run, or is a file.
    """
    from imadarem.training.run_folder import latest_checkpoint

    if latest_checkpoint(folder) is not None:
        raise ConfigError(
            f"{folder} already holds a run. Go on with it by --resume, or choose another --out."
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; give a folder.")


def _saved_settings(folder: Path, upper: RunSettings) -> RunSettings:
    """The settings that a run was started with, under those given now.

    Raises:
        CheckpointError: There is no run of this command in the folder.
        ConfigError: A setting was given that a run cannot change on the way.
    """
    if not (folder / SETTINGS).is_file():
        raise CheckpointError(
            f"{folder} holds no run to resume: it has no {SETTINGS}. Start without --resume."
        )
    saved = read_settings(folder / SETTINGS)
    for was, now in ((saved.data, upper.data), (saved.model, upper.model)):
        for name, value in now.items():
            if was.get(name) != value:
                raise ConfigError(
                    f"{name} = {value!r} was given, but the run in {folder} has "
                    f"{was.get(name)!r}, and data and model stay as they are on --resume. "
                    "Leave it out, or start another run with --init."
                )
    return saved.under(upper)


def keep_settings(settings: RunSettings | TaskRunSettings, folder: Path) -> None:
    """Write down what the run is started with; of several processes the first one does."""
    if int(os.environ.get("RANK", "0")) == 0:
        from imadarem.checkpoint import write_text

        write_text(settings.to_toml(), folder / SETTINGS)


# --- what is said before the run


def _report_rejected(data: PreparedData) -> None:
    note(
        f"{len(data.train):,} rows to train on, {len(data.valid):,} held out, "
        f"{len(data.tokenizer)} tokens in the vocabulary"
    )
    notes = dict(data.notes)
    if fresh := notes.pop("new_tokens", 0):
        few = " ".join(data.tokenizer.tokens[-fresh:][:NEW_SHOWN])
        note(f"{fresh} tokens are new to the model: {few}{' …' if fresh > NEW_SHOWN else ''}")
    if notes:
        kept = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in notes.items())
        note(f"kept as written: {kept}")
    if data.rejected:
        note(f"{len(data.rejected):,} lines were kept out:", style="yellow")
        if len(data.rejected) > REASONS_SHOWN:
            kinds = Counter(_kind_of_reason(line.reason) for line in data.rejected)
            for reason, count in kinds.most_common(REASONS_SHOWN):
                note(f"  {count:,} × {reason}", style="yellow")
            note("  such as", style="yellow")
        for line in data.rejected[:REASONS_SHOWN]:
            place = f"line {line.line}: " if line.line else ""
            note(f"  {place}{line.text[:50]!r}: {line.reason[:150]}", style="yellow")
        if len(data.rejected) > REASONS_SHOWN:
            note("  … (imadarem data inspect FILE shows more)", style="yellow")


def _kind_of_reason(reason: str) -> str:
    """A reason without what is of one line only: quotations and numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*\d\S*", "…", reason.split(". ")[0])[:90]


def _report_lengths(model: ImplicitRefinementModel, data: PreparedData) -> None:
    size = model.config.max_seq_len - (model.config.length_mode == "eos")
    longer = int((data.train.lengths > size).sum())
    if longer:
        note(f"{longer:,} rows are longer than {size} tokens and are left out", style="yellow")


# --- running


def resume_run(trainer: Trainer | TaskTrainer, folder: Path) -> None:
    """Go on with a run, and say so.

    Raises:
        CheckpointError: There is nothing to go on with, or it is of other settings.
        ConfigError: It is finished.
    """
    step = trainer.resume()
    if step >= trainer.config.steps:
        raise ConfigError(
            f"the run in {folder} is finished: it did all {step:,} steps. Give a larger --steps "
            "to go on."
        )
    note(f"resuming {folder} at step {step:,}")


@contextmanager
def stopping(trainer: Trainer | TaskTrainer) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the trainer to save and stop; the second kills."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    asked = -math.inf

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        now = time.monotonic()
        if asked == -math.inf:
            asked = now
            trainer.request_stop()
            note("\nsaving and stopping; once more stops at once", style="yellow")
        # torchrun passes Ctrl-C on to processes that already had it from the terminal.
        elif now - asked > SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(result: TrainingResult, folder: Path, json: bool) -> int:
    if int(os.environ.get("RANK", "0")) > 0:
        return 0 if result.finished else INTERRUPTED
    command = f"imadarem train --out {shlex.quote(str(folder))} --resume"
    if not result.finished:
        note(f"stopped at step {result.step:,}; everything is saved", style="bold")
        # Alone on its line, so that it can be copied.
        note(f"go on with: {command}", style="bold")
        return INTERRUPTED
    _draw(folder)
    if json:
        json_line({"kind": "result", **result.to_dict()})
        return 0
    model = shlex.quote(str(result.model_dir))
    heading(f"done: {result.step:,} steps")
    _print(f"held-out loss {result.first.loss:.3f} → {result.last.loss:.3f} nats per token")
    if result.skipped:
        _print(f"{result.skipped} steps were skipped because a gradient was not finite")
    _print(f"model: {result.model_dir}\nrecords: {folder / 'metrics.jsonl'}, curve.png")
    heading("next")
    for line in ("sample", "trace", "evaluate -n 1000"):
        name, *rest = line.split(" ", 1)
        _print(" ".join(["  imadarem", name, "--model", model, *rest]))
    return 0


def _draw(folder: Path) -> None:
    from imadarem.training.curves import draw_curve

    try:
        draw_curve(folder / "metrics.jsonl", folder / "curve.png")
    except ImadaremError as error:  # the run is whole without its picture
        note(f"no curve.png: {error}", style="yellow")


def _print(text: str) -> None:
    out().print(Text(text))
