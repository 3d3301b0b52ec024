"""Repair: only flagged places change, what is protected never does, and no batch matters."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import MOLECULES, shaken, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.errors import ConfigError, DataError
from imadarem.evaluation.judgement import Judgement
from imadarem.repair.candidates import at_site, swaps
from imadarem.repair.records import edits_between
from imadarem.repair.rows import BLANKED, PLACES, SHARE
from imadarem.repair.sites import (
    Row,
    Site,
    error_nats,
    flagged_sites,
    likely_sites,
    prompt_of,
)
from imadarem.tokenizers import SmilesTokenizer, SpecialIds

SPECIAL = SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1, 3), nothing=3)
A, B, C, D = 4, 5, 6, 7


def judged(tokens: list[int], wrong: list[float], missing: list[float]) -> Judgement:
    return Judgement(tokens, [0.1] * len(tokens), wrong, missing, 0.5)


def repairing(seed: int = 0) -> ImplicitRefinementModel:
    """A model with random weights everywhere, its judge and the token nothing included."""
    tokenizer = SmilesTokenizer.from_corpus(MOLECULES).with_nothing()
    torch.manual_seed(seed)
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        max_seq_len=32,
        length_mode="drawn",
        joint_size=8,
        judge=True,
        conv_kernel_size=3,
    )
    model = shaken(ImplicitRefinementModel(config, tokenizer=tokenizer)).eval()
    with torch.no_grad():
        # A judge that finds something in about every second place.
        assert model.network.judge is not None
        model.network.judge.score.bias.fill_(0.0)
    return model


MODEL = repairing()
TEXTS = st.lists(st.sampled_from(MOLECULES), min_size=1, max_size=5)


# ---------------------------------------------------------------- places and prompts


def test_a_flagged_token_may_stay_empty_and_a_gap_has_two_blanks() -> None:
    row = Row([A, B, C], [False] * 3)
    ids, kept = prompt_of(row, [Site(0.9, 1, False), Site(0.8, 3, True)], SPECIAL, longest=20)
    assert ids == [A, 3, C, 3, 3]
    assert kept == [False, False]


def test_without_the_token_nothing_tokens_are_replaced_and_gaps_left_alone() -> None:
    plain = SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1))
    row = Row([A, B, C], [False, False, True])
    ids, kept = prompt_of(row, [Site(0.9, 1, False), Site(0.8, 3, True)], plain, longest=20)
    assert ids == [A, 1, C]
    assert kept == [False, True]


# A gap takes two blanks and a mark: 3 + 3 = 6 positions hold one of the two gaps.
def test_gaps_that_do_not_fit_are_left_out_the_least_likely_first() -> None:
    row = Row([A, B, C], [False] * 3)
    gaps = [Site(0.6, 0, True), Site(0.9, 2, True)]
    assert prompt_of(row, gaps, SPECIAL, longest=6)[0] == [A, B, 3, 3, C]
    assert prompt_of(row, gaps, SPECIAL, longest=9)[0] == [3, 3, A, B, 3, 3, C]


# One position is left for a mark, so one blank may stay empty: that of the likelier site.
def test_blanks_without_room_for_a_mark_must_be_filled() -> None:
    sites = [Site(0.6, 0, False), Site(0.9, 2, False), Site(0.8, 1, True)]
    row = Row([A, B, C], [False] * 3)
    assert prompt_of(row, sites, SPECIAL, longest=4)[0] == [1, B, 3]
    assert prompt_of(row, sites, SPECIAL, longest=3)[0] == [1, B, 1]


def test_protected_tokens_are_no_places_and_nothing_is_inserted_between_two_of_them() -> None:
    row = Row([A, B, C], [True, True, False])
    judgement = judged([A, B, C], [0.9, 0.9, 0.9], [0.9] * 4)
    found = {(site.position, site.is_gap) for site in flagged_sites(row, judgement, 0.5)}
    assert found == {(2, False), (0, True), (2, True), (3, True)}


def test_a_probability_of_the_threshold_itself_is_not_flagged() -> None:
    row = Row([A, B], [False] * 2)
    judgement = judged([A, B], [0.5, 0.51], [0.0, 0.0, 0.0])
    assert flagged_sites(row, judgement, 0.5) == [Site(0.51, 1, False)]


def test_places_are_ranked_by_their_probability() -> None:
    row = Row([A, B], [False] * 2)
    judgement = judged([A, B], [0.2, 0.7], [0.1, 0.8, 0.0])
    assert likely_sites(row, judgement, 3) == [
        Site(0.8, 1, True),
        Site(0.7, 1, False),
        Site(0.2, 0, False),
    ]


# Without a judge a token of -ln p = ln 4 nats has a probability of 3/4 of being wrong.
def test_without_a_judge_places_are_ranked_by_the_probability_of_their_token() -> None:
    judgement = Judgement([A, B], [0.0, float(torch.log(torch.tensor(4.0)))])
    (first, second, *_) = likely_sites(Row([A, B], [False] * 2), judgement, 9)
    assert (first.position, first.is_gap) == (1, False)
    assert first.probability == pytest.approx(0.75)
    assert (second.is_gap, second.probability) == (True, pytest.approx(0.375))


# [A, B, C] → [A, D, C, A]: B replaced by D, and an A inserted behind the end.
def test_edits_name_place_kind_and_probability() -> None:
    judgement = judged([A, B, C], [0.1, 0.8, 0.1], [0.0, 0.0, 0.0, 0.7])
    replaced, inserted = edits_between([A, B, C], [A, D, C, A], judgement)
    assert (replaced.position, replaced.kind, replaced.before, replaced.after) == (
        1,
        "replace",
        B,
        D,
    )
    assert (inserted.position, inserted.kind, inserted.after) == (3, "insert", A)
    assert (replaced.probability, inserted.probability) == (0.8, 0.7)
    (deleted,) = edits_between([A, B], [A], None)
    assert (deleted.position, deleted.kind, deleted.after) == (1, "delete", None)
    assert deleted.probability is None


# The doubt is 0.8 + 0.6 + 0.1 + 0.1 = 1.6: half of it is held by the first place, 0.95 by three.
@pytest.mark.parametrize(("share", "count", "found"), [(0.5, 9, 1), (0.9, 9, 3), (0.9, 2, 2)])
def test_as_many_places_are_tried_as_hold_a_share_of_the_doubt(
    share: float, count: int, found: int
) -> None:
    judgement = judged([A, B], [0.1, 0.6], [0.1, 0.8, 0.0])
    sites = likely_sites(Row([A, B], [False] * 2), judgement, count, share)
    assert [site.probability for site in sites] == [0.8, 0.6, 0.1][:found]


# Places of 0.5, 0.2 and 0 are all right with 0.5 · 0.8 = 0.4; a protected one does not count.
def test_a_site_is_exchanged_with_each_neighbour_that_is_another_token_and_free() -> None:
    row = Row([5, 6, 6, 7], [False, False, False, True])
    token, gap = Site(0.9, 1, False), Site(0.9, 0, True)
    assert [other.tokens for other in swaps(row, [gap, token], 1)] == [[6, 5, 6, 7]]
    assert swaps(row, [Site(0.9, 2, False), Site(0.9, 3, False)], 2) == []
    free = Row([5, 6, 7], [False] * 3)
    assert [other.tokens for other in swaps(free, [Site(0.5, 2, False), token], 2)] == [
        [5, 7, 6],
        [6, 5, 7],
    ]


def test_a_row_is_wrong_as_soon_as_one_of_its_places_is() -> None:
    judgement = judged([A, B], [0.9, 0.2], [0.5, 0.0, 0.0])
    assert error_nats(Row([A, B], [True, False]), judgement) == pytest.approx(-math.log(0.4))
    # What says nothing of gaps is a gate: its likeliest place.
    gate = Judgement([A, B], [0.1, 0.1], [0.9, 0.2])
    assert error_nats(Row([A, B], [False] * 2), gate) == pytest.approx(-math.log(0.1))


# A token that is wrong with 0.5: ln 0.5 = -0.69. The token C stands there with 0.6, ln 0.6 = -0.51,
# nothing with 0.3, ln 0.3 = -1.20, and the token A itself with 0.1.
@pytest.mark.parametrize(("nothing", "deletion"), [(3, -1.90), (None, -1.20)])
def test_a_deletion_is_as_likely_as_nothing_or_else_as_the_best_token(
    nothing: int | None, deletion: float
) -> None:
    log_probs = torch.full((8,), -torch.inf, dtype=torch.float64)
    log_probs[[A, C]] = torch.tensor([0.1, 0.6], dtype=torch.float64).log()
    if nothing is not None:
        log_probs[nothing] = math.log(0.3)
    found = at_site(Row([A, B], [False] * 2), Site(0.5, 0, False), log_probs, nothing)
    scores = {tuple(candidate.row.tokens): candidate.score for candidate in found}
    assert scores == {
        (C, B): pytest.approx(-1.20, abs=0.01),
        (B,): pytest.approx(deletion, abs=0.01),
    }


# ---------------------------------------------------------------- rows


@settings(max_examples=8, deadline=None)
@given(TEXTS, st.floats(0.0, 1.0))
def test_only_suspect_places_of_a_row_ever_change(texts: list[str], threshold: float) -> None:
    judgements = MODEL.judge(texts)
    for repair, judgement in zip(
        MODEL.repair(texts, rounds=1, threshold=threshold), judgements, strict=True
    ):
        row = Row(judgement.tokens, [False] * len(judgement.tokens))
        sites = likely_sites(row, judgement, PLACES[-1], SHARE)
        sites += flagged_sites(row, judgement, min(BLANKED) * threshold)
        for edit in repair.edits:
            # The shortest alignment may place an edit beside the place that was changed.
            assert any(abs(site.position - edit.position) <= 2 for site in sites)
        assert not {0, 1, 2, MODEL.special.nothing} & set(repair.tokens)
        if -math.expm1(-error_nats(row, judgement)) <= threshold:
            assert (repair.reason, repair.changed) == ("clean", False)
        if not repair.changed:
            assert repair.text in texts and repair.edits == []


@settings(max_examples=5, deadline=None)
@given(TEXTS)
def test_a_row_is_repaired_the_same_in_every_batch(texts: list[str]) -> None:
    together = MODEL.repair(texts, rounds=2)
    alone = MODEL.repair(texts, rounds=2, batch_size=5)
    assert [r.tokens for r in together] == [r.tokens for r in alone]


@settings(max_examples=5, deadline=None)
@given(st.sampled_from(MOLECULES), st.data())
def test_protected_tokens_stand_in_every_repair_in_their_order(
    text: str, data: st.DataObject
) -> None:
    tokens = MODEL.tokenizer.encode(text)
    kept = data.draw(st.sets(st.integers(0, len(tokens) - 1)))
    for checker in (None, lambda text: False, lambda text: len(text) % 2 == 0):
        (repair,) = MODEL.repair([text], protected=[sorted(kept)], threshold=0.3, checker=checker)
        rest = iter(repair.tokens)
        assert all(tokens[position] in rest for position in sorted(kept))


def test_a_checker_decides_and_is_called_no_more_often_than_the_budget_allows() -> None:
    asked: list[str] = []

    def refuses(text: str) -> bool:
        asked.append(text)
        return False

    (repair,) = MODEL.repair("CCO", checker=refuses, budget=7)
    assert (repair.reason, repair.changed, repair.text) == ("gave_up", False, "CCO")
    assert repair.checks == len(asked) == len(set(asked)) == 7

    (repair,) = MODEL.repair("CCO", checker=lambda text: text == "CCO")
    assert (repair.reason, repair.checks) == ("clean", 1)

    (repair,) = MODEL.repair("CCO", checker=lambda text: text == "CCN", budget=500)
    assert (repair.reason, repair.text) == ("checked", "CCN")
    assert [(e.position, e.kind) for e in repair.edits] == [(2, "replace")]

    # Neighbours exchanged are one edit, and not among the single changes.
    (repair,) = MODEL.repair("CON", checker=lambda text: text == "CNO", budget=500)
    assert (repair.reason, repair.text) == ("checked", "CNO")


# A branch that is not closed, a bracket too many, and a wrong atom.
@pytest.mark.parametrize(
    ("broken", "truth", "kind"),
    [
        ("COc1ccc(C(=O)N2CCOCC2cc1", "COc1ccc(C(=O)N2CCOCC2)cc1", "insert"),
        ("COc1ccc(CNC(=O)c2cccs2))cc1", "COc1ccc(CNC(=O)c2cccs2)cc1", "delete"),
        ("O=C(NCc1ccco1)c1ccc(F)cn1Cl", "O=C(NCc1ccco1)c1ccc(F)cc1Cl", "replace"),
    ],
)
def test_the_shipped_model_repairs_every_kind_of_edit(broken: str, truth: str, kind: str) -> None:
    (repair,) = ImplicitRefinementModel.from_pretrained("smiles").repair(broken)
    assert (repair.text, repair.reason) == (truth, "repaired")
    assert [edit.kind for edit in repair.edits] == [kind]


def test_a_model_without_a_judge_needs_a_checker() -> None:
    plain = shaken(tiny_model()).eval()
    with pytest.raises(ConfigError, match="no trained judge"):
        plain.repair([[3, 4, 5]])
    (repair,) = plain.repair([[3, 4, 5]], checker=lambda text: True)
    assert repair.reason == "clean"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"budget": 0}, "budget=0"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MODEL.repair("CCO", **options)


def test_protected_positions_must_belong_to_their_rows() -> None:
    with pytest.raises(DataError, match="position 3 of it"):
        MODEL.repair(["CCO"], protected=[[3]])
    with pytest.raises(DataError, match="for 2 rows, and 1 rows"):
        MODEL.repair(["CCO"], protected=[[0], [1]])
