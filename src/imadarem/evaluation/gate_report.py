"""Whether the gate is right, step by step, about the tokens that the model itself wrote.

A label needs a truth, and only canvases tied to a real row have one: part of a held-out row
is hidden, the model fills it in with its own policy, and before every edit the gate's
probability is held against "this token is not the one of the data".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imadarem import checks
from imadarem.canvas import Canvas, State
from imadarem.corruption import choose_masked, masked_counts, stratified_rates
from imadarem.errors import ConfigError, DataError, MissingExtraError
from imadarem.evaluation.calibration import (
    ReliabilityBin,
    area_under_roc,
    expected_calibration_error,
    reliability,
)
from imadarem.evaluation.held_out import HeldOut, TokenRows, device_of
from imadarem.files import write_atomically
from imadarem.nn import EmaTeacher
from imadarem.sampling.loop import Step, refine
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.settings import SamplingSettings
from imadarem.tokenizers import SpecialIds

#: Steps in a picture; more lines could not be distinguished.
LINES = 6


@dataclass(frozen=True, kw_only=True)
class GateFigures:
    """How the gate did in one step, or in all of them.

    Attributes:
        step: The pass that judged, 2 … ``K``; None for all steps pooled. The first pass
            reads no token of the model's.
        judged: Tokens of the model that stood on the canvases read in that pass.
        auroc: Probability that a wrong token has a higher gate than a right one; NaN where
            there is only one kind.
        ece: Expected calibration error, equal-width bins.
        mean_gate: Mean gate probability.
        wrong: Share of the tokens that differ from the data.
        flagged: Share of the tokens with gate > 0.5.
        bins: The reliability diagram, without empty bins.
    """

    step: int | None
    judged: int
    auroc: float
    ece: float
    mean_gate: float
    wrong: float
    flagged: float
    bins: list[ReliabilityBin]

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values; NaN as None."""
        auroc = None if math.isnan(self.auroc) else self.auroc
        return {**asdict(self), "auroc": auroc}


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The gate on held-out, on-policy canvases.

    Attributes:
        rows: Held-out rows.
        steps: Figures of every step in which a token was judged, in their order. Rows that
            stopped early are no part of later steps, so these see the harder rows.
        pooled: All judgements of all steps together; a token that stands for several steps
            is judged in each.
    """

    rows: int
    steps: list[GateFigures]
    pooled: GateFigures

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values; NaN as None."""
        return {
            "rows": self.rows,
            "steps": [figures.to_dict() for figures in self.steps],
            "pooled": self.pooled.to_dict(),
        }


def gate_report(
    network: nn.Module,
    rows: TokenRows,
    special: SpecialIds,
    *,
    settings: SamplingSettings,
    canvas_length: int | None = None,
    teacher: EmaTeacher | None = None,
    bins: int = 15,
    seed: int = 0,
    batch_size: int = 256,
    on_rows: Callable[[int], None] | None = None,
) -> GateReport:
    """Infill held-out rows with a policy and hold the gate against the data at every step.

    Mask rates are stratified over (0, 1], one stratum for each row. What stays visible is
    GIVEN, so that only tokens of the model are ever judged or refined; the network is not
    told which are which.

    Args:
        network: Used as it is: put it in evaluation mode first.
        rows: Token ids of each row, without special tokens.
        special: The tokenizer's special ids.
        settings: How to refine; ``may_end`` is set by ``canvas_length``. At least 2 steps: the
            gate reads the model's tokens from the second pass on. A policy that fills
            everything in one pass and never refines leaves nothing to judge.
        canvas_length: None for rows of known length (``length_mode="drawn"``);
            ``max_seq_len`` for ``length_mode="eos"``, where rows are filled up with EOS and
            what lies behind a visible EOS is out of play.
        teacher: Judges the entropy if the policy asks for it.
        bins: Of the calibration error and of the reliability diagram.
        seed: Of masks and draws.
        batch_size: Rows at a time.
        on_rows: Called with the number of rows just finished (a progress bar).

    Raises:
        ConfigError: ``steps`` is below 2, or ``bins`` or ``batch_size`` below 1.
        DataError: There is no row; a row is empty, too long, or holds a special token; or
            the policy left no token to judge.
    """
    _check(settings.steps, bins, batch_size)
    data = HeldOut.from_rows(rows, special, canvas_length)
    hidden, seeds = _hidden(data, seed), row_seeds(len(data), seed)
    device = device_of(network)
    judged: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for numbers, part in data.batches(batch_size, device):
        canvas = _infill(part, hidden[numbers, : part.inside.shape[1]].to(device))
        records = refine(
            network,
            canvas,
            replace(settings, may_end=part.ends),
            seeds=seeds[numbers].to(device),
            teacher=teacher,
        )
        for step, gate, wrong in _judgements(records, part.targets):
            judged.setdefault(step, []).append((gate, wrong))
        if on_rows is not None:
            on_rows(len(numbers))
    return _report(len(data), judged, bins)


