"""The settings of a training run: from flags, a TOML file or a run folder, and back to TOML."""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from imadarem.cli.flags import DECIDED_BY_DATA, FROM_THE_DATA, TYPES, DataFlags
from imadarem.cli.recipes import recipe_of
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, nearest
from imadarem.orchestrator.config import OrchestrationConfig, without_retired
from imadarem.training.settings import (
    OF_ROWS_ALONE,
    TrainingConfig,
    refuse_parts_trained_by_unrolling,
)

#: Data sets, notations and models that go by a name, even beside a file of that name.
NAMED = (
    *("moses", "moses-sample", "selfies", "smiles", "safe", "char"),
    *("default", "druglike", "sudoku", "antiberty"),
)
#: Settings of the model that a task decides; and this command fills no memory.
DECIDED_BY_TASK = (*DECIDED_BY_DATA, "relations", "max_seq_len", "memory")
TABLES = ("data", "settings", "model", "orchestration", "training")
#: Settings of the orchestration that are given as settings of the training.
BY_THE_TRAINING = {
    "gradient_clip_threshold": "gradient_clip",
    "mixed_precision": "mixed_precision",
    "seed": "seed",
}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that decides a run, as given: what is absent takes its default.

    Attributes:
        task: The name of a task, or None for a run on rows of data.
        data: Settings of :class:`~imadarem.cli.flags.DataFlags`, for rows of data.
        settings: Of the task.
        model: Of the model, without those that the data or the task decides.
        orchestration: Of the orchestration, for a task.
        training: Of the training.
    """

    task: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    orchestration: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The task or the data.

        Raises:
            ConfigError: Neither was given.
        """
        subject = self.task or self.data.get("data")
        if subject is None:
            raise ConfigError(
                "there is nothing to train on: give --data moses, moses-sample or FILE, or "
                "--task sudoku, modular, addition, arc, text, molecules or reasoning."
            )
        return str(subject)

    def under(self, upper: RunSettings) -> RunSettings:
        """These settings, overridden by those of ``upper``."""
        return RunSettings(
            task=upper.task or self.task,
            **{name: {**getattr(self, name), **getattr(upper, name)} for name in TABLES},
        )

    def anchored(self) -> RunSettings:
        """With absolute paths, so that a run can be resumed from another directory."""
        named = ("data", "tokenizer", "init", "backbone")
        paths = {name: self.data[name] for name in named if name in self.data}
        return dataclasses.replace(
            self,
            task=_absolute_file(self.task),
            data={**self.data, **_absolute(paths)},
            settings=_absolute(self.settings),
        )

    def resolved(self) -> RunSettings:
        """With every default filled in that depends neither on the data nor on the task's rows."""
        subject = self.subject
        return self._on_rows() if self.task is None else self._on_task(subject)

    def to_toml(self) -> str:
        """As a file that ``--config`` reads."""
        parts = [_toml_lines({"task": self.task, **self.data})]
        for title in TABLES[1:]:
            if getattr(self, title):
                parts.append(f"[{title}]\n{_toml_lines(getattr(self, title))}")
        return "\n".join(parts)

    def _on_rows(self) -> RunSettings:
        for table in ("settings", "orchestration"):
            for name in getattr(self, table):
                raise ConfigError(f"{name} is a setting of a task, and no --task was given.")
        training = dataclasses.asdict(TrainingConfig.from_dict(dict(self.training)))
        data = {"valid_fraction": 0.1, **self.data}
        _check_start(data)
        if "init" in data or "backbone" in data:
            return RunSettings(data=data, model=dict(self.model), training=training)
        data = {"tokenizer": "selfies", **data}
        model = {**recipe_of(None).model, **self.model}
        # One token only: the vocabulary, and with it the real size, comes from the data.
        config = ImplicitRefinementConfig.from_dict({"vocab_size": 1, **model})
        refuse_parts_trained_by_unrolling(config)
        left_open = FROM_THE_DATA.keys() - model.keys()
        checked = _without(config.to_dict(), ("model_type", *DECIDED_BY_DATA, *left_open))
        return RunSettings(data=data, model=checked, training=training)

    def _on_task(self, task: str) -> RunSettings:
        for name in self.data:
            raise ConfigError(
                f"--{name.replace('_', '-')} is for rows of data, and a task was given. Settings "
                "of a task are given as --set NAME=VALUE."
            )
        for name in OF_ROWS_ALONE:
            if name in self.training:
                raise ConfigError(
                    f"{name} is a setting of training on rows of data; the task {task} does not "
                    "use it. Leave it out."
                )
        for name in DECIDED_BY_TASK:
            if self.model.get(name):
                raise ConfigError(f"{name} is decided by the task {task}. Leave it out.")
        recipe = recipe_of(task)
        # One token and one position only: the real sizes come from the task.
        smallest = {"vocab_size": 1, "relations": [[[0]]]}
        model = ImplicitRefinementConfig.from_dict({**smallest, **recipe.model, **self.model})
        training = TrainingConfig.from_dict({**recipe.training, **self.training})
        with warnings.catch_warnings():
            # The run's own configuration says it again.
            warnings.simplefilter("ignore", UserWarning)
            orchestration = OrchestrationConfig.from_dict(
                {
                    **recipe.orchestration,
                    **self.orchestration,
                    **{name: getattr(training, ours) for name, ours in BY_THE_TRAINING.items()},
                }
            )
        window = "backprop_truncate_steps"
        used = orchestration.gradient_mode in ("window", "last_k")
        if not used and self.orchestration.get(window) not in (None, recipe.orchestration[window]):
            warnings.warn(
                f"{window}={self.orchestration[window]} (--window) has no effect with "
                f"unroll_mode={orchestration.gradient_mode!r}. Leave it out, or give --unroll-mode "
                "window or last_k.",
                UserWarning,
                stacklevel=3,
            )
        return RunSettings(
            task=task,
            settings=self.settings,
            model=_without(model.to_dict(), ("model_type", *DECIDED_BY_TASK)),
            orchestration=_without(orchestration.to_dict(), tuple(BY_THE_TRAINING)),
            training=_without(dataclasses.asdict(training), OF_ROWS_ALONE),
        )

    def orchestration_config(self) -> OrchestrationConfig:
        """The orchestrator's settings of a resolved run over a task."""
        shared = {name: self.training[ours] for name, ours in BY_THE_TRAINING.items()}
        return OrchestrationConfig(**self.orchestration, **shared)


