"""The flags of ``imadarem train``: one for each setting, explained where the setting is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

from cyclopts import Group, Parameter

from imadarem.cli.numbers import real, whole
from imadarem.cli.recipes import ANY_TASK, ON_ROWS, RECIPES
from imadarem.config import ImplicitRefinementConfig
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.training.settings import TrainingConfig

#: Settings of the model that the data or the task and the tokenizer decide.
DECIDED_BY_DATA = (
    "vocab_size",
    "length_counts",
    "mask_token_id",
    "pad_token_id",
    "eos_token_id",
    "nothing_token_id",
)
#: Settings without a flag: those that are fitted after training, those that a task brings
#: along, parts of a model that this command does not train, and those that another flag
#: stands for.
NO_FLAG: Mapping[type, tuple[str, ...]] = {
    ImplicitRefinementConfig: (
        *DECIDED_BY_DATA,
        "gate_temperature",
        "gate_offset",
        "gate_progress_slope",
        "relations",
        "memory",
        "judge",
        "backbone",
        "gate_from_likelihood",
    ),
    OrchestrationConfig: ("seed", "gradient_clip_threshold", "mixed_precision"),
    TrainingConfig: (),
}
#: Settings whose flags come first in the help; the others are below "Advanced".
FIRST: Mapping[type, tuple[str, ...]] = {
    ImplicitRefinementConfig: ("hidden_size", "num_layers", "num_heads", "max_seq_len"),
    OrchestrationConfig: ("max_steps_train", "backprop_truncate_steps"),
    TrainingConfig: ("steps", "batch_size", "learning_rate", "optimizer", "seed"),
}
#: What the help gives as a default that follows from the data.
FROM_THE_DATA = {
    "max_seq_len": "the longest training row",
    "length_mode": "drawn for molecules and tasks, else eos",
    "joint_size": "256 for molecules, else 0",
}
#: Flags that are named otherwise than their setting as well.
OTHER_NAMES = {"max_steps_train": "--unroll-steps", "backprop_truncate_steps": "--window"}
#: The largest legal numbers, where a million is too small, or more than a computer can hold.
LARGEST: Mapping[str, int] = {
    "steps": 10**12,
    "batch_size": 10**9,
    "warmup_steps": 10**12,
    "log_every": 10**12,
    "eval_every": 10**12,
    "save_every": 10**12,
    "seed": 2**63 - 1,
    "hidden_size": 65_536,
    "num_layers": 10_000,
    "num_heads": 65_536,
    "inner_steps": 1_000,
    "joint_size": 65_536,
    "conv_kernel_size": 10_000,
    "surplus": 10_000,
    "max_steps_train": 10_000,
    "max_steps_infer": 10_000,
    "max_refinement_steps": 10_000,
}
#: Types of flags that differ from the setting's.
TYPES: Mapping[str, Any] = {"step_weighting": str, "step_loss_weights": dict[str, float]}


def _flags_of(source: type, title: str, rank: int, table: str) -> type:
    """A dataclass of flags: the settings of ``source``, each None until it is given.

    Help comes from the docstring of ``source``, so that a setting is explained once.

    Args:
        source: A dataclass of settings.
        title: Of the group in the help.
        rank: Of the group among the others.
        table: Of the recipes, which say where defaults differ.
    """
    helps = _explanations(source.__doc__ or "")
    first = Group(title, sort_key=rank)
    advanced = Group(f"Advanced: {title.lower()}", sort_key=rank + 10)
    fields = []
    for setting, kind in get_type_hints(source).items():
        if setting in NO_FLAG[source]:
            continue
        names: dict[str, Any] = {}
        if setting in OTHER_NAMES:
            names["name"] = [f"--{setting.replace('_', '-')}", OTHER_NAMES[setting]]
        parameter = Parameter(
            help=helps.get(setting),
            show_default=_default(setting, getattr(source, setting, None), table) or None,
            group=first if setting in FIRST[source] else advanced,
            negative_iterable=(),
            **names,
        )
        kind = TYPES.get(setting, kind)
        if kind in (int, int | None):
            bounds = whole(0, LARGEST.get(setting, 1_000_000))
            parameter = Parameter.combine(bounds, parameter)
        fields.append((setting, Annotated[kind | None, parameter], field(default=None)))
    made = dataclasses.make_dataclass(f"{source.__name__}Flags", fields, frozen=True, kw_only=True)
    # cyclopts takes a class of the module "types" for a built-in one without fields.
    made.__module__ = __name__
    return Parameter(name="*")(made)


def _default(setting: str, own: Any, table: str) -> str:
    """A setting's default as the help gives it: ``1000; tasks: 300``."""
    if setting in FROM_THE_DATA:
        return FROM_THE_DATA[setting]
    on_rows = getattr(ON_ROWS, table).get(setting, own)
    on_tasks = getattr(ANY_TASK, table).get(setting)
    if any(setting in getattr(recipe, table) for recipe in RECIPES.values()):
        on_tasks = "by task"
    if table == "orchestration":
        on_rows, on_tasks = on_rows if on_tasks is None else on_tasks, None
    shown = [] if on_rows is None else [str(on_rows)]
    if on_tasks is not None:
        shown.append(f"tasks: {on_tasks}")
    return "; ".join(shown)


