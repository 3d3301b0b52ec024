"""The settings of a training run: from flags, a TOML file or a run folder, and back to TOML."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from cyclopts import Group, Parameter

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, nearest
from imadarem.training.settings import TrainingConfig

__all__ = [
    "DECIDED_BY_DATA",
    "NAMED",
    "DataFlags",
    "ModelFlags",
    "RunSettings",
    "TrainingFlags",
    "check_table",
    "flags_of",
    "given",
    "read_settings",
    "read_toml",
    "toml_lines",
]

#: Settings of the model that the data and the tokenizer decide.
DECIDED_BY_DATA = (
    "vocab_size",
    "length_counts",
    "mask_token_id",
    "pad_token_id",
    "eos_token_id",
    "nothing_token_id",
)
#: Where the command line departs from the defaults of the configuration.
MODEL_DEFAULTS: dict[str, Any] = {"conv_kernel_size": 5, "self_conditioning": False}
#: Data sets, notations and models that go by a name, even beside a file of that name.
NAMED = ("moses", "moses-sample", "selfies", "smiles", "safe", "char", "default")
DEFERRED = {
    "max_seq_len": "the longest training row",
    "length_mode": "drawn for molecules, else eos",
    "joint_size": "256 for molecules, else 0",
}


def flags_of(
    source: type,
    title: str,
    rank: int,
    leave_out: tuple[str, ...] = (),
    *,
    shown: Mapping[str, str] | None = None,
    kinds: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> type:
    """A dataclass of flags: the settings of ``source``, each None until it is given.

    Help comes from the docstring of ``source``, so that a setting is explained once.

    Args:
        source: A dataclass of settings.
        title: Of the group in the help.
        rank: Of the group among the others.
        leave_out: Settings without a flag.
        shown: What the help gives as a setting's default, where that is not its own.
        kinds: Types of flags that differ from the setting's.
        names: A second name of a flag, such as ``--window``.
    """
    helps = _explanations(source.__doc__ or "")
    group = Group(title, sort_key=rank)
    fields = []
    for setting, own_kind in get_type_hints(source).items():
        if setting in leave_out:
            continue
        default = getattr(source, setting, None)
        own: dict[str, Any] = {}
        if setting in (names or {}):
            own["name"] = [f"--{setting.replace('_', '-')}", (names or {})[setting]]
        parameter = Parameter(
            help=helps.get(setting),
            show_default=(shown or {}).get(setting, "" if default is None else str(default))
            or None,
            group=group,
            negative_iterable=(),
            **own,
        )
        kind = (kinds or {}).get(setting, own_kind)
        fields.append((setting, Annotated[kind | None, parameter], field(default=None)))
    made = dataclasses.make_dataclass(f"{source.__name__}Flags", fields, frozen=True, kw_only=True)
    # cyclopts takes a class of the module "types" for a built-in one without fields.
    made.__module__ = __name__
    return Parameter(name="*")(made)


def _explanations(docstring: str) -> dict[str, str]:
    """``setting: explanation`` of the section ``Args`` of a docstring."""
    section = docstring.partition("Args:\n")[2].partition("\n\n    Raises:")[0]
    found = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", section, re.MULTILINE | re.DOTALL)
    return {
        # Markdown has no roles: ``:class:`Name``` is `Name`.
        name: re.sub(r":\w+:(?=`)", "", " ".join(text.split()).replace("``", "`"))
        for name, text in found
    }


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """What to train on.

    Attributes:
        data: moses (1.6 million molecules), moses-sample (15,000, shipped) or a file.
        column: The column of a table that holds the texts.
        rows: Train on at most so many rows.
        tokenizer: selfies, smiles, safe (fragments) or char, learned from the data, or the
            folder of a saved tokenizer. The first three read molecules, the others lines of
            text. [default: selfies]
        valid_fraction: Share of a file that is held out. [default: 0.1]
        init: Start from this model, its architecture kept: "default", "smiles" or a folder.
            Tokens of the data that its tokenizer does not know are added behind those it
            knows.
    """

    data: str | None = None
    column: str | None = None
    rows: int | None = None
    tokenizer: Annotated[str | None, Parameter(name=["--tokenizer", "--tokens"])] = None
    valid_fraction: float | None = None
    init: str | None = None


ModelFlags = flags_of(
    ImplicitRefinementConfig,
    "Model",
    1,
    DECIDED_BY_DATA,
    shown={**{name: str(value) for name, value in MODEL_DEFAULTS.items()}, **DEFERRED},
)
TrainingFlags = flags_of(TrainingConfig, "Training", 2)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that decides a run, as given: what is absent takes its default.

    Attributes:
        data: Settings of :class:`DataFlags`.
        model: Settings of the model, without those that the data decides.
        training: Settings of the training.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def under(self, upper: RunSettings) -> RunSettings:
        """These settings, overridden by those of ``upper``."""
        return RunSettings(
            data={**self.data, **upper.data},
            model={**self.model, **upper.model},
            training={**self.training, **upper.training},
        )

    def anchored(self) -> RunSettings:
        """With absolute paths, so that a run can be resumed from another directory."""
        data = dict(self.data)
        for name in ("data", "tokenizer", "init"):
            if name in data and Path(data[name]).exists() and data[name] not in NAMED:
                data[name] = os.path.abspath(data[name])
        return RunSettings(data=data, model=self.model, training=self.training)

    def resolved(self) -> RunSettings:
        """With every default filled in that does not depend on the data.

        Raises:
            ConfigError: A setting is out of range.
        """
        training = dataclasses.asdict(TrainingConfig.from_dict(dict(self.training)))
        data = {"valid_fraction": 0.1, **self.data}
        if "init" in data:
            if "tokenizer" in data:
                raise ConfigError(
                    "both a tokenizer and a model to start from were given, and --init brings "
                    "its own tokenizer. Leave one of the two out."
                )
            return RunSettings(data=data, model=dict(self.model), training=training)
        data = {"tokenizer": "selfies", **data}
        model = {**MODEL_DEFAULTS, **self.model}
        # One token only: the vocabulary, and with it the real size, comes from the data.
        checked = ImplicitRefinementConfig.from_dict({"vocab_size": 1, **model}).to_dict()
        for name in ("model_type", *DECIDED_BY_DATA):
            del checked[name]
        for name in DEFERRED.keys() - model.keys():
            del checked[name]
        return RunSettings(data=data, model=checked, training=training)

    def to_toml(self) -> str:
        """As a file that ``--config`` reads."""
        parts = [toml_lines(self.data)]
        for title, table in (("model", self.model), ("training", self.training)):
            if table:
                parts.append(f"[{title}]\n{toml_lines(table)}")
        return "\n".join(parts)


def given(flags: Any) -> dict[str, Any]:
    """The flags that were given."""
    return {k: v for k, v in vars(flags).items() if v is not None}


def read_settings(path: str | Path) -> RunSettings:
    """Read a TOML file of settings.

    Raises:
        ConfigError: The file is missing or not TOML, a setting is unknown or of a wrong
            type.
    """
    content = read_toml(path)
    tables = {name: content.pop(name, {}) for name in ("model", "training")}
    for title, table, kind in (
        ("", content, DataFlags),
        ("[model] ", tables["model"], ModelFlags),
        ("[training] ", tables["training"], TrainingFlags),
    ):
        check_table(path, title, table, kind)
    return RunSettings(data=content, model=tables["model"], training=tables["training"])


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigError: It cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from None


def check_table(path: str | Path, title: str, table: Any, kind: type) -> None:
    """Refuse a table with settings that ``kind``, a class of flags, has not.

    Raises:
        ConfigError: A setting is unknown or of a wrong type.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {title}must be a table of settings.")
    hints = get_type_hints(kind)
    for name, value in table.items():
        if name not in hints:
            hint = nearest(name, [*hints, "model", "training"])
            raise ConfigError(f"{path}: unknown setting {title}{name!r}{hint}.")
        # By type(), as bool is an int to isinstance(); and a whole number may be a float.
        legal = set(_members(hints[name]))
        if float in legal:
            legal.add(int)
        if type(value) not in legal:
            names = " or ".join(sorted(t.__name__ for t in legal))
            raise ConfigError(f"{path}: {title}{name} = {value!r} must be of type {names}.")


def _members(hint: Any) -> list[type]:
    members = [t for t in getattr(hint, "__args__", (hint,)) if t is not type(None)]
    return [get_origin(t) or t for t in members]


def toml_lines(table: Mapping[str, Any]) -> str:
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
