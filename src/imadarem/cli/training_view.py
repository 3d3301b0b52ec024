"""What a person sees while a model trains: a bar, and a line at each validation."""

from __future__ import annotations

import math
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from imadarem.cli.console import err, json_line, speaks
from imadarem.cli.results import share
from imadarem.training.settings import TrainingConfig

if TYPE_CHECKING:
    from imadarem.training import trainer

__all__ = ["BarView", "TrainingView", "training_bar"]

SAMPLES_SHOWN = 3


class BarView:
    """A bar of training steps, shown within a ``with`` block.

    Args:
        steps: Of the run.
        waiting: What stands behind the bar until there are figures.
    """

    def __init__(self, steps: int, waiting: str) -> None:
        self._console = err()
        self._bar = training_bar(self._console)
        self._task = self._bar.add_task("train", total=steps, figures=waiting)

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


class TrainingView(BarView):
    """Called with each event of a trainer; a context manager, for the bar's sake.

    Args:
        config: Of the run.
        molecular: Whether samples are molecules, whose validity is shown.
        json: Write every event to stdout as JSON Lines instead.
    """

    def __init__(self, config: TrainingConfig, *, molecular: bool, json: bool) -> None:
        self.config, self.molecular, self.json = config, molecular, json
        super().__init__(config.steps, "first validation")

    def __call__(self, event: trainer.Progress | trainer.Evaluated) -> None:
        """Show one event."""
        from imadarem.training.trainer import Evaluated

        if isinstance(event, Evaluated):
            self._evaluated(event)
        else:
            self._progress(event)

    def _progress(self, event: trainer.Progress) -> None:
        if self.json:
            json_line({"kind": "train", **_finite(asdict(event))})
        figures = f"loss {event.token_loss:.3f}  {event.tokens_per_second:,.0f} tokens/s"
        if event.skipped:
            figures += f"  {event.skipped} skipped"
        self._bar.update(self._task, completed=event.step, figures=figures)
        if self._bar.disable and not self.json:
            self._console.print(Text(f"step {event.step:,}/{event.steps:,}  {figures}"))

    def _evaluated(self, event: trainer.Evaluated) -> None:
        figures = event.figures
        if self.json:
            record = {"kind": "valid", "step": event.step, **figures.to_dict()}
            json_line({**record, **self._shares(event.samples), "samples": event.samples})
            return
        parts = [f"step {event.step:,}", f"held-out loss {figures.loss:.3f}"]
        if not math.isnan(figures.gate_auroc):
            parts.append(f"gate AUROC {figures.gate_auroc:.2f}, ECE {figures.gate_ece:.2f}")
        parts += [f"{name} {share(value)}" for name, value in self._shares(event.samples).items()]
        self._console.print(Text("  ".join(parts), style="bold"))
        for text in event.samples[:SAMPLES_SHOWN]:
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


def training_bar(console: Console) -> Progress:
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


def _finite(record: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: what is not finite becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in record.items()}
