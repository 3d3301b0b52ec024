"""The gate's report: who is judged, when, and against what."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import SPECIAL, Scripted, peaked, shaken, tiny_model
from torch import Tensor

from imadarem.errors import ConfigError, DataError, MissingExtraError
from imadarem.evaluation.calibration import reliability
from imadarem.evaluation.gate_report import GateReport, draw_reliability, gate_report
from imadarem.sampling.policies import Ancestral, EntropyBound, Gate, GateInPlace, Remask
from imadarem.sampling.settings import SamplingSettings
from imadarem.tokenizers import SpecialIds

VOCAB = 6
MODEL = shaken(tiny_model())
ROWS = [[3, 4, 5, 6, 7, 3], [7, 3], [5, 6, 7, 3, 4, 4, 3], [3, 3, 3], [8, 8, 4]] * 4


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def gated(network: object, rows: object, special: SpecialIds, **given: Any) -> GateReport:
    """:func:`gate_report`, its sampling settings given one by one."""
    ours = ("bins", "batch_size", "seed", "canvas_length")
    own = {name: given.pop(name) for name in ours if name in given}
    return gate_report(network, rows, special, settings=SamplingSettings(**given), **own)


def always_three(at_even: float, at_odd: float) -> Scripted:
    """Writes token 3; its gate is one probability at even places and another at odd ones."""

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        odd = torch.arange(ids.shape[1]) % 2 == 1
        gate = torch.where(odd, logit(at_odd), logit(at_even)).expand(ids.shape)
        return peaked(torch.full_like(ids, 3), VOCAB), gate

    return Scripted(answer)


def test_each_step_judges_the_tokens_that_the_steps_before_have_written() -> None:
    # Four rows of four tokens, one in each stratum of the mask rate: 4, 3, 2 and 1 blanks.
    # In four steps ancestral sampling fills one blank a step in each. Step 2 reads one token
    # of the rows with 4, 3 and 2 blanks; step 3 two of those with 4 and 3; step 4 three.
    report = gated(always_three(0.2, 0.9), [(3, 4, 3, 4)] * 4, SPECIAL, policy=Ancestral(), steps=4)
    assert report.rows == 4
    assert [figures.step for figures in report.steps] == [2, 3, 4]
    assert [figures.judged for figures in report.steps] == [3, 4, 3]
    assert (report.pooled.step, report.pooled.judged) == (None, 10)


def test_the_figures_hold_the_gate_against_the_data() -> None:
    # A written 3 is wrong at odd places, where the gate says .9, and right at even ones,
    # where it says .2: ranks are perfect, .1 and .2 are missing to certainty.
    rows = [(3, 4, 3, 4, 3, 4, 3, 4)] * 8
    report = gated(always_three(0.2, 0.9), rows, SPECIAL, policy=Ancestral(), steps=8)
    for figures in [*report.steps, report.pooled]:
        w = figures.wrong
        assert figures.mean_gate == pytest.approx(0.9 * w + 0.2 * (1 - w), abs=1e-6)
        assert figures.ece == pytest.approx(0.1 * w + 0.2 * (1 - w), abs=1e-6)
        assert figures.flagged == w
        assert figures.auroc == 1.0 if 0 < w < 1 else math.isnan(figures.auroc)
    assert 0.2 < report.pooled.wrong < 0.8
    low, high = report.pooled.bins
    assert (low.observed, high.observed) == (0.0, 1.0)
    assert (low.stated, high.stated) == (pytest.approx(0.2), pytest.approx(0.9))


def test_a_token_is_judged_as_it_was_read_not_as_it_was_rewritten() -> None:
    # Pass 1 writes 3, pass 2 rewrites every token as 4, pass 3 as 5; the data are 4s.
    # So pass 2 reads wrong tokens, pass 3 right ones.
    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        return peaked(torch.full_like(ids, 2 + call), VOCAB), torch.full(ids.shape, 3.0)

    report = gated(Scripted(answer), [(4, 4, 4)] * 3, SPECIAL, policy=GateInPlace(), steps=3)
    # 1 + 2 + 3 blanks, all filled at once.
    assert [(f.step, f.judged, f.wrong) for f in report.steps] == [(2, 6, 1.0), (3, 6, 0.0)]


def test_what_is_visible_of_the_data_is_never_judged_nor_changed() -> None:
    seen: list[Tensor] = []

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        seen.append(ids)
        return peaked(torch.full_like(ids, 3), VOCAB), torch.full(ids.shape, 3.0)

    gated(Scripted(answer), [(4, 5, 4, 5)] * 4, SPECIAL, policy=GateInPlace(), steps=3)
    visible = seen[0] != SPECIAL.mask
    assert visible.sum() == 4 * 4 - (1 + 2 + 3 + 4)
    assert all(torch.equal(ids[visible], seen[0][visible]) for ids in seen)


@pytest.mark.parametrize("canvas_length", [None, 12])
@pytest.mark.parametrize("policy", [Gate(), Ancestral(), Remask(eta=0.3)], ids=repr)
def test_a_row_is_judged_the_same_in_any_batch(policy, canvas_length) -> None:
    # With one row a batch nothing can be mixed up between rows that stop at different steps.
    def report(size: int) -> GateReport:
        return gated(
            MODEL,
            ROWS,
            MODEL.special,
            policy=policy,
            steps=5,
            stop_threshold=0.3,
            canvas_length=canvas_length,
            batch_size=size,
        )

    alone, together = report(1), report(99)
    assert [f.step for f in alone.steps] == [f.step for f in together.steps]
    for one, other in zip(
        [*alone.steps, alone.pooled], [*together.steps, together.pooled], strict=True
    ):
        assert (one.judged, one.wrong) == (other.judged, pytest.approx(other.wrong))
        assert one.mean_gate == pytest.approx(other.mean_gate, abs=1e-5)
        assert one.auroc == pytest.approx(other.auroc, abs=0.02, nan_ok=True)


def test_the_same_seed_gives_the_same_report() -> None:
    def report(seed: int) -> dict[str, object]:
        settings = {"policy": Gate(), "steps": 4, "seed": seed}
        return gated(MODEL, ROWS, MODEL.special, **settings).to_dict()

    assert report(1) == report(1) != report(2)


def test_behind_a_visible_end_nothing_is_judged() -> None:
    # The text is one token on a canvas of 40, so the first visible place behind it ends the
    # row: with a mask rate r about r / (1 - r) blanks are left before it, not 40 r. Half of
    # them stand at step 2; summed over 20 strata of r that is about 10 ln 40 = 37, not 200.
    rows = [(3,)] * 20
    report = gated(
        always_three(0.5, 0.5), rows, SPECIAL, policy=Ancestral(), steps=2, canvas_length=40
    )
    assert 10 < report.steps[0].judged < 100
    # Past the first place the data hold an EOS, and a written 3 is wrong.
    assert report.pooled.wrong > 0.5


def test_an_undefined_ranking_is_null_in_json() -> None:
    report = gated(always_three(0.2, 0.2), [(3, 3, 3)] * 3, SPECIAL, policy=Ancestral(), steps=3)
    assert math.isnan(report.pooled.auroc)
    assert report.to_dict()["pooled"]["auroc"] is None
    assert report.to_dict()["pooled"]["bins"][0]["count"] == report.pooled.judged


def test_what_leaves_nothing_to_judge_is_refused() -> None:
    def call(**settings: object) -> GateReport:
        given = {"policy": Ancestral(), "steps": 4, **settings}
        return gated(MODEL, ROWS, MODEL.special, **given)

    with pytest.raises(ConfigError, match="steps=1"):
        call(steps=1)
    with pytest.raises(ConfigError, match="bins=0"):
        call(bins=0)
    with pytest.raises(DataError, match="nothing to judge"):
        call(policy=EntropyBound(gamma=math.inf))
    with pytest.raises(DataError, match="special id 1"):
        gated(MODEL, [[3, 1]], MODEL.special, policy=Gate(), steps=4)


def test_bins_are_means_and_shares_without_the_empty_ones() -> None:
    # Five bins: .05 and .15 in the first, 1.0 in the last, nothing between.
    found = reliability(torch.tensor([0.05, 0.15, 1.0]), torch.tensor([True, False, True]), 5)
    assert [(bin.low, bin.high, bin.count) for bin in found] == [(0.0, 0.2, 2), (0.8, 1.0, 1)]
    assert [bin.stated for bin in found] == pytest.approx([0.1, 1.0])
    assert [bin.observed for bin in found] == [0.5, 1.0]


@pytest.mark.slow
def test_the_picture_is_a_png_whole_or_not_there(tmp_path: Path, monkeypatch) -> None:
    report = gated(MODEL, ROWS, MODEL.special, policy=Gate(), steps=5)
    draw_reliability(report, tmp_path / "new" / "gate.png")
    assert (tmp_path / "new" / "gate.png").read_bytes().startswith(b"\x89PNG")
    # Many steps: a few lines.
    many = replace(report, steps=report.steps * 10)
    draw_reliability(many, tmp_path / "many.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"imadarem\[train\]"):
        draw_reliability(report, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
