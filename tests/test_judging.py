"""The judge: labels by alignment, what each kind of row teaches, and the head."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fakes import MOLECULES, SPECIAL, shaken, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from imadarem.data.corpus import TokenCorpus
from imadarem.errors import DataError
from imadarem.evaluation.calibration import area_under_roc
from imadarem.model import ImplicitRefinementModel
from imadarem.nn.judge import JudgeLogits, Platt
from imadarem.training.judge_report import fit_judge, judge_report
from imadarem.training.judging import (
    CLEAN,
    DRAFTS,
    EDITS,
    PLAUSIBLE,
    REFILLED,
    JudgeData,
    alignment_labels,
    judge_loss,
    judged_rows,
    local_edits,
)

rows = st.lists(st.integers(3, 6), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("row", "original", "wrong", "missing"),
    [
        ([3, 4, 5], [3, 4, 5], [], []),
        ([3, 9, 5], [3, 4, 5], [1], []),  # a token replaced
        ([3, 9, 4, 5], [3, 4, 5], [1], []),  # a token too many
        ([3, 5], [3, 4, 5], [], [1]),  # a token missing before the second
        ([3, 4], [3, 4, 5], [], [2]),  # ... and before the end
        ([5], [3, 4, 5], [], [0]),  # two are missing before the first
    ],
)
def test_labels_are_the_shortest_way_back(
    row: list[int], original: list[int], wrong: list[int], missing: list[int]
) -> None:
    tokens, gaps = alignment_labels(row, original)
    assert tokens.nonzero()[0].tolist() == wrong
    assert gaps.nonzero()[0].tolist() == missing


@given(rows, rows)
def test_a_row_without_its_wrong_tokens_is_a_part_of_the_original(
    row: list[int], original: list[int]
) -> None:
    wrong, _ = alignment_labels(row, original)
    rest = iter(original)
    assert all(token in rest for token, is_wrong in zip(row, wrong, strict=True) if not is_wrong)


@given(rows, st.integers(0, 2**32), st.integers(1, 5))
def test_edits_are_as_many_as_asked_at_most(row: list[int], seed: int, count: int) -> None:
    edited = local_edits(row, np.arange(3, 9), count, np.random.default_rng(seed))
    assert 1 <= len(edited) and abs(len(edited) - len(row)) <= count
    assert set(edited) <= set(range(3, 9))


def test_the_networks_own_rows_teach_the_verdict_alone_and_edits_the_tokens_alone() -> None:
    batch = judged_rows(
        [
            ([3, 4], None, CLEAN),
            ([3, 9], [3, 4], EDITS),
            ([9, 4], [3, 4], PLAUSIBLE),
            ([3], None, REFILLED),
            ([5, 5], None, DRAFTS),
        ],
        SPECIAL,
    )
    assert batch.wrong.long().tolist() == [[0, 0], [0, 1], [1, 0], [0, 0], [0, 0]]
    assert batch.missing.long().tolist() == [[0] * 3] * 5
    # Half a chance everywhere costs ln 2, whatever is counted.
    zeros = JudgeLogits(torch.zeros(5, 2), torch.zeros(5, 3), torch.zeros(5, 2))
    gate = torch.zeros(5, 2)
    terms = judge_loss(zeros, gate, batch)
    for term in (terms.wrong, terms.missing, terms.right, terms.gate):
        assert term.item() == pytest.approx(math.log(2))
    # A certain lie about the tokens of its own rows is free; one about their origin costs 30 / 2 of
    # the verdict of its kind, which is half of the term.
    lie = zeros._replace(wrong=torch.tensor([[0.0, 0.0]] * 3 + [[30.0, 30.0]] * 2))
    assert judge_loss(lie, gate, batch).wrong.item() == pytest.approx(math.log(2))
    drafted, filled = [0.0, 30.0, 30.0, 0.0, 30.0], [0.0, 30.0, 30.0, 0.0, 30.0]
    lie = zeros._replace(right=torch.tensor([drafted, filled]).t())
    assert judge_loss(lie, gate, batch).right.item() == pytest.approx((3 * math.log(2) + 30) / 4)


def test_padding_changes_no_judgement() -> None:
    model = shaken(tiny_model(length_mode="drawn", joint_size=6).with_judge())
    ids = torch.tensor([[3, 4, 5, 0, 0]])
    with torch.no_grad():
        alone, _ = model.network.judged(ids[:, :3])
        padded, _ = model.network.judged(ids, ids != 0)
    assert torch.allclose(padded.wrong[:, :3], alone.wrong, atol=1e-5)
    assert torch.allclose(padded.missing[:, :4], alone.missing, atol=1e-5)
    assert torch.allclose(padded.right, alone.right, atol=1e-5)


@pytest.mark.slow
def test_a_judge_learns_to_find_a_token_out_of_place() -> None:
    # Rows alternate 3 and 4, and an edit breaks the pattern. The judge alone learns.
    shape = {"length_mode": "drawn", "joint_size": 6, "conv_kernel_size": 3}
    model = tiny_model(**shape).with_judge().eval()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.network.judge.parameters(), lr=1e-2)
    for _ in range(120):
        clean = [[3, 4] * int(rng.integers(2, 6)) for _ in range(16)]
        edited = [(local_edits(row, np.arange(3, 9), 1, rng), row, EDITS) for row in clean]
        rows = judged_rows(edited, SPECIAL)
        said, gate = model.network.judged(rows.ids, rows.inside)
        optimizer.zero_grad()
        judge_loss(said, gate, rows).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    # On the rows of the last step, before it. Chance is 0.5.
    auroc = area_under_roc(said.wrong.detach()[rows.judged], rows.wrong[rows.judged])
    assert auroc > 0.8
    gaps = area_under_roc(said.missing.detach()[rows.gaps], rows.missing[rows.gaps])
    assert gaps > 0.9


def judging_model() -> ImplicitRefinementModel:
    return shaken(tiny_model(length_mode="drawn", joint_size=6).with_judge())


def test_a_new_judge_leaves_the_network_as_it_was() -> None:
    plain = shaken(tiny_model(length_mode="drawn", joint_size=6)).eval()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(plain.with_judge().eval()(ids).logits, plain(ids).logits)
    # It is saved and read again as any other part.
    assert (
        plain.sample(4, length=6, seed=0).texts
        == plain.with_judge().sample(4, length=6, seed=0).texts
    )


def test_judging_gives_a_probability_for_every_token_gap_and_row() -> None:
    model = judging_model()
    texts = ["CCO", "c1ccccc1"]
    both = model.judge(texts)
    for text, judgement in zip(texts, both, strict=True):
        n = len(model.tokenizer.encode(text))
        assert judgement.tokens == model.tokenizer.encode(text)
        assert judgement.wrong is not None and judgement.missing is not None
        assert (len(judgement.surprise), len(judgement.wrong), len(judgement.missing)) == (
            n,
            n,
            n + 1,
        )
        assert judgement.right is not None
        for p in (*judgement.wrong, *judgement.missing, judgement.right):
            assert 0 <= p <= 1
        alone = model.judge(text)[0]
        assert alone.wrong == pytest.approx(judgement.wrong, abs=1e-5)
        assert alone.missing == pytest.approx(judgement.missing, abs=1e-5)
        assert alone.right == pytest.approx(judgement.right, abs=1e-5)


def test_a_model_without_a_judge_still_tells_its_surprise() -> None:
    model = shaken(tiny_model(length_mode="drawn", joint_size=6)).eval()
    (found,) = model.judge("CCO")
    assert found.wrong is None and found.right is None
    # By hand: the joint logits of each token in its place, over what may stand there.
    ids = torch.tensor([model.tokenizer.encode("CCO")])
    with torch.no_grad():
        logits = model(ids, targets=ids).joint_logits[0]
    logits[:, [*model.special.banned, model.special.eos]] = -math.inf
    log_probs = logits.log_softmax(dim=-1)
    expected = [-float(log_probs[i, token]) for i, token in enumerate(ids[0])]
    assert found.surprise == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DataError, match="max_seq_len=12"):
        model.judge("C" * 13)


def test_a_calibration_is_folded_into_the_weights() -> None:
    model = judging_model()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before, _ = model.network.judged(ids)
        rows = Platt(0.5, 0.25), Platt(1.5, -1.0)
        model.network.judge.calibrate(Platt(2.0, 1.0), Platt(3.0, -1.0), rows)
        after, _ = model.network.judged(ids)
    assert torch.allclose(after.wrong, 2 * before.wrong + 1, atol=1e-5)
    # Inside the row; at its ends stands one of two terms, with half of the offset.
    assert torch.allclose(after.missing[:, 1:-1], 3 * before.missing[:, 1:-1] - 1, atol=1e-5)
    assert torch.allclose(after.missing[:, 0], 3 * before.missing[:, 0] - 0.5, atol=1e-5)
    expected = before.right * torch.tensor([0.5, 1.5]) + torch.tensor([0.25, -1.0])
    assert torch.allclose(after.right, expected, atol=1e-5)


def test_a_fit_finds_the_slope_and_offset_of_its_labels() -> None:
    # Labels drawn with P = sigmoid(2 x - 1): the fit is within 4 standard errors of (2, -1).
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=generator)
    labels = torch.rand(20_000, generator=generator) < (2 * x - 1).sigmoid()
    assert Platt.fitted(x, labels) == pytest.approx((2.0, -1.0), abs=0.13)


def test_batches_have_every_kind_in_its_share() -> None:
    model = judging_model()
    model.config.length_counts = [0, 0, 1, 1, 1]
    corpus = TokenCorpus.from_rows([model.tokenizer.encode(m) for m in MOLECULES], 40)
    data = JudgeData(model, corpus, own=6, seed=0)
    rows = data.batch(50)
    # 40 %, 20 %, 12 %, 10 % and 18 % of 50; edited rows may be too long for the canvas.
    counts = rows.kinds.bincount(minlength=5).tolist()
    assert [counts[CLEAN], counts[PLAUSIBLE], counts[REFILLED], counts[DRAFTS]] == [20, 6, 5, 9]
    assert not rows.wrong[rows.kinds == CLEAN].any()
    assert rows.wrong[rows.kinds == PLAUSIBLE].sum(dim=1).tolist() == [1] * 6
    blank = rows.ids == model.special.mask
    assert bool(blank.any()) and not (blank & rows.judged).any()
    assert not rows.judged[rows.kinds >= REFILLED].any()


def test_the_caller_may_make_the_errors_and_choose_the_shares() -> None:
    model = judging_model()
    model.config.length_counts = [0, 0, 1, 1, 1]
    corpus = TokenCorpus.from_rows([model.tokenizer.encode(m) for m in MOLECULES], 40)
    shares = (0.5, 0.5, 0.0, 0.0, 0.0)
    data = JudgeData(model, corpus, 6, 0, lambda row, _: [int(n) for n in row[1:]], shares)
    rows = data.batch(20)
    assert rows.kinds.tolist() == [CLEAN] * 10 + [EDITS] * 10
    # One token is missing, the first, or any of a run that it begins.
    assert rows.missing.sum(dim=1).tolist() == [0] * 10 + [1] * 10


def test_a_fitted_judge_is_calibrated_for_each_kind_of_its_own_rows() -> None:
    model = judging_model()
    model.config.length_counts = [0, 0, 1, 1, 1]
    corpus = TokenCorpus.from_rows([model.tokenizer.encode(m) for m in MOLECULES], 40)
    data = JudgeData(model, corpus, own=200, seed=0)
    before = judge_report(model, data, 4)
    fit_judge(model, data, 8, keep_gate=True)
    after = judge_report(model, data, 4)
    # A row counts as data for one verdict, and as the model's own for the other or neither.
    verdicts = {f.kind: f for f in after.figures if f.output == "right"}
    assert set(verdicts) == {"drafts", "refilled"}
    drafts, edits = 4 * 45, [f for f in after.figures if (f.output, f.kind) == ("wrong", "edits")]
    assert verdicts["drafts"].count == 2 * drafts
    assert 0 <= edits[0].ece <= 1 and edits[0].auroc is not None
    worst = {f.kind: f.ece for f in before.figures if f.output == "right"}
    assert all(verdicts[kind].ece < max(worst[kind], 0.1) for kind in verdicts)
    # Four fifths of the 100 clean rows of a batch have no blank.
    assert 4 * 60 < after.clean < 4 * 100