def _explanations(docstring: str) -> dict[str, str]:
    """``setting: explanation`` of the section ``Args`` of a docstring."""
    section = docstring.partition("Args:\n")[2].partition("\n\n    Raises:")[0]
    found = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", section, re.MULTILINE | re.DOTALL)
    return {
        # Markdown has no roles: ``:class:`Name``` is `Name`.
        name: re.sub(r":\w+:(?=`)", "", " ".join(text.split()).replace("``", "`"))
        for name, text in found
    }


_ADVANCED_DATA = Parameter(group=Group("Advanced: data", sort_key=11))


@Parameter(name="*", group=Group("Data", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """What to train on: rows of data, or a task.

    Attributes:
        data: moses (1.6 million molecules), moses-sample (15,000, shipped) or a file.
        column: The column of a table that holds the texts.
        standardize: Take the largest fragment of each molecule of a file, neutralise it, and
            remove duplicates.
        rows: Maximum number of rows to train on.
        tokenizer: selfies, smiles, safe (fragments) or char, learned from the data, or the
            folder of a saved tokenizer. The first three read molecules, the others lines of
            text. [default: selfies]
        valid_fraction: Share of a file that is held out. [default: 0.1]
        long_rows: Rows longer than --max-seq-len: drop leaves them out; chunk cuts them into
            several rows; pack joins all rows into one running text and cuts that, which wastes
            no position. A model trained on cut rows does not learn where a text ends.
            [default: drop]
        init: Start training from this model and keep its architecture: "smiles", "druglike",
            "selfies" or a folder. Tokens of the data that its tokenizer does not know are
            added to its vocabulary.
        backbone: Train on top of this pretrained masked language model, with its tokenizer: a
            folder or hub name that transformers reads, or "antiberty".
        freeze: With --backbone: train the gate alone and leave the backbone as it is.
        condition: A property that samples can be asked for afterwards (sample --condition
            NAME=VALUE): of molecules (QED, logP, MW, ...), a column of the table with numbers
            or classes, or length, in tokens. Can be repeated.
        lora: With --backbone: train LoRA adapters of this rank beside its frozen weights.
    """

    data: str | None = None
    column: str | None = None
    standardize: Annotated[bool | None, Parameter(negative="")] = None
    rows: Annotated[int, whole(1, 10**12)] | None = None
    tokenizer: Annotated[str | None, Parameter(name=["--tokenizer", "--tokens"])] = None
    valid_fraction: Annotated[float | None, real(0, 1), _ADVANCED_DATA] = None
    long_rows: Literal["drop", "chunk", "pack"] | None = None
    init: str | None = None
    backbone: str | None = None
    freeze: Annotated[bool | None, Parameter(negative=""), _ADVANCED_DATA] = None
    lora: Annotated[int | None, whole(1, 65_536), _ADVANCED_DATA] = None
    condition: Annotated[list[str] | None, Parameter(negative=""), _ADVANCED_DATA] = None


TrainingFlags = _flags_of(TrainingConfig, "Training", 2, "training")
ModelFlags = _flags_of(ImplicitRefinementConfig, "Model", 3, "model")
OrchestrationFlags = _flags_of(OrchestrationConfig, "Task", 4, "orchestration")


def given(flags: Any) -> dict[str, Any]:
    """The flags that were given."""
    return {k: v for k, v in vars(flags).items() if v is not None}
