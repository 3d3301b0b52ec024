"""A run folder: its records, its checkpoints, and which of them is the newest whole one."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from imadarem.checkpoint import save_state
from imadarem.files import save_json, write_text
from imadarem.locks import TEMPORARY, exclusive
from imadarem.training.step import rank

#: Checkpoints kept on disk; two, so that the last good one survives a crash while saving.
KEPT_CHECKPOINTS = 2
PACKAGES = ("imadarem", "torch", "accelerate", "numpy", "safetensors")


@contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Keep others from writing to a run folder, which is made if it does not exist.

    Of several processes that train together the first one holds it for all.

    Raises:
        BusyError: Another process is writing to it.
    """
    if rank() > 0:
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    with exclusive(run_dir):
        yield


def latest_checkpoint(run_dir: str | Path) -> Path | None:
    """The newest complete checkpoint of a run folder."""
    complete = sorted(Path(run_dir).glob("checkpoints/step-*/trainer.json"))
    return complete[-1].parent if complete else None


def save_checkpoint(
    run_dir: Path,
    model: Any,
    optimizer: torch.optim.Optimizer | None,
    state: dict[str, Any],
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint aside, move it into place, and drop all but the newest two.

    Args:
        run_dir: The run folder.
        model: Has ``save_pretrained``; its teacher is saved with it.
        optimizer: Its state goes into safetensors and JSON.
        state: Plain values, ``step`` among them; written last, they mark it as complete.
        parts: More states with tensors in them, each saved under its name.
    """
    root = run_dir / "checkpoints"
    name = f"step-{state['step']:08d}"
    final, aside = root / name, root / f".{name}"
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    if optimizer is not None:
        save_state(optimizer.state_dict(), aside / "optimizer")
    for part, content in (parts or {}).items():
        save_state(content, aside / part)
    save_json(state, aside / "trainer.json")
    before = root / f"{name}.before"
    if final.exists():
        # It counts as the newest until the other one is in its place.
        _remove(before)
        final.rename(before)
    aside.rename(final)
    _remove(before)
    for old in sorted(root.glob("step-*"))[:-KEPT_CHECKPOINTS]:
        _remove(old)


def _remove(folder: Path) -> None:
    """Remove a checkpoint that at no moment looks complete and is not."""
    (folder / "trainer.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(run_dir: Path) -> None:
    """Remove the half-written models and checkpoints of killed runs.

    Call it while holding the folder's lock: else another process may be writing them.
    """
    for left in (run_dir / "model").glob(f".*{TEMPORARY}"):
        left.unlink(missing_ok=True)
    root = run_dir / "checkpoints"
    for aside in root.glob(".step-*"):
        _remove(aside)
    for before in root.glob("step-*.before"):
        final = before.with_suffix("")
        if (final / "trainer.json").is_file():
            _remove(before)
        else:
            _remove(final)
            before.rename(final)


class RunLog:
    """Writes ``run.json``, ``metrics.jsonl`` and TensorBoard events, on one process."""

    def __init__(self, run_dir: Path, *, enabled: bool) -> None:
        self.run_dir, self.enabled = run_dir, enabled
        self._file = run_dir / "metrics.jsonl"
        self._board: Any = None

    def start(self, description: dict[str, Any], step: int, *, validate_again: bool) -> None:
        """Begin at ``step``: records of later steps are of a run that was killed, and go.

        Args:
            description: Content of ``run.json``.
            step: Steps done by the checkpoint that the run goes on from.
            validate_again: Whether the run will validate at this step, as its first or last act.
        """
        if not self.enabled:
            return
        save_json({**description, **_surroundings()}, self.run_dir / "run.json")
        if self._file.exists():
            write_text("".join(self._lines_until(step, validate_again)), self._file)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # tensorboard is a convenience; metrics.jsonl has it all
            return
        self._board = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, record: dict[str, Any]) -> None:
        """Append a record of a kind, ``train`` or ``valid``."""
        if not self.enabled:
            return
        line = json.dumps({"kind": kind, "time": time.time(), "step": step, **record})
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def _lines_until(self, step: int, validate_again: bool) -> Iterator[str]:
        for line in self._file.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the last line of a killed run may be cut off
                continue
            again = validate_again and record["kind"] == "valid" and record["step"] == step
            if record["step"] <= step and not again:
                yield line + "\n"

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _surroundings() -> dict[str, Any]:
    """What a figure depends on besides the settings."""
    return {
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
