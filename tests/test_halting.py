"""The stopping rules, one row and one step at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.errors import ConfigError
from imadarem.sampling.halting import Halting, StoppingReason, Track


def even(inputs: Tensor, answers: Tensor) -> Tensor:
    """A verifier: the first token of the answer is even."""
    return answers[:, 0] % 2 == 0


ALL = Halting(verify=even, confidence=0.9, quality=0.8, patience=3)


def reasons(
    halting: Halting, first: int = 5, halt: float = 0.0, quality: float = 0.0, since: int = 0
) -> str:
    """Of one row whose answer begins with ``first``."""
    track = Track(torch.tensor([1.0]), torch.tensor([since]))
    answers = torch.tensor([[first, 7]])
    found = halting.reasons(
        torch.ones_like(answers), answers, torch.tensor([halt]), torch.tensor([quality]), track
    )
    return StoppingReason(int(found)).label


def test_the_first_rule_that_holds_gives_the_reason() -> None:
    # Verifier > confidence > quality > patience: one stops holding after another.
    assert reasons(ALL, first=4, halt=0.95, quality=0.85, since=3) == "verified"
    assert reasons(ALL, first=5, halt=0.95, quality=0.85, since=3) == "confidence"
    assert reasons(ALL, first=5, halt=0.85, quality=0.85, since=3) == "quality"
    assert reasons(ALL, first=5, halt=0.85, quality=0.75, since=3) == "patience"
    assert reasons(ALL, first=5, halt=0.85, quality=0.75, since=2) == "running"


def test_a_threshold_that_is_met_exactly_holds() -> None:
    # 0.5 and 0.75 are the same number in float32 and in float64.
    halting = Halting(confidence=0.5, quality=0.75, patience=1)
    assert reasons(halting, halt=0.5) == "confidence"
    assert reasons(halting, quality=0.75) == "quality"
    assert reasons(halting, since=1) == "patience"


def test_no_rule_never_stops() -> None:
    assert reasons(Halting(), first=4, halt=1.0, quality=1.0, since=99) == "running"


def test_a_rule_left_out_does_not_hold() -> None:
    assert reasons(Halting(patience=3), first=4, halt=1.0, quality=1.0, since=3) == "patience"


def test_confidence_without_a_halting_head_passes_on_to_the_next_rule() -> None:
    one = torch.ones(1)
    track = Track(one, torch.zeros(1, dtype=torch.long))
    ids = torch.tensor([[5]])
    halting = Halting(confidence=0.0, quality=0.5)
    assert halting.reasons(ids, ids, None, one, track).tolist() == [StoppingReason.QUALITY]


def test_the_verifier_is_shown_question_and_answer() -> None:
    seen: list[list[list[int]]] = []

    def verify(inputs: Tensor, answers: Tensor) -> Tensor:
        seen.append([inputs[0].tolist(), answers[0].tolist()])
        return torch.tensor([True])

    track = Track.start(1, torch.device("cpu"))
    question, answer = torch.tensor([[1, 5]]), torch.tensor([[6, 5]])
    Halting(verify=verify).reasons(question, answer, None, torch.zeros(1), track)
    assert seen == [[[1, 5], [6, 5]]]


row = st.tuples(
    st.integers(3, 6), st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.integers(0, 5)
)


@given(st.lists(row, min_size=1, max_size=6))
def test_every_row_has_the_reason_that_it_has_alone(
    rows: list[tuple[int, float, float, int]],
) -> None:
    first, halt, quality, since = zip(*rows, strict=True)
    answers = torch.tensor(first)[:, None]
    together = ALL.reasons(
        answers,
        answers,
        torch.tensor(halt),
        torch.tensor(quality),
        Track(torch.tensor(quality), torch.tensor(since)),
    )
    assert [StoppingReason(r).label for r in together.tolist()] == [
        reasons(ALL, *one) for one in rows
    ]


def test_patience_counts_the_steps_since_the_last_gain() -> None:
    track = Track.start(1, torch.device("cpu"))
    assert track.best.item() == -math.inf
    counts = []
    # A gain of 0.00005 is none; 0.2 after it is one, and a fall is none.
    for quality in (0.5, 0.5, 0.50005, 0.7, 0.3, 0.7):
        track = track.after(torch.tensor([quality]), torch.tensor([False]))
        counts.append(int(track.since))
    assert counts == [0, 1, 2, 0, 1, 2]
    assert track.best.item() == pytest.approx(0.7)


def test_a_track_follows_its_rows() -> None:
    still = torch.zeros(3, dtype=torch.bool)
    track = Track.start(3, torch.device("cpu")).after(torch.tensor([0.1, 0.2, 0.3]), still)
    kept = track.rows(torch.tensor([True, False, True])).after(torch.tensor([0.1, 0.9]), still[:2])
    assert kept.since.tolist() == [1, 0]
    assert kept.best.tolist() == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": 1.5}, "confidence=1.5 must be a probability"),
        ({"confidence": float("nan")}, "confidence=nan"),
        ({"quality": -0.1}, "quality=-0.1 must be a probability"),
        ({"patience": 0}, "patience=0 must be at least 1 step"),
    ],
)
def test_rules_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Halting(**settings)  # type: ignore[arg-type]


def test_reasons_are_told_in_words() -> None:
    assert [reason.label for reason in StoppingReason] == [
        "running", "filled", "settled", "unchanged", "max_steps",
        "verified", "confidence", "quality", "patience", "verdict",
    ]  # fmt: skip


def test_a_row_that_changes_its_mind_is_at_work_however_unsure() -> None:
    # Quality falls in each step; steps that change a token start the count anew.
    track = Track.start(1, torch.device("cpu")).after(torch.tensor([0.9]), torch.tensor([True]))
    counts = []
    for quality, changed in ((0.8, False), (0.7, True), (0.6, False), (0.5, False)):
        track = track.after(torch.tensor([quality]), torch.tensor([changed]))
        counts.append(int(track.since))
    assert counts == [1, 0, 1, 2]