def _check_start(data: Mapping[str, Any]) -> None:
    """Refuse settings of the model to start from that exclude each other."""
    start = "init" if "init" in data else "backbone"
    if start in data and "tokenizer" in data:
        raise ConfigError(
            f"both a tokenizer and a model to start from were given, and --{start} brings its own "
            "tokenizer. Leave one of the two out."
        )
    if "init" in data and "backbone" in data:
        raise ConfigError("give --init or --backbone, not both: each names the model to train.")
    for name in ("freeze", "lora"):
        if data.get(name) and "backbone" not in data:
            raise ConfigError(f"--{name} has no effect without --backbone.")
    if data.get("freeze") and data.get("lora"):
        raise ConfigError(
            "--lora trains adapters, and --freeze leaves the backbone without. Give one of the two."
        )


def settings_from_run(folder: Path, file: str, upper: RunSettings) -> RunSettings:
    """The settings that a run was started with, under those given now.

    Args:
        folder: Of the run.
        file: Name of the file of its settings.
        upper: What was given now.
    """
    saved = read_settings(folder / file)
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [
        (getattr(saved, name), getattr(upper, name)) for name in TABLES if name != "training"
    ]
    pairs.append(({"task": saved.task}, {"task": upper.task} if upper.task else {}))
    for was, now in pairs:
        for name, value in now.items():
            if was.get(name) != value:
                raise ConfigError(
                    f"{name} = {value!r} was given, but the run in {folder} has "
                    f"{was.get(name)!r}, and only settings of the training can change on "
                    "--resume. Leave it out, or start another run."
                )
    return saved.under(upper)


