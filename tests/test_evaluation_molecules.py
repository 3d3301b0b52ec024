"""Molecule metrics on sets small enough to work out by hand."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from imadarem.data.moses import load_moses_sample
from imadarem.errors import ConfigError, DataError
from imadarem.evaluation import chemistry, tanimoto
from imadarem.evaluation.chemistry import describe, passes_filters
from imadarem.evaluation.fcd import Activations, activation_statistics, frechet_distance
from imadarem.evaluation.molecules import (
    Reference,
    _wasserstein,
    evaluate_molecules,
    reference_row,
)

IBUPROFEN = "CC(C)Cc1ccc(C(C)C(=O)O)cc1"
BIPHENYL = "c1ccc(-c2ccccc2)cc1"
NAPHTHALENE = "c1ccc2ccccc2c1"


def near(value: float):
    """Up to what float32 products lose."""
    return pytest.approx(value, abs=1e-6)


# --- counting


def test_valid_unique_and_novel_are_shares_of_different_wholes():
    report = evaluate_molecules(["CCO", "OCC", "CC(", "c1ccccc1"], train=["C1=CC=CC=C1"])
    assert report.samples == 4
    assert report.valid == 3 / 4
    assert report.unique == 2 / 3  # CCO twice
    assert report.novelty == 1 / 2  # benzene, in another notation, is in the training set


def test_unique_at_k_looks_at_the_first_k_valid_ones_and_needs_k_of_them():
    report = evaluate_molecules(["CC("] + ["C"] * 999 + ["O", "N"])
    assert report.unique_1k == 2 / 1000  # C and O; N is the 1001st valid one
    assert report.unique == 3 / 1001
    assert report.unique_10k is None


def test_canonical_training_strings_are_compared_as_written():
    arguments = {"train": ["OCC"], "reference": None}
    assert evaluate_molecules(["CCO"], **arguments).novelty == 0
    assert evaluate_molecules(["CCO"], train_is_canonical=True, **arguments).novelty == 1


def test_nothing_valid_gives_none_not_nan():
    report = evaluate_molecules(["CC(", "", None], train=["C"], reference=["C"])
    assert (report.samples, report.valid, report.quality) == (3, 0.0, 0.0)
    assert (report.unique, report.novelty, report.int_div, report.snn) == (None,) * 4


def test_quality_is_a_share_of_all_samples_and_counts_a_molecule_once():
    # Ibuprofen has QED .82 and SA 2.2; ethanol has QED .41.
    assert evaluate_molecules([IBUPROFEN, IBUPROFEN, "CCO", "CC("]).quality == 1 / 4


# --- similarity


def test_diversities_by_hand():
    # The fingerprints of methane and water share no bit: T is 1 within, 0 across.
    # Row means of T, and of T² alike, over [C, C, O]: C 2/3, C 2/3, O 1/3.
    report = evaluate_molecules(["C", "C", "O"])
    assert report.int_div == near(1 - (2 / 3 + 2 / 3 + 1 / 3) / 3)
    roots = [math.sqrt(2 / 3), math.sqrt(2 / 3), math.sqrt(1 / 3)]
    assert report.int_div2 == near(1 - sum(roots) / 3)
    assert report.diversity == near(1.0)  # the one pair of different molecules
    assert evaluate_molecules(["C", "C"]).diversity is None


def test_snn_is_the_mean_of_the_nearest():
    assert evaluate_molecules(["C", "O", "O"], reference=["C", "N"]).snn == near(1 / 3)


def test_tanimoto_by_hand():
    bits = np.packbits([[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0], [0] * 8], axis=1)
    # T: a-b 2/4, a-c and b-c 0, the empty c with itself 1. Weights 1, 2, 1.
    mean, squared = tanimoto.mean_powers(bits, np.array([1.0, 2.0, 1.0]))
    assert mean.tolist() == [(1 + 2 * 0.5) / 4, (0.5 + 2) / 4, 1 / 4]
    assert squared.tolist() == [(1 + 2 * 0.25) / 4, (0.25 + 2) / 4, 1 / 4]
    assert tanimoto.nearest_similarity(bits, bits[1:]).tolist() == [0.5, 1.0, 1.0]


@given(
    rows=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=9),
    weights=st.lists(st.integers(1, 5), min_size=9, max_size=9),
    block=st.integers(1, 10),
)
def test_blocks_of_any_size_agree_with_pair_by_pair(rows, weights, block):
    def pair(x: int, y: int) -> float:
        return (x & y).bit_count() / (x | y).bit_count() if x | y else 1.0

    n = len(rows)
    table = np.array([[pair(x, y) for y in rows] for x in rows])
    weight = np.array(weights[:n], dtype=float)
    packed = np.array([[row >> 8, row & 255] for row in rows], dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tanimoto, "BLOCK", block)
        mean, squared = tanimoto.mean_powers(packed, weight)
        nearest = tanimoto.nearest_similarity(packed, packed[: n // 2 + 1])
    np.testing.assert_allclose(mean, table @ weight / weight.sum(), atol=1e-6)
    np.testing.assert_allclose(squared, table**2 @ weight / weight.sum(), atol=1e-6)
    np.testing.assert_allclose(nearest, table[:, : n // 2 + 1].max(axis=1), atol=1e-6)


# --- distributions


def test_fragments_are_compared_by_the_cosine_of_their_counts():
    # Neither molecule has a bond that BRICS cuts: {benzene: 2} and {benzene: 1, ethane: 1}.
    report = evaluate_molecules(["c1ccccc1", "c1ccccc1"], reference=["c1ccccc1", "CC"])
    assert report.frag == near(1 / math.sqrt(2))


def test_scaffolds_count_from_two_rings():
    # Toluene has one ring: sample {biphenyl: 1}, reference {biphenyl: 1, naphthalene: 2}.
    reference = [f"C{BIPHENYL}", NAPHTHALENE, f"C{NAPHTHALENE}", "Cc1ccccc1"]
    report = evaluate_molecules([BIPHENYL, "Cc1ccccc1"], reference=reference)
    assert report.scaf == near(1 / math.sqrt(5))
    assert evaluate_molecules(["CCO"], reference=["CCO"]).scaf is None


def test_property_means_and_distances():
    # Methane weighs 16.043, water 18.015: half of the mass has to move by the difference.
    report = evaluate_molecules(["C", "O"], reference=["C"])
    assert report.weight == pytest.approx((16.043 + 18.015) / 2, abs=1e-3)
    assert report.weight_distance == pytest.approx((18.015 - 16.043) / 2, abs=1e-3)


def test_wasserstein_by_hand():
    assert _wasserstein(np.array([3.0, 0.0, 1.0]), np.array([5.0, 6.0, 8.0])) == near(5)
    # Quantiles of [0, 0, 2] against [1]: distances 1, 1, 1, each a third.
    assert _wasserstein(np.array([0.0, 2.0, 0.0]), np.array([1.0])) == near(1)


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=9),
    st.lists(st.integers(-50, 50), min_size=1, max_size=9),
    st.integers(1, 3),
)
def test_wasserstein_is_symmetric_and_blind_to_repetition(first, second, times):
    a, b = np.array(first, float), np.array(second, float)
    assert _wasserstein(a, b) == pytest.approx(_wasserstein(b, np.repeat(a, times)))
    assert _wasserstein(a, a) == 0
    assert _wasserstein(a, b) >= abs(a.mean() - b.mean()) - 1e-9


# --- filters


@pytest.mark.parametrize(
    ("smiles", "passes"),
    [
        ("CCO", True),
        (IBUPROFEN, True),
        ("C1CCCCCC1", True),
        ("C1CCCCCCC1", False),  # eight atoms in a ring
        ("C[NH3+]", False),  # charged
        ("CB(O)O", False),  # boron
        ("C1CO1", False),  # MCF5, an epoxide
        ("CC=O", False),  # MCF7, an aldehyde
        ("Oc1ccccc1O", False),  # PAINS catechol_A
        ("CC(", False),
    ],
)
def test_filters(smiles, passes):
    assert passes_filters(smiles) is passes


@pytest.mark.parametrize(
    "smiles",
    ["Oc1ccccc1O", "O=C1C=CC(=O)C=C1", "CCN=NCC", "CC=O", "c1ccc(N=Nc2ccccc2)cc1", "FC(F)F", "C"],
)
def test_the_screen_finds_the_same_patterns_as_matching_all(smiles):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    patterns, screen = chemistry._patterns()
    matched = [row for row, pattern in enumerate(patterns) if molecule.HasSubstructMatch(pattern)]
    possible = ~(screen & ~chemistry._pattern_bits(molecule)).any(axis=1)
    assert len(patterns) == 502
    assert possible[matched].all()
    assert possible.sum() < 100  # it spares most of the matching
    assert chemistry._has_pattern(molecule) is bool(matched)


# --- FCD


def test_frechet_distance_of_independent_gaussians():
    # Means (0, 0) and (3, 4): 25. Standard deviations (2, 3) and (1, 1): 1 + 4.
    first = Activations(mu=np.zeros(2), sigma=np.diag([4.0, 9.0]))
    second = Activations(mu=np.array([3.0, 4.0]), sigma=np.eye(2))
    assert frechet_distance(first, second) == pytest.approx(30)
    assert frechet_distance(first, first) == pytest.approx(0)


def test_frechet_distance_needs_no_full_rank():
    # Along (1, 1) and along (1, 0), both of variance 2 there: Tr Σ1 = Tr Σ2 = 2, and
    # Σ1 Σ2 = [[2, 0], [2, 0]] has the eigenvalues 2 and 0: 2 + 2 - 2 √2.
    first = Activations(mu=np.zeros(2), sigma=np.ones((2, 2)))
    second = Activations(mu=np.zeros(2), sigma=np.diag([2.0, 0.0]))
    assert frechet_distance(first, second) == pytest.approx(4 - 2 * math.sqrt(2))


@pytest.mark.slow
def test_fcd_is_zero_to_itself_and_repetitions_weigh():
    smiles = load_moses_sample("test")[:8]
    report = evaluate_molecules(smiles, reference=smiles, fcd=True)
    assert report.fcd == pytest.approx(0, abs=1e-3)
    once = activation_statistics(smiles[:4] + smiles[:1])
    weighed = activation_statistics(smiles[:4], [2, 1, 1, 1])
    assert once is not None and weighed is not None
    assert frechet_distance(once, weighed) == pytest.approx(0, abs=1e-3)
    assert frechet_distance(once, activation_statistics(smiles[4:])) > 10
    assert activation_statistics(smiles[:1]) is None


# --- real molecules


@pytest.mark.slow
def test_training_molecules_score_as_real_ones_do():
    train = load_moses_sample("train")[:200]
    arguments = {"seed": 1, "molecules": train, "train": train, "reference": train[:20]}
    row = reference_row(120, **arguments)
    assert (row.samples, row.valid, row.unique) == (120, 1, 1)
    assert row.filters == 1  # MOSES was made by these very filters
    assert row.novelty == 0
    assert row == reference_row(120, **arguments)
    assert row.int_div == pytest.approx(0.856, abs=0.01)  # arXiv:1811.12823, table 2: train
    assert row.quality == pytest.approx(0.954, abs=0.08)  # four standard deviations at n = 120
    assert json.loads(json.dumps(row.to_dict(), allow_nan=False)) == row.to_dict()


@pytest.mark.slow
def test_more_processes_change_nothing_but_the_time(monkeypatch):
    monkeypatch.setattr("imadarem.workers.PATIENCE", 0.0)
    smiles = [*load_moses_sample("test")[:70], "CC("]
    told: list[tuple[str, int, int]] = []
    spread = evaluate_molecules(smiles, processes=2, progress=lambda *step: told.append(step))
    assert spread == evaluate_molecules(smiles)
    assert ("reading", 71, 71) in told and ("describing", 70, 70) in told
    assert {stage for stage, _, _ in told} == {"reading", "describing", "diversity"}


def test_moses_statistics_and_the_same_molecules_are_the_same_reference():
    smiles = ["CCO", BIPHENYL, "CC(=O)Nc1ccccc1"]
    found = [describe(text) for text in smiles]
    fragments = Counter(part for f in found for part in f.fragments)
    packed = np.array([list(f.narrow) for f in found], dtype=np.uint8)
    statistics = {
        "FCD": {"mu": np.zeros(2, np.float32), "sigma": np.eye(2)},
        "SNN": {"fps": np.unpackbits(packed, axis=1)},
        "Frag": {"frag": fragments},
        "Scaf": {"scaf": {BIPHENYL: 1}},
        "logP": {"values": [f.logp for f in found]},
        "SA": {"values": [f.sa for f in found]},
        "QED": {"values": [f.qed for f in found]},
        "weight": {"values": [f.weight for f in found]},
    }
    ours = evaluate_molecules([BIPHENYL, "CCN"], reference=Reference.from_smiles(smiles))
    theirs = evaluate_molecules([BIPHENYL, "CCN"], reference=Reference.from_moses(statistics))
    assert ours.to_dict() | {"reference": "MOSES test"} == theirs.to_dict()


# --- refusals


def test_misuse_is_named():
    with pytest.raises(DataError, match="one string"):
        evaluate_molecules("CCO")
    with pytest.raises(DataError, match="smiles is empty"):
        evaluate_molecules([])
    with pytest.raises(DataError, match="1 of 2 reference strings"):
        evaluate_molecules(["C"], reference=["C", "CC("])
    with pytest.raises(ConfigError, match="none was given"):
        evaluate_molecules(["C"], fcd=True)
    with pytest.raises(ConfigError, match="without FCD"):
        evaluate_molecules(["C"], fcd=True, reference=Reference.from_smiles(["C"]))
    with pytest.raises(ConfigError, match="processes is 0"):
        evaluate_molecules(["C"], processes=0)
    with pytest.raises(DataError, match="between 1 and 2"):
        reference_row(3, molecules=["C", "O"])