def draw_reliability(report: GateReport, path: str | Path) -> None:
    """Draw stated against observed frequency, one line per step, into a PNG file.

    Below them stands how the gate's probabilities are spread over all steps. Of many steps
    a few are drawn, evenly chosen.

    Args:
        report: What to draw.
        path: Where the picture goes; written whole or not at all.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "train") from None
    # A figure of its own, not pyplot's: no window, and nothing global is changed.
    figure = Figure(figsize=(6, 7), layout="constrained")
    lines, spread = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    lines.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    drawn = report.steps[:: math.ceil(len(report.steps) / LINES)]
    shades = colormaps["viridis"].resampled(len(drawn) + 1)
    for number, figures in enumerate(drawn):
        _reliability_line(lines, figures, f"step {figures.step}", color=shades(number), alpha=0.7)
    _reliability_line(lines, report.pooled, "all steps", color="black", linewidth=2)
    lines.set_ylabel("share of tokens that are wrong")
    lines.set_ylim(0, 1)
    lines.legend(frameon=False)
    for bin in report.pooled.bins:
        spread.bar(bin.low, bin.count, width=bin.high - bin.low, align="edge", color="grey")
    spread.set_xlim(0, 1)
    spread.set_ylabel("tokens")
    spread.set_xlabel("probability that the gate states")
    for axes in (lines, spread):
        axes.grid(alpha=0.3)
    write_atomically(path, lambda aside: figure.savefig(aside, format="png", dpi=120))


def _reliability_line(axes: Any, figures: GateFigures, name: str, **style: Any) -> None:
    stated = [bin.stated for bin in figures.bins]
    observed = [bin.observed for bin in figures.bins]
    label = f"{name}: ECE {figures.ece:.3f}, AUROC {figures.auroc:.3f}"
    axes.plot(stated, observed, marker=".", label=label, **style)


def _check(steps: int, bins: int, batch_size: int) -> None:
    if steps < 2:
        raise ConfigError(
            f"steps={steps}: the gate reads the model's tokens from the second pass on. Give at "
            "least 2."
        )
    checks.at_least(1, bins=bins, batch_size=batch_size)


def _hidden(data: HeldOut, seed: int) -> Tensor:
    """``(N, L)`` bool: what is hidden of each row, at rates stratified over the rows."""
    generator = torch.Generator().manual_seed(seed)
    counts = masked_counts(stratified_rates(len(data), generator), data.positions)
    return choose_masked(counts, data.inside, generator)


def _infill(data: HeldOut, hidden: Tensor) -> Canvas:
    """The canvas of an infill: what is visible is GIVEN."""
    canvas = data.canvas(hidden)
    return replace(canvas, state=canvas.state.masked_fill(canvas.written, State.GIVEN))


def _judgements(records: Iterator[Step], targets: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Per step: the gate on the model's tokens as they were read, and which are wrong."""
    before: Canvas | None = None
    for record in records:
        if before is not None:
            truth = targets[record.rows, : before.ids.shape[1]]
            standing = before.written
            wrong = (before.ids != truth)[standing]
            yield record.step, record.gate[standing].cpu(), wrong.cpu()
        # What the next pass reads: the rows that go on, as this step left them.
        before = record.canvas.rows(record.reasons == 0)


def _report(rows: int, judged: dict[int, list[tuple[Tensor, Tensor]]], bins: int) -> GateReport:
    by_step = {step: _joined(parts) for step, parts in sorted(judged.items())}
    by_step = {step: pair for step, pair in by_step.items() if len(pair[0])}
    if not by_step:
        raise DataError(
            "no token of the model was ever read again, so there is nothing to judge. Take more "
            "steps, longer rows, or a policy that does not fill a row in one pass."
        )
    figures = [_figures(step, *pair, bins) for step, pair in by_step.items()]
    return GateReport(
        rows=rows, steps=figures, pooled=_figures(None, *_joined(list(by_step.values())), bins)
    )


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    gates, wrongs = zip(*parts, strict=True)
    return torch.cat(gates), torch.cat(wrongs)


def _figures(step: int | None, gate: Tensor, wrong: Tensor, bins: int) -> GateFigures:
    return GateFigures(
        step=step,
        judged=len(gate),
        auroc=area_under_roc(gate, wrong),
        ece=expected_calibration_error(gate, wrong, bins),
        mean_gate=gate.double().mean().item(),
        wrong=wrong.double().mean().item(),
        flagged=(gate > 0.5).double().mean().item(),
        bins=reliability(gate, wrong, bins),
    )
