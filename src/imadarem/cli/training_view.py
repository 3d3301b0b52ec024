"""What a person sees while a model trains: a bar, and a line at each validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from imadarem.cli.console import err, json_line, speaks
from imadarem.cli.results import share

if TYPE_CHECKING:
    from imadarem.orchestrator.training import TaskAccuracy
    from imadarem.training import contract
    from imadarem.training.validation import Validation

SAMPLES_SHOWN = 3


class TrainingView:
    """Called with each event of a trainer; a context manager, which shows the bar.

    Args:
        steps: Of the run.
        molecular: Whether samples are molecules, whose validity is shown.
        json: Write every event to stdout as JSON Lines instead.
    """

    def __init__(self, steps: int, *, molecular: bool, json: bool) -> None:
        self.molecular, self.json = molecular, json
        self._console = err()
        self._bar = _training_bar(self._console)
        self._task = self._bar.add_task("train", total=steps, figures="starting")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, event: contract.Progress | contract.Evaluated) -> None:
        """Show one event."""
        from imadarem.training.contract import Evaluated

        if isinstance(event, Evaluated):
            self._evaluated(event)
        else:
            self._progress(event)

    def _progress(self, event: contract.Progress) -> None:
        if self.json:
            json_line({"kind": "train", **event.to_dict()})
        loss = event.loss if event.token_loss is None else event.token_loss
        figures = f"loss {loss:.3f}"
        if "exact_accuracy" in event.more:
            tokens, rows = (event.more[f"{name}_accuracy"] or 0.0 for name in ("token", "exact"))
            figures += f"  blanks right {share(tokens)}  rows {share(rows)}"
        figures += f"  {event.speed:,.0f} {event.unit}/s"
        if event.skipped:
            figures += f"  {event.skipped} skipped"
        self._bar.update(self._task, completed=event.step, figures=figures)
        if self._bar.disable and not self.json:
            self._console.print(Text(f"step {event.step:,}/{event.steps:,}  {figures}"))

    def _evaluated(self, event: contract.Evaluated) -> None:
        if self.json:
            shares = {**self._shares(event.samples), "samples": event.samples}
            more = shares if event.samples else {}
            json_line({"kind": "valid", "step": event.step, **event.figures.to_dict(), **more})
        elif hasattr(event.figures, "exact"):
            for line in accuracies(event.figures):
                self._console.print(Text(f"step {event.step:,}  held out {line}", style="bold"))
        else:
            self._rows_evaluated(event.step, event.figures, event.samples)

    def _rows_evaluated(self, step: int, figures: Validation, samples: list[str]) -> None:
        parts = [f"step {step:,}", f"held-out loss {figures.loss:.3f}"]
        if not math.isnan(figures.gate_auroc):
            parts.append(f"gate AUROC {figures.gate_auroc:.2f}, ECE {figures.gate_ece:.2f}")
        parts += [f"{name} {share(value)}" for name, value in self._shares(samples).items()]
        self._console.print(Text("  ".join(parts), style="bold"))
        for text in samples[:SAMPLES_SHOWN]:
            self._console.print(Text(f"    {text}", style="dim"))

    def _shares(self, samples: list[str]) -> dict[str, float]:
        """Shares of valid and unique molecules, or of unique texts."""
        if not samples:
            return {}
        if not self.molecular:
            return {"unique": len(set(samples)) / len(samples)}
        from imadarem.data.molecules import canonical

        valid = [form for form in map(canonical, samples) if form is not None]
        shares = {"valid": len(valid) / len(samples)}
        if valid:
            shares["unique"] = len(set(valid)) / len(valid)
        return shares


def accuracies(found: TaskAccuracy) -> list[str]:
    """A line for each length: what is right after each number of steps.

    ``36 tokens, after 1, 2, 4 steps: rows right 0%, 61.0%, 97.0%; blanks right 40.2%, …``
    """
    lines = []
    for length, exact in found.exact.items():
        figures = f"rows right {_by_step(exact)}"
        if length in found.tokens:
            figures += f"; blanks right {_by_step(found.tokens[length])}"
        lines.append(f"{length} tokens, after {', '.join(map(str, exact))} steps: {figures}")
    return lines


def _by_step(shares: Mapping[int, Any]) -> str:
    return ", ".join(map(share, shares.values()))


def _training_bar(console: Console) -> Progress:
    """A bar of steps with the field ``figures`` behind it; nothing where no terminal is."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal or not speaks(),
        transient=True,
    )
