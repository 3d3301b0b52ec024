"""What a training run starts from: the data in tokens, and a model that fits it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from imadarem.cli.models import is_molecular
from imadarem.cli.recipes import JOINT_SIZE
from imadarem.cli.settings import RunSettings
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from imadarem.data.prepare import PreparedData
    from imadarem.data.tasks import Task
    from imadarem.model import ImplicitRefinementModel
    from imadarem.tokenizers import Tokenizer
    from imadarem.workers import Progress

#: Settings of a model that a run may change when it starts from another model: they are of
#: sampling or of training. All others belong to its weights, or are fitted to them.
MAY_CHANGE = frozenset(
    {
        "dropout",
        "gradient_checkpointing",
        "refine_fraction",
        "max_refinement_steps",
        "sampling_temperature",
        "infill_temperature",
        "infill_best_of",
        "min_refine_uncertainty",
        "mask_schedule",
        "stop_threshold",
        "diversity_weight",
        "gate_weight",
        "ema_decay",
    }
)
#: Settings that may grow: blocks, positions and units of the joint head are added.
MAY_GROW = ("num_layers", "max_seq_len", "joint_size")


def saved_model(settings: RunSettings, resumed: Path | None) -> ImplicitRefinementModel | None:
    """The newest checkpoint of a resumed run, or the model of ``init`` or ``backbone``, or None."""
    from imadarem.model import ImplicitRefinementModel
    from imadarem.training.run_folder import latest_checkpoint

    if resumed is not None:
        checkpoint = latest_checkpoint(resumed)
        if checkpoint is None:
            raise CheckpointError(
                f"{resumed} has no checkpoint to resume from yet. Start without --resume."
            )
        return ImplicitRefinementModel.from_pretrained(checkpoint)
    if "init" in settings.data:
        return ImplicitRefinementModel.from_pretrained(settings.data["init"])
    if "backbone" in settings.data:
        how = {name: settings.data[name] for name in ("freeze", "lora") if name in settings.data}
        return ImplicitRefinementModel.from_masked_lm(
            settings.data["backbone"], **how, **settings.model
        )
    return None


def prepared_data(
    settings: RunSettings,
    saved: ImplicitRefinementModel | None,
    processes: int,
    progress: Progress,
) -> PreparedData:
    """Read and encode the data, with the tokenizer of the model to start from if there is one."""
    from imadarem.data.prepare import prepare
    from imadarem.tokenizers import CorpusTokenizer

    tokenizer: str | Tokenizer = settings.data.get("tokenizer", "")
    if "init" in settings.data or "backbone" in settings.data:
        assert saved is not None
        tokenizer = saved.tokenizer
        if settings.training["surplus"] and isinstance(tokenizer, CorpusTokenizer):
            tokenizer = tokenizer.with_nothing()
    with _first_process_first():
        data = prepare(
            settings.data["data"],
            tokenizer=tokenizer,
            column=settings.data.get("column"),
            rows=settings.data.get("rows"),
            valid_fraction=settings.data["valid_fraction"],
            seed=settings.training["seed"],
            processes=processes,
            progress=progress,
            extend="init" in settings.data,
            standardize=settings.data.get("standardize", False),
        )
    if settings.training["surplus"] and isinstance(data.tokenizer, CorpusTokenizer):
        data = replace(data, tokenizer=data.tokenizer.with_nothing())
    if "column" in settings.data and not is_molecular(data.tokenizer):
        raise ConfigError(
            "--column is of a table of molecules, and this tokenizer reads lines of text. Leave "
            "it out, or use --tokenizer selfies, smiles or safe."
        )
    return _cut(data, settings, saved)


def _cut(
    data: PreparedData, settings: RunSettings, saved: ImplicitRefinementModel | None
) -> PreparedData:
    """The data with its long rows cut, where that is asked for."""
    how = settings.data.get("long_rows", "drop")
    if how == "drop":
        return data
    length = settings.model.get("max_seq_len")
    if length is None and saved is not None:
        length = saved.config.max_seq_len
    if length is None:
        raise ConfigError(f"--long-rows {how} cuts rows at --max-seq-len: give it too.")
    mode = settings.model.get("length_mode", "drawn" if saved is None else saved.config.length_mode)
    room = length - (mode == "eos")
    return replace(data, train=data.train.cut(room, how), valid=data.valid.cut(room, how))


def new_model(settings: RunSettings, data: PreparedData) -> ImplicitRefinementModel:
    """A model with random weights, its canvas as long as the longest training row."""
    import torch

    from imadarem.model import ImplicitRefinementModel

    model = dict(settings.model)
    molecular = is_molecular(data.tokenizer)
    # A row that was cut ends nowhere.
    whole = settings.data.get("long_rows", "drop") == "drop"
    mode = model.setdefault("length_mode", "drawn" if molecular or not whole else "eos")
    model.setdefault("joint_size", JOINT_SIZE if molecular else 0)
    # A canvas that ends where an EOS is written needs a place for it.
    longest = int(data.train.lengths.max()) + (mode == "eos")
    size = model.setdefault("max_seq_len", longest)
    counts = data.train.no_longer_than(size).length_counts()
    config = ImplicitRefinementConfig(vocab_size=len(data.tokenizer), length_counts=counts, **model)
    torch.manual_seed(settings.training["seed"])
    return ImplicitRefinementModel(config, tokenizer=data.tokenizer)


def loaded_task(settings: RunSettings, processes: int, progress: Progress) -> Task:
    """The task of a run; of several processes the first one fills the cache for the others."""
    from imadarem.data.task_registry import load_task, task_settings

    assert settings.task is not None
    known = task_settings(settings.task)
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in settings.settings:
            raise ConfigError(f"the task {settings.task} needs --set {name}=VALUE.")
    means: dict[str, Any] = {"processes": processes, "progress": progress}
    ours = {name: value for name, value in means.items() if name in known}
    with _first_process_first():
        return load_task(settings.task, **{**ours, **settings.settings})


def task_model(settings: Mapping[str, Any], task: Task, seed: int) -> ImplicitRefinementModel:
    """A model with random weights for a task, its canvas as long as the longest episode.

    Args:
        settings: Of the model, without those that the task decides.
        task: Brings vocabulary, lengths and, where it has them, relations.
        seed: Of the weights.
    """
    import torch

    from imadarem.model import ImplicitRefinementModel
    from imadarem.tokenizers import special_ids

    rows = torch.cat([task.train.inputs, task.valid.inputs])
    vocabulary = len(cast(Sized, task.tokenizer))
    pad = special_ids(task.tokenizer, vocabulary).pad
    lengths = (rows != pad).sum(dim=1)
    config = ImplicitRefinementConfig(
        vocab_size=vocabulary,
        max_seq_len=int(lengths.max()),
        length_counts=lengths.bincount().tolist(),
        relations=task.relations,
        **settings,
    )
    torch.manual_seed(seed)
    return ImplicitRefinementModel(config, tokenizer=task.tokenizer)


def same_model(saved: ImplicitRefinementModel, data: PreparedData) -> ImplicitRefinementModel:
    """The resumed model, if the data still has the tokens that it was trained on."""
    ours, theirs = (
        list(t.convert_ids_to_tokens(range(saved.config.vocab_size)))
        if len(t) == saved.config.vocab_size
        else None
        for t in (saved.tokenizer, data.tokenizer)
    )
    if ours is None or ours != theirs:
        raise DataError(
            "the data has other tokens than when the run began, so the run cannot be resumed "
            "with it. Restore the data, or start a new run with --init."
        )
    return saved


def initial_model(
    saved: ImplicitRefinementModel, settings: RunSettings, data: PreparedData
) -> ImplicitRefinementModel:
    """The model to start from under the settings of this run, the lengths and tokens of this data.

    More blocks and a longer canvas are added to them.
    """
    changed = {k: v for k, v in settings.model.items() if getattr(saved.config, k) != v}
    for name in changed.keys() - MAY_CHANGE - set(MAY_GROW):
        raise ConfigError(
            f"{name} = {changed[name]!r} was given, but the model to start from has "
            f"{getattr(saved.config, name)!r}, and --init keeps the architecture. Leave "
            "one of the two out."
        )
    saved = saved.enlarged(**{name: changed.pop(name, None) for name in MAY_GROW})
    counts = data.train.no_longer_than(saved.config.max_seq_len).length_counts()
    if len(data.tokenizer) > saved.config.vocab_size:
        saved = saved.with_vocabulary(data.tokenizer)
    return saved.with_config(replace(saved.config, length_counts=counts, **changed))


@contextmanager
def several_processes(device: str) -> Iterator[None]:
    """Join the processes that torchrun or ``accelerate launch`` started, and leave at the end."""
    if _alone():
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    try:
        yield
    finally:
        state.destroy_process_group()


@contextmanager
def _first_process_first() -> Iterator[None]:
    """Of several processes the first one fills the cache that the others read."""
    if _alone():
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield


def _alone() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) == 1
