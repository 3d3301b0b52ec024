"""What a person sees while a model learns a task: a bar, and lines at each validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from imadarem.cli.console import json_line
from imadarem.cli.results import share
from imadarem.cli.training_view import BarView

if TYPE_CHECKING:
    from imadarem.orchestrator.trainer import TaskEvaluated, TaskProgress

__all__ = ["TaskView", "accuracies"]


class TaskView(BarView):
    """Called with each event of a task trainer; a context manager, for the bar's sake.

    Args:
        steps: Of the run.
        json: Write every event to stdout as JSON Lines instead.
    """

    def __init__(self, steps: int, *, json: bool) -> None:
        self.json = json
        super().__init__(steps, "first steps")

    def __call__(self, event: TaskProgress | TaskEvaluated) -> None:
        """Show one event."""
        from imadarem.orchestrator.trainer import TaskEvaluated

        if isinstance(event, TaskEvaluated):
            self._evaluated(event)
        else:
            self._progress(event)

    def _progress(self, event: TaskProgress) -> None:
        if self.json:
            json_line({"kind": "train", **asdict(event)})
        figures = (
            f"loss {event.loss:.3f}  blanks right {share(event.token_accuracy)}  "
            f"rows {share(event.exact_accuracy)}  {event.episodes_per_second:,.0f} rows/s"
        )
        if event.skipped:
            figures += f"  {event.skipped} skipped"
        self._bar.update(self._task, completed=event.step, figures=figures)
        if self._bar.disable and not self.json:
            self._console.print(Text(f"step {event.step:,}/{event.steps:,}  {figures}"))

    def _evaluated(self, event: TaskEvaluated) -> None:
        if self.json:
            json_line({"kind": "valid", **asdict(event)})
            return
        for line in accuracies(event):
            self._console.print(Text(f"step {event.step:,}  held out {line}", style="bold"))


def accuracies(event: TaskEvaluated) -> list[str]:
    """A line for each length: what is right after each number of steps.

    ``36 tokens, after 1, 2, 4 steps: rows right 0%, 61.0%, 97.0%; blanks right 40.2%, …``
    """
    lines = []
    for length, exact in event.exact.items():
        figures = f"rows right {_shares(exact)}"
        if length in event.tokens:
            figures += f"; blanks right {_shares(event.tokens[length])}"
        lines.append(f"{length} tokens, after {', '.join(map(str, exact))} steps: {figures}")
    return lines


def _shares(by_step: Mapping[int, float]) -> str:
    return ", ".join(map(share, by_step.values()))
