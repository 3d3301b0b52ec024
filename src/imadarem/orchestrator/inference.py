"""Inference: the one loop, with an edit chosen for every step, and a vote over symmetric forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError
from imadarem.nn.memory import Retrieved
from imadarem.orchestrator.augment import Augmenter
from imadarem.orchestrator.batch import canvas_of
from imadarem.orchestrator.edits import edit_from_name
from imadarem.orchestrator.voting import solve_with_voting
from imadarem.sampling.batching import Refined, refine_all
from imadarem.sampling.halting import StoppingReason
from imadarem.sampling.loop import Step
from imadarem.sampling.noise import candidate_seeds, mix_rows, row_seeds
from imadarem.sampling.policy import Decision, PassView
from imadarem.sampling.settings import SamplingSettings
from imadarem.sampling.trajectory import Trajectory, TrajectoryRecorder
from imadarem.sampling.width import choose
from imadarem.tokenizers import SpecialIds

#: Reasons after which no other candidate is drawn.
FINAL = (StoppingReason.VERIFIED, StoppingReason.CONFIDENCE)
#: Noise in the states of further candidates. Measured on the sudoku model, 16 steps: one of 8
#: candidates is right for .65, .73, .88 and .08 of 40 minimal puzzles at .03, .1, .3 and 1.
STATE_NOISE = 0.3


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


def check_width(width: int, votes: int, model: ImplicitRefinementConfig) -> None:
    """Refuse candidates by noise in the carry where there is no carry, or several forms."""
    if width > 1 and (votes > 1 or not model.carry):
        raise ConfigError(
            f"width={width} puts noise into the carry from step to step; this call "
            f"{'asks several forms (votes)' if votes > 1 else 'has a model without a carry'}. "
            "Use width=1, or votes= for tasks with a symmetry."
        )


@dataclass(frozen=True)
class Answers:
    """What came of ``B`` questions.

    Attributes:
        rows: The answers.
        edits: Of each step of each row.
        trajectory: The records of all steps, where they are wanted.
    """

    rows: list[Refined]
    edits: list[list[str]]
    trajectory: Trajectory | None

    def improve(self, numbers: list[int], others: Answers) -> None:
        """Put the best candidate in the place of each of ``numbers``, and count what all cost.

        ``others`` has the further candidates, those of the first question first.
        """
        more = len(others.rows) // len(numbers)
        groups = [range(place * more, (place + 1) * more) for place in range(len(numbers))]
        candidates = [
            [self.rows[number], *(others.rows[n] for n in group)]
            for number, group in zip(numbers, groups, strict=True)
        ]
        certainty = torch.tensor([[row.certainty for row in rows] for rows in candidates])
        verified = torch.tensor(
            [[row.reason == StoppingReason.VERIFIED for row in rows] for rows in candidates]
        )
        best = choose(certainty, torch.tensor(numbers), passes=verified, most_certain=True)
        for number, group, rows, which in zip(
            numbers, groups, candidates, best.tolist(), strict=True
        ):
            if which:
                self.edits[number] = others.edits[group[which - 1]]
                if self.trajectory is not None and others.trajectory is not None:
                    self.trajectory.rows[number] = others.trajectory[group[which - 1]]
            passes = sum(row.forward_passes for row in rows)
            self.rows[number] = replace(rows[which], forward_passes=passes, candidates=len(rows))


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

    def run(self, ids: Tensor, traces: bool, width: int = 1) -> dict[str, Any]:
        """``(B, L)`` questions, each asked once, or those without a certain answer ``width`` times.

        The further candidates of a question differ by noise in their states. The answer is one
        that the verifier takes, else the most certain.
        """
        canvas = canvas_of(ids, self._special)
        found = self._refine(canvas, traces, row_seeds(len(ids), self.seed))
        open_ones = [n for n, row in enumerate(found.rows) if row.reason not in FINAL]
        if width > 1 and open_ones:
            noisy = replace(self, settings=replace(self.settings, state_noise=STATE_NOISE))
            numbers, more = torch.tensor(open_ones), width - 1
            # By the question and not by its row, so that batches change no answer.
            seeds = candidate_seeds(self._keys(ids)[numbers] ^ self.seed, more, first=1)
            repeated = numbers.repeat_interleave(more).to(ids.device)
            found.improve(open_ones, noisy._refine(canvas.rows(repeated), traces, seeds))
        return {
            **self._report(found.rows, found.edits),
            "output_ids": padded(ids, found.rows, self._special.pad),
            "votes": [1] * len(ids),
            "traces": found.trajectory,
        }

    def vote(
        self, ids: Tensor, augmenter: Augmenter, count: int, by: str, traces: bool
    ) -> dict[str, Any]:
        """``(B, L)`` questions, each asked in up to ``count`` forms.

        Steps, reason and scores are those of the question as given, which is one of the
        forms; ``forward_passes`` counts all forms.
        """
        results: list[Answers] = []

        def ask(forms: Tensor) -> tuple[Tensor, Tensor]:
            seeds = row_seeds(len(forms), self.seed)
            found = self._refine(canvas_of(forms, self._special), traces, seeds)
            results.append(found)
            confidence = torch.tensor([row.certainty for row in found.rows])
            return padded(forms, found.rows, self._special.pad), confidence.to(forms.device)

        voted = solve_with_voting(ask, ids, augmenter, self._keys(ids), count, by)
        rows, edits, trajectory = results[0].rows, results[0].edits, results[0].trajectory
        forms = voted.forms.tolist()
        ends = torch.tensor(forms).cumsum(0).tolist()
        firsts = [end - own for end, own in zip(ends, forms, strict=True)]
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

    def _keys(self, ids: Tensor) -> Tensor:
        """``(B,)`` numbers that equal questions share, whatever their padding."""
        return torch.cat([mix_rows(row[row != self._special.pad][None]) for row in ids.cpu()])

    def _refine(self, canvas: Canvas, traces: bool, seeds: Tensor) -> Answers:
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
            seeds.to(canvas.ids.device),
            self.settings,
            memory=self.recall(canvas),
            batch_size=self.batch_size,
            on_step=watch,
        )
        return Answers(rows, edits, None if recorder is None else recorder.trajectory())

    def _report(self, rows: list[Refined], edits: list[list[str]]) -> dict[str, Any]:
        return {
            "steps_taken": [row.steps for row in rows],
            "stopping_reason": [row.reason.label for row in rows],
            "final_canvas_scores": [row.quality for row in rows],
            "halt_confidence": [row.halt for row in rows],
            "forward_passes": [row.forward_passes for row in rows],
            "candidates": [row.candidates for row in rows],
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
