"""The picture of a training run, from the records in its ``metrics.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imadarem.errors import DataError, MissingExtraError
from imadarem.files import write_atomically


def read_metrics(path: str | Path) -> dict[str, list[dict[str, Any]]]:
    """The records of a run by kind, ``train`` and ``valid``, in the order of their steps.

    A resumed run goes over the steps behind its checkpoint again: the later record of a
    step replaces the earlier one. A last line that a crash cut off is left out.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    records: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "valid": {}}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records.setdefault(record["kind"], {})[record["step"]] = record
    if not any(records.values()):
        raise DataError(f"{path} holds no record of a training run.")
    return {kind: [found[step] for step in sorted(found)] for kind, found in records.items()}


def draw_curve(metrics: str | Path, path: str | Path) -> None:
    """Draw loss, gate and speed of a run over its steps into a PNG file.

    Args:
        metrics: The run's ``metrics.jsonl``.
        path: Where the picture goes; written whole or not at all.

    Raises:
        DataError: There is nothing to draw.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "train") from None
    records = read_metrics(metrics)
    # A figure of its own, not pyplot's: no window, and nothing global is changed.
    figure = Figure(figsize=(8, 6), layout="constrained")
    losses, gate = figure.subplots(2, 1, sharex=True)
    _line(losses, records["train"], "token_loss", "training, one batch", alpha=0.5)
    _line(losses, records["valid"], "loss", "held out", marker="o")
    losses.set_ylabel("loss (nats per token)")
    _line(gate, records["valid"], "gate_auroc", "AUROC of the gate", marker="o")
    _line(gate, records["valid"], "gate_ece", "calibration error of the gate", marker="o")
    gate.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    gate.set_ylim(0, 1)
    gate.set_ylabel("gate, held out")
    gate.set_xlabel("step")
    for axes in (losses, gate):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    write_atomically(path, lambda aside: figure.savefig(aside, format="png", dpi=120))


def _line(axes: Any, records: list[dict[str, Any]], field: str, label: str, **style: Any) -> None:
    points = [(r["step"], r[field]) for r in records if r.get(field) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)
