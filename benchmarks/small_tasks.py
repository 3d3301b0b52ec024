"""Five small tasks with the default settings of a task: do more steps help, does the head stop?

    OMP_NUM_THREADS=1 python benchmarks/small_tasks.py                 about six CPU minutes
    OMP_NUM_THREADS=1 python benchmarks/small_tasks.py --seconds 40 --only sort --set halting=false
    OMP_NUM_THREADS=1 python benchmarks/small_tasks.py --only --reasoning gcd spell_backward --plain

Each task is trained for so many CPU seconds by the settings of ``imadarem train --task`` for a
task without a recipe of its own. On its held-out questions, with the averaged weights: the
share that is entirely right after 1, 2, 4 and 8 steps, none stopping early; then the rule of
the halting head at the orchestrator's threshold: the share of rows that it stops, the share
that it stops wrong, and the mean steps. ``--reasoning`` adds generators of reasoning-gym.
``--plain`` trains a plain masked model of as many parameters for as many seconds beside it
(*same* in ``plain_sudoku.py``), and fills its most confident blanks first in 1, 2, 4 and 8 passes.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from plain_sudoku import decode, load_plain, train_plain

from imadarem import ImplicitRefinementConfig
from imadarem.cli.recipes import recipe_of
from imadarem.cli.settings import parse_settings
from imadarem.cli.start import task_model
from imadarem.data.pairs import pairs_task
from imadarem.data.task_registry import load_task
from imadarem.data.tasks import Task
from imadarem.orchestrator.accuracy import record_steps
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.training.optim import build_optimizer, parameter_groups
from imadarem.training.settings import TrainingConfig

SHOWN = (1, 2, 4, 8)
HELD_OUT = 300


def sort() -> Task:
    """Six digits in order."""
    rng = random.Random(0)
    words = {"".join(rng.choices("0123456789", k=6)) for _ in range(6000)}
    return pairs_task("sort", [(f"{w}>", "".join(sorted(w))) for w in sorted(words)])


def reverse() -> Task:
    """Eight letters from the end."""
    rng = random.Random(0)
    words = {"".join(rng.choices("abcdefgh", k=8)) for _ in range(6000)}
    return pairs_task("reverse", [(f"{w}>", w[::-1]) for w in sorted(words)])


def brackets() -> Task:
    """The closing brackets of an opened sequence of three kinds."""
    closing = dict(zip("([{", ")]}", strict=True))
    words = ["".join(w) for w in product("([{", repeat=7)]
    return pairs_task("brackets", [(w, "".join(closing[c] for c in reversed(w))) for w in words])


TASKS: dict[str, Callable[[], Task]] = {
    "sort": sort,
    "reverse": reverse,
    "brackets": brackets,
    "addition": lambda: load_task("addition", digits=2, n=4000),
    "modular": lambda: load_task("modular", p=31, train_share=0.7),
}


def trained(
    task: Task, seconds: float, changed: dict[str, Any], seed: int
) -> UnifiedRefinerOrchestrator:
    """An orchestrator that learned a task for so many CPU seconds, the last fifth of them decay."""
    recipe = recipe_of("any")
    model = task_model({**recipe.model, **_of(ImplicitRefinementConfig, changed)}, task, seed)
    model.init_teacher()
    config = OrchestrationConfig(
        **{**recipe.orchestration, **_of(OrchestrationConfig, changed), "seed": seed}
    )
    training = TrainingConfig(**{**recipe.training, **_of(TrainingConfig, changed)})
    orchestrator = UnifiedRefinerOrchestrator(model, task.tokenizer, None, config)
    orchestrator.register(task)
    orchestrator.train()
    groups = parameter_groups(
        model, training.learning_rate, training.weight_decay, training.gate_lr_scale
    )
    optimizer = build_optimizer(training.optimizer, groups, steps=training.steps)
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    start, step = time.process_time(), 0
    while (spent := (time.process_time() - start) / seconds) < 1:
        factor = min(1.0, (step + 1) / training.warmup, (1 - spent) / 0.2)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = factor * rate
        rows = torch.randint(len(task.train), (training.batch_size,), generator=generator)
        orchestrator.train_step(task.train.rows(rows), optimizer, task_type=task.name)
        step += 1
    return orchestrator.averaged()


def _of(config: Any, changed: dict[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(config)}
    return {name: value for name, value in changed.items() if name in known}


def measured(task: Task, seconds: float, changed: dict[str, Any], seed: int) -> dict[str, Any]:
    """One row of the table."""
    orchestrator = trained(task, seconds, changed, seed)
    part = task.valid.rows(slice(0, HELD_OUT))
    record = record_steps(orchestrator, part, max(SHOWN), task.name)
    row: dict[str, Any] = {
        "task": task.name,
        "steps_trained": orchestrator.step_count,
        **{f"exact_at_{steps}": share for steps, share in record.exact(SHOWN).items()},
    }
    if record.halt is not None:
        threshold = orchestrator.config.halt_confidence or 1.0
        halted = record.halted(threshold, max(SHOWN))
        row |= {
            "stopped": float((record.halt >= threshold).any(axis=0).mean()),
            "stopped_wrong": halted.halted_wrong,
            "exact_where_stopped": halted.accuracy,
            "mean_steps": halted.mean_steps,
        }
    return row


def plain(task: Task, seconds: float, changed: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same of a plain masked model of as many parameters."""
    recipe = recipe_of("any")
    config = task_model(
        {**recipe.model, **_of(ImplicitRefinementConfig, changed)}, task, seed
    ).config
    part = task.valid.rows(slice(0, HELD_OUT))
    with tempfile.TemporaryDirectory() as folder:
        train_plain("same", config, task, seconds, Path(folder), seed=seed, tell=lambda line: None)
        found = load_plain(Path(folder))
    assert found is not None
    made, model = found
    row: dict[str, Any] = {"task": f"{task.name}, plain", "steps_trained": made.steps}
    for passes in SHOWN:
        answers, _ = decode(model, part.inputs, passes)
        row[f"exact_at_{passes}"] = float((answers == part.labels).all(dim=1).float().mean())
    return row


def main(arguments: list[str] | None = None) -> None:
    """Print a line of JSON for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of each training")
    parser.add_argument("--only", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--reasoning", nargs="*", default=[], help="generators of reasoning-gym")
    parser.add_argument("--config", default="{}", help="their settings, as JSON")
    parser.add_argument("--plain", action="store_true", help="a plain masked model beside each")
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE over the defaults")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    tasks = [TASKS[name] for name in given.only]
    config = json.loads(given.config)
    tasks += [
        partial(load_task, "reasoning", generator=name, config=config) for name in given.reasoning
    ]
    changed = parse_settings(given.set)
    for build in tasks:
        task = build()
        for measure in [measured, plain] if given.plain else [measured]:
            row = measure(task, given.seconds, changed, given.seed)
            shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
