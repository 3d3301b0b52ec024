"""Inference: the one loop, with an edit chosen for every step, and a vote over symmetric forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.nn.memory import Retrieved
from imadarem.orchestrator.augment import Augmenter
from imadarem.orchestrator.batch import canvas_of
from imadarem.orchestrator.edits import edit_from_name
from imadarem.orchestrator.voting import solve_with_voting
from imadarem.sampling.batching import Refined, refine_all
from imadarem.sampling.loop import Step
from imadarem.sampling.noise import mix_rows, row_seeds
from imadarem.sampling.policies import Decision, PassView
from imadarem.sampling.settings import SamplingSettings
from imadarem.sampling.trajectory import Trajectory, TrajectoryRecorder
from imadarem.tokenizers import SpecialIds

__all__ = ["ChosenEdit", "Inference"]


@dataclass(frozen=True)
class ChosenEdit:
    """The policy that asks for an edit by name in every step, one for all rows.

    Args:
        choose: ``choose(step, scores) -> name``; ``scores`` is 1 where a row has a written
            token, 0 where it has none: what other rows hold must not decide.
    """

    choose: Callable[[int, Tensor | None], str]
    refines: bool = True
    uses_teacher: bool = False

    def __call__(self, view: PassView) -> Decision:
        # By the step and not by the rows: a row's result never depends on its batch-mates.
        begun = torch.ones(1) if view.step > 1 else None
        name = self.choose(view.step, begun)
        return edit_from_name(name)(view)._replace(edit=name)


@dataclass(frozen=True)
class Inference:
    """Runs canvases through the loop and gathers what came of them.

    Args:
        network: In evaluation mode.
        tokenizer: Decodes the results, where it can.
        settings: How to refine.
        seed: Of the draws.
        batch_size: Rows refined together.
        recall: What the memory has on a canvas.
    """

    network: Any
    tokenizer: Any
    settings: SamplingSettings
    seed: int
    batch_size: int
    recall: Callable[[Canvas], Retrieved | None]

    def run(self, ids: Tensor, traces: bool) -> dict[str, Any]:
        """``(B, L)`` questions, each asked once."""
        canvas = canvas_of(ids, self._special)
        rows, edits, trajectory = self._refine(canvas, traces)
        return {
            **self._report(rows, edits),
            "output_ids": padded(ids, rows, self._special.pad),
            "votes": [1] * len(rows),
            "traces": trajectory,
        }

    def vote(
        self, ids: Tensor, augmenter: Augmenter, count: int, by: str, traces: bool
    ) -> dict[str, Any]:
        """``(B, L)`` questions, each asked in up to ``count`` forms.

        Steps, reason and scores are those of the question as given, which is one of the
        forms; ``forward_passes`` counts all forms.
        """
        results: list[tuple[list[Refined], list[list[str]], Trajectory | None]] = []

        def ask(forms: Tensor) -> tuple[Tensor, Tensor]:
            rows, edits, trajectory = self._refine(canvas_of(forms, self._special), traces)
            results.append((rows, edits, trajectory))
            scores = [row.quality if row.halt is None else row.halt for row in rows]
            confidence = torch.tensor([1.0 if s is None else s for s in scores])
            return padded(forms, rows, self._special.pad), confidence.to(forms.device)

        voted = solve_with_voting(ask, ids, augmenter, mix_rows(ids).cpu(), count, by)
        ((rows, edits, trajectory),) = results
        asked = voted.asked.tolist()
        ends = torch.tensor(asked).cumsum(0).tolist()
        firsts = [end - own for end, own in zip(ends, asked, strict=True)]
        report = self._report([rows[i] for i in firsts], [edits[i] for i in firsts])
        passes = [
            sum(row.forward_passes for row in rows[start:end])
            for start, end in zip(firsts, ends, strict=True)
        ]
        answers = [row[row != self._special.pad].tolist() for row in voted.answers]
        return {
            **report,
            "forward_passes": passes,
            "texts": self._texts(answers),
            "output_ids": voted.answers,
            "second_output_ids": voted.second,
            "votes": voted.votes.tolist(),
            "traces": None if trajectory is None else Trajectory([trajectory[i] for i in firsts]),
        }

    @property
    def _special(self) -> SpecialIds:
        special: SpecialIds = self.network.special
        return special

    def _refine(
        self, canvas: Canvas, traces: bool
    ) -> tuple[list[Refined], list[list[str]], Trajectory | None]:
        recorder = TrajectoryRecorder(canvas, self.tokenizer) if traces else None
        edits: list[list[str]] = [[] for _ in range(len(canvas))]

        def watch(numbers: Tensor, step: Step) -> None:
            for number in numbers[step.rows].tolist():
                edits[number].append(step.edit)
            if recorder is not None:
                recorder(numbers, step)

        rows = refine_all(
            self.network,
            canvas,
            row_seeds(len(canvas), self.seed).to(canvas.ids.device),
            self.settings,
            memory=self.recall(canvas),
            batch_size=self.batch_size,
            on_step=watch,
        )
        return rows, edits, None if recorder is None else recorder.trajectory()

    def _report(self, rows: list[Refined], edits: list[list[str]]) -> dict[str, Any]:
        return {
            "steps_taken": [row.steps for row in rows],
            "stopping_reason": [row.reason.label for row in rows],
            "final_canvas_scores": [row.quality for row in rows],
            "halt_confidence": [row.halt for row in rows],
            "forward_passes": [row.forward_passes for row in rows],
            "edits": edits,
            "texts": self._texts([row.ids.tolist() for row in rows]),
        }

    def _texts(self, rows: list[list[int]]) -> list[str] | None:
        decode = getattr(self.tokenizer, "decode", None)
        return None if decode is None else [decode(row) for row in rows]


def padded(inputs: Tensor, rows: list[Refined], pad: int) -> Tensor:
    """The results on the canvases ``(B, L)`` they were asked on, padding where it was."""
    outputs = torch.full_like(inputs, pad)
    for output, question, row in zip(outputs, inputs, rows, strict=True):
        places = (question != pad).nonzero().squeeze(1)[: len(row.ids)]
        output[places] = row.ids.to(output.device)
    return outputs
