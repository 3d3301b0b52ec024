"""Where each kind of training run departs from the defaults of the configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Hidden units of a new molecule model's joint head.
JOINT_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that differ from the defaults.

    Attributes:
        model: Settings of the model.
        orchestration: Settings of the orchestration.
        training: Settings of the training.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    orchestration: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def over(self, lower: Recipe) -> Recipe:
        """``lower``, overridden by this one."""
        return Recipe(
            model={**lower.model, **self.model},
            orchestration={**lower.orchestration, **self.orchestration},
            training={**lower.training, **self.training},
        )


#: A run on rows of data.
ON_ROWS = Recipe(model={"conv_kernel_size": 5, "self_conditioning": False})
#: Measured on five small tasks (benchmarks/small_tasks.py): in as many CPU seconds, steps on a
#: carried state learn what windows of two steps do not begin to.
ANY_TASK = Recipe(
    model={
        "hidden_size": 64,
        "num_layers": 2,
        "dropout": 0.0,
        "inner_steps": 2,
        "carry": True,
        "halting": True,
        "length_mode": "drawn",
        "sampling_temperature": 0.0,
        "ema_decay": 0.99,
    },
    orchestration={
        "max_steps_train": 8,
        "max_steps_infer": 6,
        "unroll_mode": "carry",
        "backprop_truncate_steps": 2,
        "step_weighting": "uniform",
        "halt_exploration": 0.5,
        "canvas_edit_strategies": ["replace"],
    },
    training={
        "optimizer": "muon",
        "steps": 2000,
        "learning_rate": 2e-3,
        "schedule": "wsd",
        "warmup_steps": 50,
        "gate_lr_scale": 1.0,
        "eval_every": 250,
        "save_every": 250,
        "valid_rows": 300,
    },
)
#: Many texts fill a hole well: no answer is right or wrong as a whole, and samples differ.
_OPEN_ENDED = Recipe(
    model={
        "hidden_size": 128,
        "num_layers": 4,
        "inner_steps": 1,
        "halting": False,
        "sampling_temperature": 1.0,
    },
    orchestration={"unroll_mode": "window", "canvas_edit_strategies": ["replace", "patch"]},
    training={"optimizer": "adamw", "learning_rate": 1e-3},
)
RECIPES: Mapping[str, Recipe] = {
    # A cell is known by its row, column and box alone: so every symmetric copy is the same.
    "sudoku": Recipe(
        model={
            "intermediate_size": 128,
            "num_layers": 1,
            "inner_steps": 4,
            "positions": False,
            "attention": False,
        },
        orchestration={"unroll_mode": "window"},
        training={"steps": 2500},
    ),
    "arc": Recipe(model={"hidden_size": 128}, training={"batch_size": 16}),
    "text": _OPEN_ENDED,
    "molecules": _OPEN_ENDED,
}


def recipe_of(task: str | None) -> Recipe:
    """The recipe of a task, or of a run on rows of data where there is none."""
    return ON_ROWS if task is None else RECIPES.get(task, Recipe()).over(ANY_TASK)
