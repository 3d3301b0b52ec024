"""The settings of a run over a task: its data, the model, the orchestration, the training."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imadarem.cli.settings import (
    DECIDED_BY_DATA,
    NAMED,
    check_table,
    flags_of,
    read_toml,
    toml_lines,
)
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, nearest
from imadarem.orchestrator.config import OrchestrationConfig, without_retired
from imadarem.orchestrator.training_settings import TaskTrainingConfig

__all__ = [
    "OrchestrationFlags",
    "TaskModelFlags",
    "TaskRunSettings",
    "TaskTrainingFlags",
    "parse_settings",
    "read_task_settings",
]

#: Settings of the model that the task decides; and this command fills no memory.
DECIDED_BY_TASK = (*DECIDED_BY_DATA, "relations", "max_seq_len", "memory")
TABLES = ("settings", "model", "orchestration", "training")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Where a task departs from the defaults of the configurations.

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


ANY_TASK = Recipe(
    model={
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
        "backprop_truncate_steps": 2,
        "step_weighting": "uniform",
        "canvas_edit_strategies": ["replace"],
    },
)
#: Many texts fill a hole well: no answer is right or wrong as a whole, and samples differ.
_OPEN_ENDED = Recipe(
    model={"num_layers": 4, "inner_steps": 1, "halting": False, "sampling_temperature": 1.0},
    orchestration={"canvas_edit_strategies": ["replace", "patch"]},
    training={"learning_rate": 1e-3},
)
RECIPES: Mapping[str, Recipe] = {
    # A cell is known by its row, column and box alone: so every symmetric copy is the same.
    "sudoku": Recipe(
        model={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_layers": 1,
            "inner_steps": 4,
            "positions": False,
            "attention": False,
        },
        training={"optimizer": "muon", "steps": 2500},
    ),
    "arc": Recipe(training={"batch_size": 16}),
    "text": _OPEN_ENDED,
    "molecules": _OPEN_ENDED,
}


def _shown(table: str) -> dict[str, str]:
    """Defaults as the help gives them: those of any task, or that they differ."""
    differ = {name for recipe in RECIPES.values() for name in getattr(recipe, table)}
    common = {name: str(value) for name, value in getattr(ANY_TASK, table).items()}
    return {**common, **dict.fromkeys(differ, "by task")}


TaskModelFlags = flags_of(
    ImplicitRefinementConfig, "Model", 1, DECIDED_BY_TASK, shown=_shown("model")
)
OrchestrationFlags = flags_of(
    OrchestrationConfig,
    "Orchestration",
    2,
    # One seed for all: that of the training.
    ("seed",),
    shown=_shown("orchestration"),
    kinds={"step_weighting": str, "step_loss_weights": dict[str, float]},
    names={"max_steps_train": "--unroll-steps", "backprop_truncate_steps": "--window"},
)
TaskTrainingFlags = flags_of(TaskTrainingConfig, "Training", 3, shown=_shown("training"))


@dataclass(frozen=True, kw_only=True)
class TaskRunSettings:
    """Everything that decides a run, as given: what is absent takes its default.

    Attributes:
        task: Its name, or None.
        settings: Of the task.
        model: Of the model, without those that the task decides.
        orchestration: Of the orchestration, without the seed.
        training: Of the training.
    """

    task: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    orchestration: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def under(self, upper: TaskRunSettings) -> TaskRunSettings:
        """These settings, overridden by those of ``upper``."""
        return TaskRunSettings(
            task=upper.task or self.task,
            **{name: {**getattr(self, name), **getattr(upper, name)} for name in TABLES},
        )

    def anchored(self) -> TaskRunSettings:
        """With absolute paths, so that a run can be resumed from another directory."""
        settings = dict(self.settings)
        for name, value in settings.items():
            if isinstance(value, str) and value not in NAMED and Path(value).exists():
                settings[name] = os.path.abspath(value)
        return dataclasses.replace(self, settings=settings)

    def resolved(self) -> TaskRunSettings:
        """With every default filled in, but for the task's own.

        Raises:
            ConfigError: There is no task, or a setting is out of range.
        """
        if self.task is None:
            raise ConfigError("there is no task to train on: give --task sudoku, say.")
        recipe = RECIPES.get(self.task, Recipe()).over(ANY_TASK)
        model = {**recipe.model, **self.model}
        # One token and one position only: the real sizes come from the task.
        smallest = {"vocab_size": 1, "relations": [[[0]]]}
        model = ImplicitRefinementConfig.from_dict({**smallest, **model}).to_dict()
        for name in ("model_type", *DECIDED_BY_TASK):
            del model[name]
        with warnings.catch_warnings():
            # The run's own configuration says it again.
            warnings.simplefilter("ignore", UserWarning)
            orchestration = OrchestrationConfig.from_dict(
                {**recipe.orchestration, **self.orchestration}
            ).to_dict()
        del orchestration["seed"]
        training = TaskTrainingConfig.from_dict({**recipe.training, **self.training})
        return TaskRunSettings(
            task=self.task,
            settings=self.settings,
            model=model,
            orchestration=orchestration,
            training=dataclasses.asdict(training),
        )

    def to_toml(self) -> str:
        """As a file that ``--config`` reads."""
        parts = [toml_lines({"task": self.task})]
        for title in TABLES:
            if getattr(self, title):
                parts.append(f"[{title}]\n{toml_lines(getattr(self, title))}")
        return "\n".join(parts)


def read_task_settings(path: str | Path) -> TaskRunSettings:
    """Read a TOML file of settings.

    Raises:
        ConfigError: The file is missing or not TOML, a setting is unknown or of a wrong
            type. The task's own settings are checked where the task is loaded.
    """
    content = read_toml(path)
    tables = {name: content.pop(name, {}) for name in TABLES}
    task = content.pop("task", None)
    if content:
        name = next(iter(content))
        raise ConfigError(
            f"{path}: unknown setting {name!r}{nearest(name, ['task', *TABLES])}. A file of a "
            f"task holds task and the tables {', '.join(TABLES)}."
        )
    if not isinstance(task, str | None) or not isinstance(tables["settings"], dict):
        raise ConfigError(f"{path}: task must be a name, and [settings] a table.")
    if isinstance(tables["orchestration"], dict):
        tables["orchestration"] = without_retired(tables["orchestration"])
    for name, kind in (
        ("model", TaskModelFlags),
        ("orchestration", OrchestrationFlags),
        ("training", TaskTrainingFlags),
    ):
        check_table(path, f"[{name}] ", tables[name], kind)
    return TaskRunSettings(
        task=task,
        **{**tables, "settings": {k: with_numbers(v) for k, v in tables["settings"].items()}},
    )


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """``["sizes=4,6", "givens=minimal"]`` → ``{"sizes": [4, 6], "givens": "minimal"}``.

    A value is JSON, or a list of values between commas, or else a text.

    Raises:
        ConfigError: There is no ``=``.
    """
    settings = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"--set {text} must be NAME=VALUE, such as --set sizes=6.")
        settings[name.strip().replace("-", "_")] = with_numbers(_value(value.strip()))
    return settings


def with_numbers(value: Any) -> Any:
    """Mappings with keys such as ``"9"`` have numbers for keys: JSON and TOML know none."""
    if not isinstance(value, Mapping):
        return value
    return {int(key) if key.isdigit() else key: with_numbers(v) for key, v in value.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    return [_value(part.strip()) for part in text.split(",")] if "," in text else text
