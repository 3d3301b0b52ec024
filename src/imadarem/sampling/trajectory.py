"""The record of a refinement: every step of every row, to analyse, print or save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.sampling.loop import Step, StoppingReason
from imadarem.viz.table import trajectory_table
from imadarem.viz.text import trajectory_text

SCHEMA = "imadarem.trajectory/1"
#: Fields of a record that have one value per position.
PER_POSITION = ("refined", "remasked", "changed", "gate", "entropy", "confidence")


@dataclass(frozen=True)
class RowStep:
    """One step of one row; lists have one entry per position of the canvas.

    Attributes:
        step: 1 … ``K``.
        ids: Token ids after the step.
        tokens: The same as strings.
        states: Names of :class:`~imadarem.canvas.State` after the step.
        refined: Whether the position was written in this step.
        remasked: Whether it was re-masked.
        changed: Whether its id differs from before.
        gate: Probability that the token before the step should be refined; None for a
            blank, which is refined in any case, and for what is not the model's to change.
        entropy: Normalised entropy in [0, 1].
        confidence: Probability of the token drawn in this step.
        changed_fraction: Share of the writable positions that changed.
        forward_passes: Passes so far, the teacher's included.
        stopping_reason: Why the row stopped after this step, or None.
        quality: Mean probability of the tokens on the writable positions.
        halt: Probability of the halting head that the row is entirely right, or None.
        edit: Name of the edit that was made, where the policy chooses between edits.
    """

    step: int
    ids: list[int]
    tokens: list[str]
    states: list[str]
    refined: list[bool]
    remasked: list[bool]
    changed: list[bool]
    gate: list[float | None]
    entropy: list[float]
    confidence: list[float]
    changed_fraction: float
    forward_passes: int
    stopping_reason: str | None
    quality: float = 0.0
    halt: float | None = None
    edit: str = ""

    @property
    def mean_gate(self) -> float | None:
        """Mean gate over the model's tokens as they stood before the step."""
        judged = [g for g in self.gate if g is not None]
        return sum(judged) / len(judged) if judged else None


@dataclass
class RowTrajectory:
    """All steps of one row.

    Attributes:
        start: Token strings of the canvas before the first step.
        given: Whether a position was part of the prompt.
        judge: ``gate`` or ``entropy``, whichever the policy decides by; it is what is printed.
        steps: The records, in order.
        text: The decoded result, where the tokenizer can decode.
    """

    start: list[str]
    given: list[bool]
    judge: str = "gate"
    steps: list[RowStep] = field(default_factory=list)
    text: str | None = None

    @property
    def stopping_reason(self) -> str:
        """Why the row took no further step."""
        return (self.steps[-1].stopping_reason if self.steps else None) or "filled"

    def to_text(self, width: int = 100) -> str:
        """The tokens of every step, an arrow under each one that the step wrote.

        Under the arrows stands what the token before the step was judged by. Columns line
        up through all steps; a canvas wider than ``width`` characters is cut into parts.
        """
        return trajectory_text(self, width)

    def _repr_html_(self) -> str:
        """What a notebook shows: a table without a script, coloured by the judge."""
        return trajectory_table([self])


@dataclass
class Trajectory:
    """The trajectories of a batch, in the order of its rows."""

    rows: list[RowTrajectory]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> RowTrajectory:
        return self.rows[index]

    def __iter__(self) -> Iterator[RowTrajectory]:
        return iter(self.rows)

    def to_text(self, width: int = 100) -> str:
        """Every row's :meth:`RowTrajectory.to_text`, an empty line between them."""
        return "\n\n".join(row.to_text(width) for row in self.rows)

    def _repr_html_(self) -> str:
        """What a notebook shows: the first rows as tables, coloured by the judge."""
        return trajectory_table(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values under the schema ``imadarem.trajectory/1``."""
        rows = [
            {
                "start": row.start,
                "given": row.given,
                "judge": row.judge,
                "text": row.text,
                "stopping_reason": row.stopping_reason,
                "steps": [vars(step) for step in row.steps],
            }
            for row in self.rows
        ]
        return {"schema": SCHEMA, "rows": rows}


class TrajectoryRecorder:
    """Collects the records of :func:`imadarem.sampling.batching.refine_all` row by row.

    Args:
        canvas: The canvases before the first step.
        tokenizer: Turns ids into strings and texts where it can.
        judge: ``gate`` or ``entropy``, whichever the policy decides by.
    """

    def __init__(self, canvas: Canvas, tokenizer: Any, judge: str = "gate") -> None:
        self.tokenizer = tokenizer
        self.special = canvas.special
        self._last: list[Tensor] = canvas.sequences()
        # Up to the last position that is read: padding in front keeps its place.
        positions = torch.arange(canvas.ids.shape[1])
        lengths = ((positions + 1) * canvas.attended.cpu()).amax(dim=1).tolist()
        self._rows = [
            RowTrajectory(
                self._strings(ids[:length].tolist()),
                (state[:length] == State.GIVEN).tolist(),
                judge,
            )
            for ids, state, length in zip(
                canvas.ids.cpu(), canvas.state.cpu(), lengths, strict=True
            )
        ]

    def __call__(self, numbers: Tensor, step: Step) -> None:
        """Take one record; ``numbers`` are the batch's rows in the whole run."""
        sequences = step.canvas.sequences()
        columns = {
            "ids": step.canvas.ids.tolist(),
            "states": step.canvas.state.tolist(),
            "changed_fraction": step.changed_fraction.tolist(),
            "stopping_reason": step.reasons.tolist(),
            "quality": step.quality.tolist(),
            "halt": [None] * len(step.rows) if step.halt is None else step.halt.tolist(),
            **{name: getattr(step, name).tolist() for name in PER_POSITION},
        }
        for i, row in enumerate(step.rows.tolist()):
            number = int(numbers[row])
            values = {name: column[i] for name, column in columns.items()}
            self._rows[number].steps.append(self._row_step(self._rows[number], step, values))
            self._last[number] = sequences[i]

    def _row_step(self, row: RowTrajectory, step: Step, values: dict[str, Any]) -> RowStep:
        """One row of a record, cut to the row's own length."""
        length = len(row.start)
        values = {k: v[:length] if isinstance(v, list) else v for k, v in values.items()}
        written = [s == "WRITTEN" for s in row.steps[-1].states] if row.steps else [False] * length
        values["gate"] = [
            gate if model_wrote else None
            for gate, model_wrote in zip(values["gate"], written, strict=False)
        ]
        values["states"] = [State(state).name for state in values["states"]]
        reason = StoppingReason(values.pop("stopping_reason"))
        return RowStep(
            step=step.step,
            tokens=self._strings(values["ids"]),
            forward_passes=step.forward_passes,
            edit=step.edit,
            stopping_reason=None if reason == 0 else reason.label,
            **values,
        )

    def trajectory(self) -> Trajectory:
        """What was recorded, with the decoded results."""
        decode = getattr(self.tokenizer, "decode", None)
        if decode is not None:
            for row, ids in zip(self._rows, self._last, strict=True):
                row.text = decode(ids.tolist())
        return Trajectory(self._rows)

    def _strings(self, ids: list[int]) -> list[str]:
        convert = getattr(self.tokenizer, "convert_ids_to_tokens", None)
        names = [str(i) for i in ids] if convert is None else [str(t) for t in convert(ids)]
        roles = {self.special.mask: "[MASK]", self.special.eos: "[EOS]", self.special.pad: ""}
        return [roles.get(i, name) for i, name in zip(ids, names, strict=True)]