def read_settings(path: str | Path) -> RunSettings:
    """Read a TOML file of settings."""
    content = _read_toml(path)
    tables = {name: content.pop(name, {}) for name in TABLES[1:]}
    task = content.pop("task", None)
    if not isinstance(task, str | None) or not isinstance(tables["settings"], dict):
        raise ConfigError(f"{path}: task must be a name, and [settings] a table.")
    if isinstance(tables["orchestration"], dict) and isinstance(tables["training"], dict):
        tables["orchestration"] = without_retired(tables["orchestration"])
        # Files of version 0.1 have them here.
        for theirs, ours in BY_THE_TRAINING.items():
            if theirs in tables["orchestration"]:
                tables["training"].setdefault(ours, tables["orchestration"].pop(theirs))
    _check_table(path, "", content, DataFlags, ("task", *TABLES[1:]))
    for name, kind in (
        ("model", ImplicitRefinementConfig),
        ("orchestration", OrchestrationConfig),
        ("training", TrainingConfig),
    ):
        _check_table(path, f"[{name}] ", tables[name], kind)
    tables["settings"] = {k: _with_numbers(v) for k, v in tables["settings"].items()}
    return RunSettings(task=task, data=content, **tables)


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """``["sizes=4,6", "givens=minimal"]`` → ``{"sizes": [4, 6], "givens": "minimal"}``.

    A value is JSON, or a list of values between commas, or else a text.
    """
    settings = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"--set {text} must be NAME=VALUE, such as --set sizes=6.")
        settings[name.strip().replace("-", "_")] = _with_numbers(_value(value.strip()))
    return settings


def _with_numbers(value: Any) -> Any:
    """Mappings with keys such as ``"9"`` have numbers for keys: JSON and TOML know none."""
    if not isinstance(value, Mapping):
        return value
    return {int(key) if key.isdigit() else key: _with_numbers(v) for key, v in value.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    return [_value(part.strip()) for part in text.split(",")] if "," in text else text


def _absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Names of files and folders that exist as absolute paths."""
    return {
        name: os.path.abspath(value)
        if isinstance(value, str) and value not in NAMED and Path(value).exists()
        else value
        for name, value in settings.items()
    }


def _absolute_file(task: str | None) -> str | None:
    """``file.py:function`` with the file's absolute path; any other name as it is."""
    if task is None or ".py:" not in task:
        return task
    file, _, function = task.rpartition(":")
    return f"{os.path.abspath(file)}:{function}"


def _without(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _read_toml(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from None


def _check_table(
    path: str | Path, title: str, table: Any, kind: type, more: Sequence[str] = ()
) -> None:
    """Refuse a table with settings that ``kind``, a class of settings, does not have."""
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {title}must be a table of settings.")
    hints = get_type_hints(kind)
    hints = {name: TYPES.get(name, hint) for name, hint in hints.items()}
    for name, value in table.items():
        if name not in hints or name in DECIDED_BY_DATA:
            raise ConfigError(
                f"{path}: unknown setting {title}{name!r}{nearest(name, [*hints, *more])}."
            )
        # By type(), as bool is an int to isinstance(); and a whole number may be a float.
        legal = set(_members(hints[name]))
        if float in legal:
            legal.add(int)
        if type(value) not in legal:
            names = " or ".join(sorted(t.__name__ for t in legal))
            raise ConfigError(f"{path}: {title}{name} = {value!r} must be of type {names}.")


def _members(hint: Any) -> list[type]:
    if get_origin(hint) in (dict, list):
        return [get_origin(hint)]
    members = [t for t in getattr(hint, "__args__", (hint,)) if t is not type(None)]
    return [get_origin(t) or t for t in members]


def _toml_lines(table: Mapping[str, Any]) -> str:
    """A line for each setting that is not None: TOML has no null, absence says it."""
    return "".join(f"{k} = {_toml(v)}\n" for k, v in table.items() if v is not None)


def _toml(value: Any) -> str:
    """JSON's strings, numbers, booleans and lists are TOML's too; its objects are not."""
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
