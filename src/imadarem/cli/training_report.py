"""What is printed before a training run begins and after it ends."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from imadarem.cli.console import heading, json_line, note, out
from imadarem.cli.models import is_molecular
from imadarem.cli.results import share
from imadarem.cli.training_view import accuracies
from imadarem.errors import ImadaremError

if TYPE_CHECKING:
    from imadarem.data.prepare import PreparedData
    from imadarem.data.tasks import Task
    from imadarem.model import ImplicitRefinementModel
    from imadarem.training.contract import TrainingObjective, TrainingResult

INTERRUPTED = 130
#: The picture of a run's records, in its folder.
CURVE = "curve.png"
REASONS_SHOWN = 3
#: Tokens that are named of those that a model is to learn anew.
NEW_SHOWN = 12
#: What can be done with a model of a task on the command line.
NEXT = {
    "sudoku": "imadarem solve --model {} puzzle.txt",
    "text": "imadarem infill --model {} PROMPT   (<mask> for each blank)",
    "molecules": "imadarem infill --model {} PROMPT   (<mask> for each blank)",
}
SOLVE = "imadarem solve --model {} --task TASK   (--task and --set as in training)"


def report_data(data: PreparedData, model: ImplicitRefinementModel) -> None:
    """How many rows there are, and which were kept out and why."""
    note(
        f"{len(data.train):,} rows to train on, {len(data.valid):,} held out, "
        f"{len(data.tokenizer)} tokens in the vocabulary"
    )
    notes = dict(data.notes)
    if fresh := notes.pop("new_tokens", 0):
        few = " ".join(data.tokenizer.tokens[-fresh:][:NEW_SHOWN])
        note(f"{fresh} tokens are new to the model: {few}{' …' if fresh > NEW_SHOWN else ''}")
    if notes:
        listed = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in notes.items())
        note(f"kept as written: {listed}")
    if data.rejected:
        _report_rejected(data)
    size = model.config.max_seq_len - (model.config.length_mode == "eos")
    longer = int((data.train.lengths > size).sum())
    if longer:
        lost = int(data.train.lengths[data.train.lengths > size].sum())
        note(
            f"{longer:,} rows are longer than {size} tokens and are left out, with "
            f"{share(lost / len(data.train.tokens))} of all tokens; --long-rows chunk cuts them",
            style="yellow",
        )


def report_task(task: Task) -> None:
    """How many episodes there are."""
    note(
        f"{len(task.train):,} episodes to train on, {len(task.valid):,} held out, "
        f"{task.train.inputs.shape[1]} tokens each at most"
    )


def report_end(
    result: TrainingResult, objective: TrainingObjective, folder: Path, json: bool
) -> int:
    """Say how a run ended and what can be done next.

    Returns:
        The exit code: 0, or 130 for a run that was stopped.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        return 0 if result.finished else INTERRUPTED
    if not result.finished:
        note(f"stopped at step {result.step:,}; everything is saved", style="bold")
        # Alone on its line, so that it can be copied.
        command = f"imadarem train --out {shlex.quote(str(folder))} --resume"
        note(f"continue with: {command}", style="bold")
        return INTERRUPTED
    task = getattr(objective, "task", None)
    draw_records(folder, objective)
    if json:
        json_line({"kind": "result", **_record(result, task)})
        return 0
    heading(f"done: {result.step:,} steps")
    if task is None:
        losses = f"{result.first.loss:.3f} → {result.last.loss:.3f}"
        print_line(f"held-out loss {losses} nats per token")
    else:
        for line in accuracies(result.last):
            print_line(f"held out, {line}")
    if result.skipped:
        print_line(f"{result.skipped} steps were skipped because a gradient was not finite")
    picture = ", curve.png" if task is None else ""
    print_line(f"model: {result.model_dir}\nrecords: {folder / 'metrics.jsonl'}{picture}")
    _report_next(shlex.quote(str(result.model_dir)), task)
    return 0


def print_line(text: str) -> None:
    """A line of the command's result."""
    out().print(Text(text))


def _record(result: TrainingResult, task: Task | None) -> dict[str, Any]:
    if task is None:
        return result.to_dict()
    ends = {"step": result.step, "skipped": result.skipped, "model": str(result.model_dir)}
    return {**ends, **result.last.to_dict()}


def _report_next(model: str, task: Task | None) -> None:
    if task is None:
        heading("next")
        for line in ("sample", "trace", "evaluate -n 1000"):
            name, *rest = line.split(" ", 1)
            print_line(" ".join(["  imadarem", name, "--model", model, *rest]))
    else:
        heading("next")
        print_line(f"  {NEXT.get(task.name, SOLVE).format(model)}")


def _report_rejected(data: PreparedData) -> None:
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
    if is_molecular(data.tokenizer):
        note("  broken SMILES: imadarem repair --file FILE --check rdkit --out REPAIRED")


def _kind_of_reason(reason: str) -> str:
    """A reason without what is of one line only: quotations and numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*\d\S*", "…", reason.split(". ")[0])[:90]


def draw_records(folder: Path, objective: TrainingObjective) -> None:
    """Draw the records of a run beside them; those of a task have no picture."""
    if hasattr(objective, "task"):
        return
    from imadarem.training.curves import draw_curve

    try:
        draw_curve(folder / "metrics.jsonl", folder / CURVE)
    except ImadaremError as error:  # the run is whole without its picture
        note(f"no curve.png: {error}", style="yellow")
