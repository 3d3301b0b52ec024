"""Accuracy by steps, and what a stopping rule makes of it, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import shaken
from orchestrator_parts import MASK, PAD, episodes, model, orchestrator

from imadarem.data.tasks import Episodes
from imadarem.errors import ConfigError
from imadarem.orchestrator.accuracy import Halted, StepRecord, record_steps

# Four rows over three steps. Row 0 is right at once, row 1 from step 2 on, row 2 is right in
# step 2 alone, row 3 never.
RIGHT = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)
# Sure of row 0 at once, of row 1 (too early) at once, of row 2 in step 2, of row 3 never.
HALT = np.array([[0.9, 0.9, 0.1, 0.1], [0.9, 0.9, 0.8, 0.2], [0.9, 0.9, 0.9, 0.3]])
RECORD = StepRecord(RIGHT, RIGHT.astype(float), HALT)


def test_accuracy_by_steps_is_the_share_of_rows_right_after_each() -> None:
    assert RECORD.exact([1, 2, 3]) == {1: 0.25, 2: 0.75, 3: 0.5}


@pytest.mark.parametrize(
    ("threshold", "steps", "expected"),
    [
        # Stops after steps 1, 1, 2, 3: right, wrong, right, wrong (never sure: not halted wrong).
        # First right after steps 1, 2, 2, and 3 for the row that never is.
        (0.5, 3, Halted(2 / 4, 2 / 4, 7 / 4, 8 / 4, 1 / 4)),
        # Row 2 is sure in step 3 alone, where it is wrong: rows 1 and 2 are halted wrong.
        (0.85, 3, Halted(1 / 4, 2 / 4, 8 / 4, 8 / 4, 2 / 4)),
        # Never sure: every row takes all steps.
        (0.95, 3, Halted(2 / 4, 2 / 4, 3.0, 8 / 4, 0.0)),
        # Two steps at most: stops after 1, 1, 2, 2; first right after 1, 2, 2, 2.
        (0.5, 2, Halted(2 / 4, 3 / 4, 6 / 4, 7 / 4, 1 / 4)),
        # One step: no choice.
        (0.5, 1, Halted(1 / 4, 1 / 4, 1.0, 1.0, 1 / 4)),
    ],
)
def test_a_threshold_stops_rows_where_it_is_first_reached(
    threshold: float, steps: int, expected: Halted
) -> None:
    found = RECORD.halted(threshold, steps)
    for name in Halted.__dataclass_fields__:
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name


def test_a_model_without_a_halting_head_has_no_threshold() -> None:
    with pytest.raises(ConfigError, match="halting=True"):
        StepRecord(RIGHT, RIGHT.astype(float), None).halted(0.5, 3)


def test_steps_are_recorded_as_inference_takes_them() -> None:
    over = orchestrator(shaken(model()), canvas_edit_strategies=["replace"]).eval()
    given = episodes(5)
    record = record_steps(over, given, 3, "copy", batch_size=2)
    assert record.right.shape == record.tokens.shape == (3, 5)
    assert record.halt is not None and record.halt.shape == (3, 5)
    whole = over.inference(given.inputs, max_steps_override=3, task_type="none", return_traces=True)
    for row, trace in enumerate(whole["traces"]):
        for step in trace.steps:
            same = torch.tensor(step.ids)[4:] == given.labels[row, 4:]
            assert record.tokens[step.step - 1, row] == pytest.approx(float(same.float().mean()))
            assert record.right[step.step - 1, row] == bool(same.all())
            assert record.halt[step.step - 1, row] == pytest.approx(step.halt, abs=1e-5)
    # Blanks alone count: the four given letters would make half of every row right.
    assert 0 < record.tokens.mean() < 0.5


def test_a_row_that_settles_stays_as_it_is() -> None:
    # The gate flags nothing, so that patching settles in step 2.
    refiner = shaken(model(gate_bias_init=-50.0))
    over = orchestrator(refiner, canvas_edit_strategies=["patch"]).eval()
    given = episodes(2)
    answers = over.inference(given.inputs, task_type="none")["output_ids"]
    easy = Episodes(given.inputs, answers, given.task_ids)
    record = record_steps(over, easy, 5, "copy")
    assert record.right.all() and (record.tokens == 1.0).all()
    assert record.halt is not None and (record.halt[1:] == record.halt[1]).all()


def test_padding_counts_for_nothing_wherever_it_stands() -> None:
    over = orchestrator(shaken(model()), canvas_edit_strategies=["replace"]).eval()
    inputs = torch.tensor([[PAD, PAD, 3, 4, MASK, MASK], [3, 4, MASK, MASK, PAD, PAD]])
    answers = over.inference(inputs, max_steps_override=2, task_type="none")["output_ids"]
    record = record_steps(over, Episodes(inputs, answers, torch.arange(2)), 2, "copy")
    assert record.right[-1].tolist() == [True, True]


def test_without_a_halting_head_no_probability_is_recorded() -> None:
    over = orchestrator(model(halting=False)).eval()
    assert record_steps(over, episodes(2), 2, "copy").halt is None
