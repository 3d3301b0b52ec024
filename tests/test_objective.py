"""The objective: what is masked, what is judged, and which way each term pulls."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fakes import SPECIAL, shaken, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.config import ImplicitRefinementConfig
from imadarem.corruption import TrainingCanvas
from imadarem.data.corpus import TokenCorpus
from imadarem.errors import ConfigError, DataError
from imadarem.evaluation.calibration import area_under_roc
from imadarem.model import ImplicitRefinementModel
from imadarem.nn import RefinementOutput
from imadarem.training.objective import Objective
from imadarem.training.validation import (
    fit_gate_calibration,
)

MODEL = shaken(tiny_model())


def objective(model: ImplicitRefinementModel = MODEL, **settings: object) -> Objective:
    return Objective(
        config=replace(model.config, **settings),  # type: ignore[arg-type]
        special=model.special,
    )


def some_ids(rows: int = 8, length: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, MODEL.config.vocab_size, (rows, length), generator=generator)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 2**32), st.sampled_from(["eos", "drawn"]))
def test_a_corrupted_canvas_shows_the_data_or_a_blank(seed: int, mode: str) -> None:
    ids = some_ids(6, 9, seed)
    inside = torch.arange(9) < torch.tensor([9, 5, 1, 7, 3, 2])[:, None]
    batch = objective(length_mode=mode).corrupt(ids, inside, rng(seed))
    canvas = batch.canvas
    shown = canvas.state == State.WRITTEN
    assert torch.equal(canvas.ids[shown], batch.targets[shown])
    assert (canvas.ids[canvas.open] == MODEL.special.mask).all()
    # An unknown length may hide every blank behind a visible EOS; a known one cannot.
    assert mode == "eos" or canvas.open.any(dim=1).all()


def test_a_known_length_is_attended_and_nothing_else() -> None:
    inside = torch.arange(9) < torch.tensor([9, 5])[:, None]
    batch = objective(length_mode="drawn").corrupt(some_ids(2), inside, rng())
    assert batch.canvas.attended.tolist() == inside.tolist()


@given(st.integers(0, 2**32))
def test_an_unknown_length_does_not_leak(seed: int) -> None:
    # What is attended must be a function of the visible tokens alone: all positions before
    # the first visible EOS. Two rows of different length that show no EOS look alike.
    inside = torch.arange(9) < torch.tensor([9, 2, 5])[:, None]
    batch = objective(length_mode="eos").corrupt(some_ids(3), inside, rng(seed))
    width = MODEL.config.max_seq_len
    for targets, ids, attended, length in zip(
        batch.targets, batch.canvas.ids, batch.canvas.attended, (9, 2, 5), strict=True
    ):
        assert (targets[length:] == MODEL.special.eos).all()
        endings = (ids == MODEL.special.eos).nonzero()
        cut = int(endings[0]) if len(endings) else width
        assert attended.tolist() == [position < cut for position in range(width)]


def certain_of(tokens: Tensor, gate: float, height: float = 30.0) -> RefinementOutput:
    logits = torch.nn.functional.one_hot(tokens, MODEL.config.vocab_size).float() * height
    return RefinementOutput(logits, torch.full(tokens.shape, gate))


def test_the_token_term_is_the_mean_over_rows_of_the_mean_over_blanks() -> None:
    # Row 0 has 2 blanks with probabilities 1/2 and 1/4: mean ln(8)/2. Row 1 one with 1/2.
    ids = torch.tensor([[3, 4, 5], [3, 4, 5]])
    state = torch.tensor([[1, 1, 2], [1, 2, 2]], dtype=torch.uint8)
    canvas = Canvas(ids.masked_fill(state == 1, 1), state, MODEL.special)
    logits = torch.full((2, 3, MODEL.config.vocab_size), -math.inf)
    logits[0, 0, [3, 4]] = math.log(1 / 2)
    logits[0, 1, [3, 4, 5, 6]] = math.log(1 / 4)
    logits[1, 0, [3, 4]] = math.log(1 / 2)
    logits[:, 2] = 0.0
    logits[1, 1] = 0.0
    batch = TrainingCanvas(
        canvas, ids, torch.zeros(2, 3, dtype=torch.bool), torch.zeros(len(ids), dtype=torch.bool)
    )
    # -inf * 0 would be NaN in the graph; the loss must not touch other positions.
    terms = objective().score(RefinementOutput(logits.clamp(min=-1e4), torch.zeros(2, 3)), batch)
    expected = (math.log(8) / 2 + math.log(2)) / 2
    assert terms.token.item() == pytest.approx(expected, rel=1e-5)


def test_signs_of_the_terms() -> None:
    ids = some_ids(4, 6)
    blank = torch.zeros(4, 6, dtype=torch.bool)
    blank[:2, :2] = True  # rows of data teach the tokens
    state = torch.where(blank, State.OPEN, State.WRITTEN).to(torch.uint8)
    judged = torch.zeros_like(blank)
    judged[2:, 2:4] = True  # column 2 stands as in the data, column 3 does not
    shown = ids.clone()
    shown[2:, 3] = torch.where(ids[2:, 3] == 3, 4, 3)
    batch = TrainingCanvas(
        Canvas(shown.masked_fill(blank, 1), state, MODEL.special),
        ids,
        judged,
        torch.zeros(len(ids), dtype=torch.bool),
    )
    score = objective(diversity_weight=0.1).score

    right, unsure = certain_of(ids, 0.0), certain_of(ids, 0.0, height=0.0)
    # Being right lowers the token term; being sure raises the diversity term.
    assert score(right, batch).token < score(unsure, batch).token
    assert score(right, batch).diversity.item() == pytest.approx(0.5, abs=1e-4)
    assert score(unsure, batch).diversity.item() == 0.0

    # Flagging the wrong token and not the right one lowers the gate term, and vice versa.
    def gate_term(at_right: float, at_wrong: float) -> float:
        gates = torch.zeros(4, 6)
        gates[:, 2], gates[:, 3] = at_right, at_wrong
        return score(RefinementOutput(right.logits, gates), batch).gate.item()

    assert gate_term(-4.0, 4.0) < gate_term(0.0, 0.0) == pytest.approx(math.log(2))
    assert gate_term(4.0, -4.0) > gate_term(0.0, 0.0)


def test_a_canvas_with_tokens_of_the_model_teaches_the_gate_alone() -> None:
    # Two rows alike but for one judged token in the second: its blanks must not count.
    ids = some_ids(2, 4)
    state = torch.tensor([[1, 2, 2, 2], [1, 2, 2, 2]], dtype=torch.uint8)
    canvas = Canvas(ids.masked_fill(state == 1, 1), state, MODEL.special)
    judged = torch.zeros(2, 4, dtype=torch.bool)
    judged[1, 2] = True
    logits = torch.zeros(2, 4, MODEL.config.vocab_size)
    logits[1, 0, ids[1, 0]] = -30.0  # badly wrong, and not asked about
    terms = objective().score(
        RefinementOutput(logits, torch.zeros(2, 4)),
        TrainingCanvas(canvas, ids, judged, torch.zeros(len(ids), dtype=torch.bool)),
    )
    assert terms.token.item() == pytest.approx(math.log(MODEL.config.vocab_size))


def test_the_total_is_the_weighted_sum() -> None:
    loss = objective(diversity_weight=0.2, gate_weight=0.7, self_conditioning=False)
    terms = loss(MODEL, some_ids(), None, rng())
    expected = terms.token + 0.2 * terms.diversity + 0.7 * terms.gate
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_only_tokens_of_the_model_are_judged() -> None:
    ids = some_ids(16)
    loss = objective()
    before = loss.corrupt(ids, None, rng())
    after = loss.fill(before, MODEL, rng(1))
    assert not (after.judged & ~before.canvas.open).any()
    assert not (after.judged & after.canvas.open).any()
    # Half of the rows at most are touched, the others stay as they were.
    touched = (after.canvas.ids != before.canvas.ids).any(dim=1)
    assert 0 < touched.sum() <= 8
    # The data stands where it stood: the model fills in, it does not rewrite.
    shown = before.canvas.written
    assert torch.equal(after.canvas.ids[shown], before.canvas.ids[shown])
    # Nothing tells the network afterwards which tokens are the model's.
    states = set(after.canvas.state.unique().tolist())
    assert states <= {State.OPEN, State.WRITTEN, State.FROZEN}


@pytest.mark.parametrize("refine_fraction", [0.5, 1.0])
def test_canvases_are_filled_in_part_and_whole(refine_fraction: float) -> None:
    loss = replace(objective(refine_fraction=refine_fraction), on_policy_share=1.0)
    full = []
    for seed in range(6):
        batch = loss.corrupt(some_ids(8, seed=seed), None, rng(seed))
        full += (~loss.fill(batch, MODEL, rng(seed)).canvas.open.any(dim=1)).tolist()
    assert 0.1 < sum(full) / len(full) < 0.9


def test_a_gradient_reaches_every_weight_of_gate_and_trunk() -> None:
    model = shaken(tiny_model(self_conditioning=False)).train()
    model.loss(some_ids(16), generator=rng()).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_gate_alone_gets_its_gradient_from_the_gate_term() -> None:
    model = shaken(tiny_model(self_conditioning=False)).train()
    model.loss(some_ids(16), generator=rng(), on_policy_share=0.0).total.backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.network.gate.parameters())


def test_the_same_generator_gives_the_same_loss() -> None:
    first = MODEL.loss(some_ids(), generator=rng(3)).total
    assert torch.equal(first, MODEL.loss(some_ids(), generator=rng(3)).total)
    assert not torch.equal(first, MODEL.loss(some_ids(), generator=rng(4)).total)


def test_rollouts_leave_the_network_in_training_mode() -> None:
    model = tiny_model().train()
    model.loss(some_ids(), generator=rng())
    assert model.training


@pytest.mark.parametrize("ids", [torch.zeros(0, 4), torch.zeros(2, 0), torch.zeros(4)])
def test_batches_that_are_none_are_refused(ids: Tensor) -> None:
    with pytest.raises(DataError, match="a batch must be"):
        MODEL.loss(ids.long())


def test_a_batch_longer_than_the_model_is_refused() -> None:
    with pytest.raises(DataError, match="max_seq_len=12"):
        MODEL.loss(some_ids(2, 13))


def test_the_share_is_checked() -> None:
    with pytest.raises(ConfigError):
        MODEL.loss(some_ids(), on_policy_share=1.5)


@pytest.mark.slow
def test_a_trained_gate_ranks_well_above_chance_and_does_not_saturate() -> None:
    # Rows repeat one token; a filled canvas is wrong exactly where it breaks the pattern.
    # The gate sees only the canvas, so an AUROC far above 1/2 is coherence it has learned.
    model = tiny_model(length_mode="drawn", self_conditioning=False).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = rng()
    for _ in range(120):
        rows = torch.randint(3, 9, (48, 1), generator=generator).expand(-1, 6)
        optimizer.zero_grad()
        model.loss(rows, generator=generator).total.backward()
        optimizer.step()
    model.eval()
    held_out = torch.randint(3, 9, (400, 1), generator=rng(99)).expand(-1, 6)
    loss = replace(objective(model), on_policy_share=1.0)
    batch = loss.fill(loss.corrupt(held_out, None, rng(98)), model, rng(97))
    with torch.no_grad():
        gate = model(batch.canvas.ids, batch.canvas.attention_mask).gate_logits.sigmoid()
    gate, wrong = gate[batch.judged], (batch.canvas.ids != batch.targets)[batch.judged]
    assert area_under_roc(gate, wrong) > 0.75
    assert 0.05 < gate.mean() < 0.95


def test_blank_rows_are_read_once_for_each_length_and_cost_what_they_cost_alone() -> None:
    model = shaken(tiny_model(joint_size=5, length_mode="drawn", self_conditioning=False)).eval()
    ids = torch.tensor([[3, 4, 5], [5, 4, 3], [6, 6, 0], [3, 3, 3]])
    inside = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]])
    whole = Objective(
        config=model.config, special=model.special, on_policy_share=0.0, blank_share=0.75
    )
    seen: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, args: seen.append(len(args[0]))  # type: ignore[func-returns-value]
    )
    batch = whole.corrupt(ids, inside, torch.Generator().manual_seed(0))
    assert batch.blank.tolist() == [True, True, True, False]
    assert batch.canvas.open[:3].sum(dim=1).tolist() == [3, 3, 2]
    terms = whole(model, ids, inside, torch.Generator().manual_seed(0))
    handle.remove()
    # Two lengths of blank rows, and the row that shows something.
    assert seen == [3]
    each = model(batch.canvas.ids, batch.canvas.attention_mask, targets=ids)
    assert terms.token.item() == pytest.approx(whole.score(each, batch).token.item(), rel=1e-5)


def test_blank_rows_train_no_gate() -> None:
    whole = Objective(config=MODEL.config, special=MODEL.special, blank_share=0.5)
    ids = some_ids(8, 6)
    generator = torch.Generator().manual_seed(0)
    batch = replace(whole, on_policy_share=1.0).fill(
        whole.corrupt(ids, None, generator), MODEL, generator
    )
    assert not batch.judged[:4].any() and batch.judged[4:].any()


def test_a_gate_that_is_too_strict_early_and_too_lax_late_is_made_honest_at_all_times() -> None:
    # Wrong with probability 1/2 at any time; the gate's logit falls as the canvas fills.
    class Drifting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(
            self, ids: Tensor, attention_mask: Tensor | None = None, prev_probs: object = None
        ) -> RefinementOutput:
            time = (ids != 1).float().mean(dim=1, keepdim=True)
            logits = torch.zeros(*ids.shape, 7)
            # The data are all 3; a blank gets a 3 or a 4.
            logits[..., [0, 1, 2, 5, 6]] = -50.0
            return RefinementOutput(logits, (3.0 - 4.0 * time).expand(ids.shape))

    loss = Objective(
        config=ImplicitRefinementConfig(
            vocab_size=7, max_seq_len=16, length_mode="drawn", max_refinement_steps=4,
            sampling_temperature=1.0,
        ),
        special=SPECIAL,
    )  # fmt: skip
    corpus = TokenCorpus.from_rows([[3] * 16] * 600, 7)
    fit = fit_gate_calibration(Drifting(), loss, corpus)
    assert fit.progress_slope != 0.0
    stated = [
        (3 - 4 * s) / fit.temperature + fit.offset + fit.progress_slope * s for s in (0.25, 0.75)
    ]
    assert stated == pytest.approx([0.0, 0.0], abs=0.15)
    fit.apply(loss.config)
    assert loss.config.gate_offset == fit.offset


def test_an_offset_moves_the_gates_logits() -> None:
    plain = shaken(tiny_model())
    moved = tiny_model(gate_temperature=2.0, gate_offset=0.5)
    moved.load_state_dict(plain.state_dict())
    ids = torch.tensor([[1, 1, 4, 5], [3, 4, 5, 1]])
    torch.testing.assert_close(moved(ids).gate_logits, plain(ids).gate_logits / 2 + 0.5)


def test_sampling_adds_the_slope_times_the_progress() -> None:
    gates = []
    for slope in (0.0, -3.0):
        model = shaken(tiny_model(gate_progress_slope=slope)).eval()
        found: list[Tensor] = []
        model.sample(
            1,
            length=4,
            steps=4,
            policy="left-to-right",
            seed=0,
            on_step=lambda _, step, found=found: found.append(step.gate),  # type: ignore[misc]
        )
        gates.append(torch.stack([gate[0, 0].logit() for gate in found]))
    # 0, 1, 2 and 3 of 4 tokens were written when each step read the canvas.
    expected = gates[0] - 3.0 * torch.tensor([0.0, 0.25, 0.5, 0.75])
    torch.testing.assert_close(gates[1].float(), expected.float(), atol=1e-3, rtol=1e-3)


def test_canvases_are_filled_at_the_samplers_temperature() -> None:
    model = shaken(tiny_model(joint_size=6, sampling_temperature=0.0)).eval()
    loss = Objective(config=model.config, special=model.special, on_policy_share=1.0)
    batch = loss.corrupt(some_ids(8), None, rng(0))
    steps = model.config.max_refinement_steps
    # The likeliest tokens from the left: whatever the noise, the canvas is the same.
    filled = [loss.fill(batch, model, rng(seed), steps).canvas.ids for seed in (1, 2)]
    assert torch.equal(*filled)


def with_nothing(length: int = 20) -> ImplicitRefinementModel:
    """The tiny model for holes of unknown length."""
    plain = tiny_model(length_mode="drawn", joint_size=6)
    larger = plain.with_vocabulary(plain.tokenizer.with_nothing())
    return larger.enlarged(max_seq_len=length)


def test_each_kind_of_canvas_has_its_share_of_the_rows() -> None:
    model = with_nothing()
    shares = {"blank_share": 0.25, "suffix_share": 0.25, "window_share": 0.25}
    whole = Objective(config=model.config, special=model.special, surplus=4, **shares)
    ids = torch.full((4000, 10), 5)
    batch = whole.corrupt(ids, None, rng(1))
    assert int(batch.blank.sum()) == 1000
    # With seed 1 the batch gets surplus: windows and ends, half of the rows, ± 4 standard errors.
    assert batch.longer is not None
    assert float(batch.longer.float().mean()) == pytest.approx(0.5, abs=0.03)
    nothing = model.special.nothing
    marks = (batch.canvas.ids == nothing) & batch.canvas.attended
    assert marks.any(dim=1).equal(batch.longer)
    # Never more surplus than allowed: a row of 10 tokens, 4 blanks and 2 marks.
    assert batch.targets.shape[1] <= 16


def test_a_row_with_surplus_counts_its_tokens_and_where_they_end() -> None:
    # One token of probability 1/2, and two blanks for nothing of probability 1/4 each: the
    # row's loss is ln 2 + 2 ln 4 over two choices, the token and the end behind it.
    model = with_nothing()
    nothing = model.special.nothing
    assert nothing is not None
    targets = torch.tensor([[5, nothing, nothing, nothing]])
    state = torch.tensor([[1, 1, 1, 2]], dtype=torch.uint8)
    logits = torch.full((1, 4, model.config.vocab_size), -1e4)
    logits[0, 0, [3, 5]] = math.log(1 / 2)
    logits[0, 1:, [3, 4, 5, nothing]] = math.log(1 / 4)
    canvas = Canvas(targets.masked_fill(state == 1, 1), state, model.special)
    none = torch.zeros(1, dtype=torch.bool)
    batch = TrainingCanvas(canvas, targets, torch.zeros_like(targets).bool(), none)
    made = Objective(config=model.config, special=model.special)
    terms = made.score(RefinementOutput(logits, torch.zeros(1, 4)), batch)
    assert terms.token.item() == pytest.approx((math.log(2) + 2 * math.log(4)) / 2, rel=1e-5)


def test_surplus_needs_a_token_for_nothing_and_a_known_length() -> None:
    with pytest.raises(ConfigError, match="with_nothing"):
        Objective(config=MODEL.config, special=MODEL.special, surplus=3)
    model = with_nothing()
    with pytest.raises(ConfigError, match="length_mode='drawn'"):
        Objective(config=replace(model.config, length_mode="eos"), special=model.special, surplus=3)
    with pytest.raises(ConfigError, match="at most 1"):
        Objective(config=model.config, special=model.special, blank_share=0.6, window_share=0.6)


def test_an_enlarged_model_computes_the_same() -> None:
    model = shaken(tiny_model(length_mode="drawn", joint_size=6)).eval()
    larger = model.enlarged(num_layers=4, max_seq_len=30, joint_size=11).eval()
    ids = some_ids(3, 9)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, larger(ids).logits)
        joint = [m.network(ids, targets=ids).joint_logits for m in (model, larger)]
        assert joint[0].abs().max() > 0.01
        torch.testing.assert_close(*joint)
        assert larger(some_ids(2, 30)).logits.isfinite().all()
    with pytest.raises(ConfigError, match="only be enlarged"):
        model.enlarged(num_layers=1)
