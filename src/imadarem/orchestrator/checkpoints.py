"""The orchestrator's state on disk: whatever the next step follows from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed

from imadarem.checkpoint import load_state, load_tensors
from imadarem.errors import CheckpointError, ConfigError
from imadarem.files import load_json
from imadarem.orchestrator.bandit import DiscountedBandit
from imadarem.orchestrator.carried import Carried
from imadarem.orchestrator.config import OrchestrationConfig, without_retired
from imadarem.orchestrator.memory import Memory
from imadarem.training.run_folder import latest_checkpoint
from imadarem.training.run_folder import save_checkpoint as write_checkpoint
from imadarem.training.step import GuardedUpdate, TrainingRecord, gathered, rank, world_size

#: Settings that no training step depends on; a resume may change them.
OF_INFERENCE = frozenset(
    {"max_steps_infer", "halt_confidence", "quality_threshold", "patience", "temperature"}
)


class Resumable(Protocol):
    """What a checkpoint takes from an orchestrator and gives back to it."""

    model: Any
    memory_bank: Memory | None
    config: OrchestrationConfig
    bandit: DiscountedBandit
    record: TrainingRecord
    update: GuardedUpdate
    carried: Carried | None

    @property
    def edit_performance(self) -> dict[str, Any]: ...

    @property
    def device(self) -> torch.device: ...


def _state_beside_model(orchestrator: Resumable) -> dict[str, Any]:
    """Everything but the weights: the names of the API, then what it takes to resume."""
    bank, update = orchestrator.memory_bank, orchestrator.update
    return {
        "config": orchestrator.config.to_dict(),
        "step_count": orchestrator.record.step_count,
        "memory_bank_stats": {} if bank is None else bank.get_stats(),
        "recent_losses": orchestrator.record.recent_losses,
        "gradient_norms": orchestrator.record.gradient_norms[-100:],
        "edit_performance": orchestrator.edit_performance,
        "grok_fast_state": None if update.grok_fast is None else update.grok_fast.state_dict(),
        "record": orchestrator.record.to_dict(),
        "memory_bank": None if bank is None else bank.state_dict(),
        "bandit": orchestrator.bandit.state_dict(),
        "scaler": None if update.scaler is None else update.scaler.state_dict(),
        # Every process has rows of its own under way, and random numbers of its own.
        "processes": gathered(_own_state(orchestrator)),
    }


def read_extra(run_dir: Path) -> dict[str, Any]:
    """The ``extra`` of the newest complete checkpoint; empty where there is none."""
    folder = latest_checkpoint(run_dir)
    return {} if folder is None else dict(load_json(folder / "trainer.json")["extra"])


def checkpoint(orchestrator: Resumable) -> dict[str, Any]:
    """The state as one dictionary, under the names of the API and a few more."""
    return {"model_state": orchestrator.model.state_dict(), **_state_beside_model(orchestrator)}


def save_checkpoint(
    orchestrator: Resumable,
    run_dir: str | Path,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write ``checkpoints/step-…`` below ``run_dir``; the last good one stays until then.

    Called in every process, written by the first.

    Args:
        orchestrator: Whose state it is.
        run_dir: Made if it does not exist.
        optimizer: Saved too, for an exact resume.
        scheduler: Likewise.
        extra: Plain values of your own, such as the position in the data.

    Raises:
        CheckpointError: The disk is full or the place cannot be written.
    """
    state = _state_beside_model(orchestrator)
    if rank() == 0:
        parts = {"orchestrator": state}
        if scheduler is not None:
            parts["scheduler"] = scheduler.state_dict()
        trainer = {"step": orchestrator.record.step_count, "extra": dict(extra or {})}
        write_checkpoint(Path(run_dir), orchestrator.model, optimizer, trainer, parts)
    if world_size() > 1:
        torch.distributed.barrier()


def load_checkpoint(
    orchestrator: Resumable,
    run_dir: str | Path,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
) -> dict[str, Any]:
    """Go on from the newest complete checkpoint of ``run_dir``, as if it had not stopped.

    Returns:
        The ``extra`` that was saved.
    """
    folder = latest_checkpoint(Path(run_dir))
    if folder is None:
        raise CheckpointError(f"{run_dir} has no complete checkpoint to resume from.")
    state = load_state(folder / "orchestrator")
    _check_settings(orchestrator.config.to_dict(), state["config"], folder)
    _check_processes(state["processes"], folder)
    _load_memory(orchestrator, state["memory_bank"], folder)
    model = orchestrator.model
    weights = load_tensors(folder / "model.safetensors")
    if any(name.startswith("teacher.") for name in weights) and model.teacher is None:
        model.init_teacher()
    try:
        model.load_state_dict(weights, strict=True)
        if optimizer is not None:
            optimizer.load_state_dict(load_state(folder / "optimizer"))
        if scheduler is not None:
            scheduler.load_state_dict(load_state(folder / "scheduler"))
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder} does not fit this model and optimizer: {str(error)[:200]}"
        ) from None
    orchestrator.record = TrainingRecord.from_dict(state["record"])
    orchestrator.bandit.load_state_dict(state["bandit"])
    if orchestrator.update.grok_fast is not None:
        orchestrator.update.grok_fast.load_state_dict(state["grok_fast_state"])
    if orchestrator.update.scaler is not None:
        orchestrator.update.scaler.load_state_dict(state["scaler"])
    _load_own_state(orchestrator, state["processes"][rank()])
    extra: dict[str, Any] = load_json(folder / "trainer.json")["extra"]
    return extra


def _own_state(orchestrator: Resumable) -> dict[str, Any]:
    carried = orchestrator.carried
    return {
        "carried": None if carried is None else carried.state_dict(),
        "rng": torch.get_rng_state(),
    }


def _load_own_state(orchestrator: Resumable, own: Mapping[str, Any]) -> None:
    torch.set_rng_state(own["rng"])
    orchestrator.carried = None
    if own["carried"] is not None:
        special = orchestrator.model.special
        orchestrator.carried = Carried.from_state_dict(own["carried"], special, orchestrator.device)


def _load_memory(orchestrator: Resumable, saved: Mapping[str, Any] | None, folder: Path) -> None:
    """First of all, since it may refuse: nothing else has changed by then."""
    bank = orchestrator.memory_bank
    if (bank is None) != (saved is None):
        has, lacks = ("a memory", "none") if saved is not None else ("no memory", "one")
        raise CheckpointError(
            f"{folder} was saved with {has} and this orchestrator has {lacks}. Build it as it was "
            "saved."
        )
    if bank is not None and saved is not None:
        try:
            bank.load_state_dict(saved)
        except ConfigError as error:
            raise CheckpointError(f"{folder}: {error}") from None


def _check_processes(states: list[Any], folder: Path) -> None:
    if len(states) != world_size():
        raise CheckpointError(
            f"{folder} was saved by {len(states)} processes and cannot be resumed exactly with "
            f"{world_size()}. Start as many, or load the model alone with from_pretrained."
        )


def _check_settings(ours: Mapping[str, Any], saved: Mapping[str, Any], folder: Path) -> None:
    for name, value in without_retired(saved).items():
        if name not in OF_INFERENCE and ours.get(name) != value:
            raise CheckpointError(
                f"{folder} was saved with {name}={value!r} and this orchestrator has "
                f"{ours.get(name)!r}. Continue with the saved value, or start a new run."
            )
