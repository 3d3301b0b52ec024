"""``imadarem solve --task``: questions of any task, its held-out ones or your own."""

from __future__ import annotations

import time
from collections.abc import Sequence, Sized
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, cast

import torch
from rich.text import Text
from torch import Tensor

from imadarem.cli.console import json_line, out, progress_bar
from imadarem.cli.models import SolverFlags, load_model
from imadarem.cli.results import share
from imadarem.cli.settings import parse_settings
from imadarem.errors import ConfigError
from imadarem.tokenizers import encode_prompt

if TYPE_CHECKING:
    from imadarem.data.tasks import Task
    from imadarem.model import ImplicitRefinementModel

#: Held-out questions that are asked where no --limit is given.
ASKED = 100


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A question, what was written, and whether it is right.

    Attributes:
        question: Its text, with the mask at each blank.
        answer: What was written into the blanks.
        second: The runner-up of a vote; None without one.
        right: By the task's verifier, or else by the label; None where there is neither.
        second_right: Whether the runner-up is right.
        verified: Whether ``right`` comes from the verifier and not from the label.
        steps: Refinement steps that the answer took.
        forward_passes: Passes of all symmetric forms of the question together.
        stopping_reason: Why no further step was taken.
    """

    question: str
    answer: str
    second: str | None
    right: bool | None
    second_right: bool | None
    verified: bool
    steps: int
    forward_passes: int
    stopping_reason: str


def solve_task(
    name: str,
    setting: Sequence[str],
    prompts: Sequence[str],
    solver: SolverFlags,
    *,
    limit: int | None = None,
    json: bool = False,
) -> int:
    """Answer questions of a task and print each with its answer; the exit code.

    Args:
        name: Of the task, as :func:`~imadarem.data.task_registry.load_task` takes it.
        setting: Its settings as NAME=VALUE.
        prompts: Texts with blanks to answer instead of the held-out questions.
        solver: Model, steps, votes (above 1 the two best answers are attempts), and whether the
            task's verifier is asked.
        limit: Held-out questions to ask.
        json: Print JSON Lines.
    """
    from imadarem.data.task_registry import load_task

    if solver.model == type(solver).model:
        raise ConfigError(f"--task {name} needs the model that was trained on it: give --model.")
    task = load_task(name, **parse_settings(setting))
    model = load_model(solver.model, solver.device)
    vocabulary = len(cast(Sized, task.tokenizer))
    if model.config.vocab_size != vocabulary:
        raise ConfigError(
            f"the model has {model.config.vocab_size} tokens and the task {task.name!r} has "
            f"{vocabulary}. Give the settings that the model was trained with as --set."
        )
    inputs, labels = _questions(model, task, prompts, ASKED if limit is None else limit)
    runner = _runner(model, task, solver)
    rows: list[Solved] = []
    start = time.perf_counter()
    with progress_bar("solving", len(inputs)) as advance:
        for first in range(0, len(inputs), solver.batch_size):
            part = slice(first, first + solver.batch_size)
            given = inputs[part]
            found = runner.inference(
                given,
                task_type=task.name,
                max_steps_override=solver.steps,
                width=solver.width,
                votes=solver.votes,
            )
            wanted = None if labels is None else labels[part]
            rows += _judged(task, given, wanted, found, solver.check)
            advance(len(given))
    _deliver(rows, time.perf_counter() - start, json)
    return 1 if any(row.right is False and not row.second_right for row in rows) else 0


def _questions(
    model: ImplicitRefinementModel, task: Task, prompts: Sequence[str], limit: int
) -> tuple[Tensor, Tensor | None]:
    """``(N, L)`` questions, and their labels where they are held-out ones."""
    if not prompts:
        part = task.valid.rows(slice(0, limit))
        return part.inputs, part.labels
    rows = [encode_prompt(task.tokenizer, model.special, text) for text in prompts]
    ids = [torch.tensor(row) for row in rows]
    pad = model.special.pad
    return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad), None


def _runner(model: ImplicitRefinementModel, task: Task, solver: SolverFlags) -> Any:
    from imadarem.orchestrator.config import OrchestrationConfig
    from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator

    config = OrchestrationConfig(
        canvas_edit_strategies=["replace"],
        adaptive_edit_selection=False,
        augmentation_count=max(solver.votes, 300),
        seed=solver.seed,
    )
    runner = UnifiedRefinerOrchestrator(model, task.tokenizer, None, config).eval()
    verify = task.verify if solver.check else None
    runner.register(task.name, symmetry=task.symmetry, verify=verify)
    return runner


def _judged(
    task: Task, inputs: Tensor, labels: Tensor | None, found: dict[str, Any], check: bool
) -> list[Solved]:
    mask = task.tokenizer.mask_token_id
    pad = task.tokenizer.pad_token_id
    verify = task.verify if check else None

    def right(answers: Tensor) -> list[Any]:
        if verify is not None:
            return verify(inputs, answers).tolist()
        if labels is None:
            return [None] * len(answers)
        return ((answers == labels) | (inputs != mask)).all(dim=1).tolist()

    def written(answers: Tensor) -> list[str]:
        texts = []
        for row, given in zip(answers.tolist(), inputs.tolist(), strict=True):
            # From the first blank to the last one, with what is given between: a grid's lines.
            blanks = [place for place, index in enumerate(given) if index == mask]
            part = row[blanks[0] : blanks[-1] + 1]
            texts.append(task.tokenizer.decode([index for index in part if index != pad]))
        return texts

    first = found["output_ids"].cpu()
    second = found["second_output_ids"].cpu() if "second_output_ids" in found else None
    nothing: list[Any] = [None] * len(inputs)
    shown = [_shown(task, row.tolist()) for row in inputs]
    columns = zip(
        shown,
        written(first),
        nothing if second is None else written(second),
        right(first),
        nothing if second is None else right(second),
        found["steps_taken"],
        found["forward_passes"],
        found["stopping_reason"],
        strict=True,
    )
    return [
        Solved(
            question=question,
            answer=answer,
            second=other,
            right=is_right,
            second_right=other_right,
            verified=verify is not None,
            steps=steps,
            forward_passes=passes,
            stopping_reason=reason,
        )
        for question, answer, other, is_right, other_right, steps, passes, reason in columns
    ]


def _shown(task: Task, row: list[int]) -> str:
    """A question with the mask at each blank, or ``?`` where it is a drawing of several lines."""
    mask, pad = task.tokenizer.mask_token_id, task.tokenizer.pad_token_id
    parts = [
        None if blank else task.tokenizer.decode([i for i in ids if i != pad])
        for blank, ids in _runs(row, mask)
    ]
    drawing = any("\n" in part for part in parts if part)
    mark = "?" if drawing else getattr(task.tokenizer, "mask_token", "<mask>")
    return "".join(mark if part is None else part for part in parts)


def _runs(ids: list[int], mask: int | None) -> list[tuple[bool, list[int]]]:
    """A row as runs of given tokens and single blanks."""
    runs: list[tuple[bool, list[int]]] = []
    for index in ids:
        if index != mask and runs and not runs[-1][0]:
            runs[-1][1].append(index)
        else:
            runs.append((index == mask, [index]))
    return runs


def _deliver(rows: list[Solved], seconds: float, json: bool) -> None:
    known = [row for row in rows if row.right is not None]
    summary = {
        "questions": len(rows),
        "right": mean(row.right is True for row in known) if known else None,
        "right_in_two": (
            mean(bool(row.right or row.second_right) for row in known)
            if known and rows[0].second is not None
            else None
        ),
        "steps": mean(row.steps for row in rows),
        "forward_passes": mean(row.forward_passes for row in rows),
        "seconds": seconds,
    }
    if json:
        for row in rows:
            json_line({"kind": "result", **asdict(row)})
        json_line({"kind": "summary", **summary})
        return
    console = out()
    marks = {True: "right", False: "wrong", None: "unchecked"}
    for row in rows:
        gap = "\n" if "\n" in row.question + row.answer else "  "
        console.print(Text(gap.join([row.question, row.answer, marks[row.right]])))
        if row.second is not None and row.second != row.answer:
            attempt = f"second attempt{gap}{row.second}{gap}{marks[row.second_right]}"
            console.print(Text(attempt))
    judged = "" if summary["right"] is None else f", {share(summary['right'])} right"
    if summary["right_in_two"] is not None:
        judged += f", {share(summary['right_in_two'])} in two attempts"
    questions = "1 question" if len(rows) == 1 else f"{len(rows)} questions"
    console.print(Text(f"{questions}{judged}, {summary['steps']:.1f} steps each"))
