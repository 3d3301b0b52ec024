"""Is a judge right? Ranking and calibration of its outputs, by kind of row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imadarem.evaluation.calibration import area_under_roc, expected_calibration_error
from imadarem.nn.judge import JudgeLogits, Platt
from imadarem.training.judging import CLEAN, DRAFTS, KINDS, REFILLED, JudgeData, JudgedRows

ROWS = 250
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class JudgeFigures:
    """One output of a judge on one kind of row.

    Attributes:
        output: ``wrong``, ``missing``, ``right``, or ``gate``, which says what ``wrong`` says.
        kind: Of the rows, or of those that ``right`` tells from data.
        count: How many tokens, gaps or rows were judged.
        auroc: Chance that a positive one is ranked above a negative one; None without both.
        ece: Expected calibration error.
    """

    output: str
    kind: str
    count: int
    auroc: float | None
    ece: float


@dataclass(frozen=True)
class JudgeReport:
    """What a judge is worth on rows whose errors are known.

    Attributes:
        figures: By output and kind of row.
        unflagged: Share of the clean rows in which nothing is flagged.
        clean: Number of those rows.
    """

    figures: list[JudgeFigures]
    unflagged: float
    clean: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = [vars(figures) for figures in self.figures]
        return {"figures": found, "unflagged": self.unflagged, "clean_rows": self.clean}


def judge_report(model: Any, data: JudgeData, batches: int) -> JudgeReport:
    """Judge ``batches`` batches of 250 rows of all kinds, made from held-out data.

    Args:
        model: With a judge, in evaluation mode.
        data: Where the rows come from.
        batches: How many.
    """
    pairs, unflagged = _judged(model, data, batches)
    found = []
    for (output, kind), (logits, labels) in pairs.items():
        probabilities = logits.sigmoid()
        mixed = bool(labels.any()) and not bool(labels.all())
        auroc = area_under_roc(probabilities, labels) if mixed else None
        ece = expected_calibration_error(probabilities, labels)
        found.append(JudgeFigures(output, kind, len(labels), auroc, ece))
    return JudgeReport(found, unflagged.float().mean().item(), len(unflagged))


def fit_judge(model: Any, data: JudgeData, batches: int, *, keep_gate: bool) -> None:
    """Calibrate a judge on held-out rows: one fit for an output, one for each kind of verdict.

    Args:
        model: With a judge; changed in place.
        data: Where the rows come from.
        batches: Of 250 rows.
        keep_gate: Leave the calibration of the gate as it is.
    """
    pairs, _ = _judged(model, data, batches)

    def fitted(output: str, kind: str | None = None) -> Platt:
        of = [pair for (o, k), pair in pairs.items() if o == output and kind in (None, k)]
        logits, labels = map(torch.cat, zip(*of, strict=True))
        return Platt.fitted(logits, labels)

    verdicts = [fitted("right", KINDS[kind]) for kind in (DRAFTS, REFILLED)]
    model.network.judge.calibrate(fitted("wrong"), fitted("missing"), verdicts)
    if keep_gate:
        return
    config = model.config
    slope, offset = fitted("gate")
    config.gate_temperature /= slope
    config.gate_offset = slope * config.gate_offset + offset
    config.gate_progress_slope = 0.0


@torch.no_grad()
def _judged(
    model: Any, data: JudgeData, batches: int
) -> tuple[dict[tuple[str, str], Pair], Tensor]:
    """Logits and labels by output and kind, and which clean rows have nothing flagged."""
    parts: dict[tuple[str, str], list[Pair]] = {}
    unflagged = []
    for _ in range(batches):
        rows = data.batch(ROWS)
        judged, gate = model.network.judged(rows.ids, rows.inside)
        for name, pair in _pairs(judged, gate, rows):
            parts.setdefault(name, []).append(pair)
        wrong = ((judged.wrong > 0) & rows.judged).any(dim=1)
        flagged = wrong | ((judged.missing > 0) & rows.gaps).any(dim=1)
        whole = (rows.judged == rows.inside).all(dim=1)
        unflagged.append(~flagged[(rows.kinds == CLEAN) & whole])
    joined = {name: _joined(found) for name, found in parts.items()}
    return joined, torch.cat(unflagged)


def _pairs(
    judged: JudgeLogits, gate: Tensor, rows: JudgedRows
) -> Iterator[tuple[tuple[str, str], Pair]]:
    """Logits and labels of one batch."""
    for number, kind in enumerate(KINDS[:REFILLED]):
        of_kind = (rows.kinds == number)[:, None]
        tokens, gaps = rows.judged & of_kind, rows.gaps & of_kind
        yield ("wrong", kind), (judged.wrong[tokens], rows.wrong[tokens])
        yield ("gate", kind), (gate[tokens], rows.wrong[tokens])
        yield ("missing", kind), (judged.missing[gaps], rows.missing[gaps])
    for logits, number in zip(judged.right.unbind(dim=1), (DRAFTS, REFILLED), strict=True):
        own = torch.nonzero(rows.kinds == number).flatten()
        clean = torch.nonzero(rows.kinds == CLEAN).flatten()[: len(own)]
        both = torch.cat([clean, own])
        yield ("right", KINDS[number]), (logits[both], rows.kinds[both] == CLEAN)


def _joined(pairs: list[Pair]) -> Pair:
    logits, labels = map(torch.cat, zip(*pairs, strict=True))
    return logits, labels
