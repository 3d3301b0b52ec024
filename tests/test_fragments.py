"""Molecules around fragments: what is given is in every molecule, or the molecule is lost."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_parts import SIXTY, records, saved_model
from hypothesis import given, settings
from hypothesis import strategies as st

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import canonical, parse
from imadarem.design.completion import KINDS, NOTATIONS, FragmentTask, complete, draw
from imadarem.design.fragment import read_fragment, without_salts
from imadarem.design.prompts import split_blanks
from imadarem.design.scores import score_named
from imadarem.design.verification import LOST, TOO_LONG, rejection_reason
from imadarem.errors import ConfigError, DataError, TrainingError
from imadarem.tokenizers import (
    CharTokenizer,
    SafeTokenizer,
    SelfiesTokenizer,
    SmilesTokenizer,
)
from imadarem.tokenizers.relatives import known_token

KINDS_OF = {"safe": SafeTokenizer, "selfies": SelfiesTokenizer, "smiles": SmilesTokenizer}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A model with random weights for each notation."""
    made = {}
    for name, kind in KINDS_OF.items():
        folder = tmp_path_factory.mktemp(name)
        saved_model(folder, kind.from_corpus(SIXTY), SIXTY, max_seq_len=90)
        made[name] = folder
    return made


@pytest.fixture(scope="session")
def models(folders):
    return {name: ImplicitRefinementModel.from_pretrained(f) for name, f in folders.items()}


def lost(smiles, *fragments, apart=False):
    return rejection_reason(smiles, [read_fragment(text) for text in fragments], apart=apart)


# --- reading a fragment


@pytest.mark.parametrize("text", ["*c1ccccc1", "[*]c1ccccc1", "[*:1]c1ccccc1", "[1*]c1ccccc1"])
def test_attachment_points_are_read_as_chemists_write_them(text):
    fragment = read_fragment(text)
    assert len(fragment.ends) == 1
    assert fragment.molecule.GetNumAtoms() == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 characters"),
        ("C" * 1001, "1001 characters"),
        ("c1ccnc1", r"carries a hydrogen is written \[nH\].*Did you mean c1cc\[nH\]c1\?"),
        ("C1CC", "unclosed ring"),
        ("[R1]c1ccccc1", "not as R"),
        ("C(C)(C)(C)(C)C", "valence"),
        ("c1ccccc1.Cl", "several parts"),
        ("*", "no atom of its own"),
        ("**", "no atom of its own"),
        ("C**", "2 bonds"),
        ("C*C", "2 bonds"),
        ("CC=*", "double or triple bond"),
        ("not a molecule", "white space"),
        ("Ü", "occurs in no SMILES"),
    ],
)
def test_a_fragment_that_is_none_is_refused_with_what_to_do(text, message):
    with pytest.raises(DataError, match=message):
        read_fragment(text)


@given(st.text(st.sampled_from("cCnNoO()[]*=#1234:.@H+-/\\ "), max_size=12))
@settings(max_examples=100)
def test_whatever_is_typed_is_a_fragment_or_an_error_that_names_it(text):
    try:
        assert read_fragment(text).molecule.GetNumAtoms() > 0
    except DataError as error:
        assert "fragment" in str(error) or "attachment point" in str(error)


def test_hydrogens_that_are_written_out_are_hydrogens():
    fragment = read_fragment("[H]C([H])([H])c1ccccc1")
    assert lost("CCc1ccccc1", "[H]C([H])([H])c1ccccc1") is None
    assert len(fragment.free_atoms) == 6


# --- keeping a fragment


@pytest.mark.parametrize(
    ("smiles", "fragment", "why"),
    [
        ("Cc1ccccc1", "*c1ccccc1", None),
        ("Cc1ccccc1C", "*c1ccccc1", "attachment points not respected"),  # one too many
        ("Cc1ccccc1", "*c1ccc(*)cc1", "attachment points not respected"),  # one unused
        ("Cc1ccccc1C", "*c1ccc(*)cc1", "attachment points not respected"),  # the wrong places
        ("Cc1ccccc1C", "c1ccccc1", None),  # no points: anywhere
        ("c1ccccc1", "c1ccccc1", "nothing new"),
        ("Cc1ccncc1", "*c1ccccc1", "fragment changed"),
        ("C1CCCCC1C", "*c1ccccc1", "fragment changed"),
        ("C[C@H](N)CC", "C[C@H](N)*", None),
        ("C[C@@H](N)CC", "C[C@H](N)*", "stereo changed"),
        ("CC(N)CC", "C[C@H](N)*", "stereo changed"),
        ("C[C@@H](N)CC", "CC(N)*", None),  # nothing was said about the centre
        ("F/C=C\\CC", "F/C=C/*", "stereo changed"),
        ("CC[NH+](C)C", "CN(C)*", "charge or isotope changed"),
        ("CCC(=O)[O-]", "*CC(=O)O", "charge or isotope changed"),
        ("CCC(=O)O", "*CC(=O)O", None),
        ("[13CH3]Cc1ccccc1", "*Cc1ccccc1", None),  # an isotope in what is new
        ("C[13CH2]c1ccccc1", "*Cc1ccccc1", "charge or isotope changed"),
        ("Cc1ccccc1.Cl", "*c1ccccc1", "in several parts"),
        ("C1CC", "*c1ccccc1", "no molecule"),
        ("C1CC2CCC1C2", "C1CCCC1", None),  # norbornane: two more bonds, none inside the ring
        ("C1CC2CC1C2", "C1CCCCC1", "nothing new"),
    ],
)
def test_what_was_given_is_there_or_the_reason_is(smiles, fragment, why):
    assert lost(smiles, fragment) == why
    assert why is None or why in LOST


@pytest.mark.parametrize(
    ("smiles", "why"),
    [
        ("c1ccc(CCC2CCCNC2)cc1", None),
        ("c1ccc(C2CCCNC2)cc1", "nothing new"),
        ("Cc1ccc(C2CCCNC2)cc1", "attachment points not respected"),
    ],
)
def test_a_linker_joins_two_fragments_by_something_new(smiles, why):
    assert lost(smiles, "*c1ccccc1", "*C1CCCNC1", apart=True) == why


def test_two_fragments_do_not_share_atoms():
    assert lost("CCc1ccccc1", "*c1ccccc1", "*c1ccccc1") == "nothing new"
    assert lost("CCCCCCCc1ccccc1", "*c1ccccc1", "*c1ccccc1") == "fragments overlap or touch"


# --- prompts


@pytest.mark.parametrize("name", KINDS_OF)
@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("motif", ["*c1ccc(F)cc1"]),
        ("motif", ["*N1CC[C@H](O)C1"]),
        ("scaffold", ["*c1ccc(*)c(C(=O)N*)c1"]),
        ("scaffold", ["c1ccc2[nH]ccc2c1"]),
        ("superstructure", ["C1CCNCC1"]),
        ("linker", ["*c1ccccc1", "*N1CCOCC1"]),
        ("linker", ["c1ccccc1", "[2*]C#N"]),
        ("scaffold", ["*c1c([I])cc([Si](C)(C)C)cc1[N+](=O)[O-]"]),  # unknown to the vocabulary
        ("scaffold", ["*c1c(*)c(*)c2c(*)c(*)c(*)c(*)c2c1*"]),  # more points than link numbers
        ("scaffold", ["[1*][C@H]1C[C@@H]([2*])C=C2C=C[C@H]([3*])[C@H](CC)[C@H]21"]),
    ],
)
def test_every_molecule_has_what_was_given_whatever_the_model_writes(models, name, kind, texts):
    task = FragmentTask.of(kind, *texts)
    # Random weights write at random: nearly all is lost, and nothing false is returned.
    for row in draw(models[name], task, 12, seed=1, steps=4):
        assert (row.lost is None) == (
            row.smiles is not None and not task.rejection_reason(row.smiles)
        )
        assert row.lost is None or row.lost in LOST


@pytest.mark.parametrize("name", KINDS_OF)
def test_right_blanks_give_the_molecule_back(models, name):
    # p-Tolyl and a fill whose tokens are known: the methyl group of toluene.
    fill = {"safe": ["C"], "selfies": ["[C]"], "smiles": ["C"]}[name]
    notation = NOTATIONS[name](models[name].tokenizer, 90)
    for seed in range(5):
        prompt = notation.around(read_fragment("*c1ccccc1"), 1, np.random.default_rng(seed))
        tokens = [fill[0] if token is None else token for token in prompt.tokens]
        assert canonical(prompt.fill(tokens) or "") == "Cc1ccccc1"


@pytest.mark.parametrize("name", KINDS_OF)
def test_a_right_linker_joins_the_two(models, name):
    fill = {"safe": "C", "selfies": "[C]", "smiles": "C"}[name]
    notation = NOTATIONS[name](models[name].tokenizer, 90)
    one, other = read_fragment("*c1ccccc1"), read_fragment("*N1CCOCC1")
    for seed in range(5):
        prompt = notation.between(one, other, 1, np.random.default_rng(seed))
        tokens = [fill if token is None else token for token in prompt.tokens]
        assert canonical(prompt.fill(tokens) or "") == "c1ccc(CN2CCOCC2)cc1"


def test_an_unknown_token_is_shown_by_the_nearest_known_one():
    known = frozenset({"C", "c", "Br", "[nH]", "N"})
    pairs = {"[C@@H]": "C", "I": "Br", "[13CH3]": "C", "[Si]": "C", "[N+]": "N", "/": "", "s": "c"}
    assert {token: known_token(token, known, "smiles") for token in pairs} == pairs
    selfies = frozenset({"[C]", "[=N]", "[Br]"})
    assert known_token("[=N+1]", selfies, "selfies") == "[=N]"
    assert known_token("[C@@H1]", selfies, "selfies") == "[C]"
    assert known_token("[/I]", selfies, "selfies") == "[Br]"
    assert known_token("%99", known, "safe") is None
    assert known_token("%99", known | {"%10", "%11"}, "safe") == "%11"


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 99))
def test_blanks_are_split_over_all_ends(ends, more, seed):
    parts = split_blanks(ends + more, ends, np.random.default_rng(seed))
    assert sum(parts) == ends + more
    assert len(parts) == ends
    assert min(parts) >= 1


# --- completing


def test_the_same_seed_gives_the_same_molecules(models):
    task = FragmentTask.of("motif", "*c1ccccc1")
    first, second = (complete(models["selfies"], task, 4, seed=3, steps=4) for _ in range(2))
    assert first.smiles == second.smiles
    assert len(set(first.smiles)) == len(first.rows)
    assert first.draws == len(first.rows) + sum(first.lost.values())


def test_the_window_bounds_what_is_written(models):
    task = FragmentTask.of("motif", "*c1ccccc1")
    made = complete(models["selfies"], task, 4, blanks=(1, 1), seed=0, steps=2, most_draws=40)
    # One symbol is at most one atom besides the benzene ring's six.
    assert made.rows
    assert all(parse(smiles).GetNumAtoms() == 7 for smiles in made.smiles)


@pytest.mark.parametrize(
    ("kind", "texts", "message"),
    [
        ("linker", ["*C"], "takes 2 fragments"),
        ("linker", ["*C*", "*C"], "one each"),
        ("motif", ["*C", "*C"], "takes 1 fragment,"),
        ("superstructure", ["*CC"], "Remove them"),
        ("scaffold", ["FC(F)(F)F"], "no atom of"),
    ],
)
def test_fragments_that_do_not_suit_the_task_are_refused(kind, texts, message):
    with pytest.raises(DataError, match=message):
        FragmentTask.of(kind, *texts)


def test_an_unknown_task_is_refused():
    assert set(KINDS) == {"linker", "core", "ring", "motif", "scaffold", "superstructure"}
    with pytest.raises(ConfigError, match="unknown fragment task"):
        FragmentTask.of("kernel", "*C")


# --- cores, rings, salts, and what is longer than the canvas


@pytest.mark.parametrize(
    ("kind", "text", "smiles", "why"),
    [
        ("core", "*F.*OC.*N", "COc1cc(F)cc(N)c1", None),
        ("core", "*F.*OC.*N", "COc1cccc(N)c1", "fragment changed"),
        ("core", "*c1ccccc1.*C1CC1", "C1CC1c1ccccc1", "nothing new"),
        ("core", "*c1ccccc1.*C1CC1", "C1CC1c1ccccc1C", "attachment points not respected"),
        ("ring", "*CCC(=O)N*", "O=C1CCCCN1", None),
        ("ring", "*CCC(=O)N*", "CCCC(=O)NC", "ring not closed"),
    ],
)
def test_a_core_carries_all_substituents_and_a_ring_is_closed(kind, text, smiles, why):
    assert FragmentTask.of(kind, text).rejection_reason(smiles) == why


@pytest.mark.parametrize("name", KINDS_OF)
def test_a_ring_closes_from_one_point_to_the_other(models, name):
    task = FragmentTask.of("ring", "*C[C@H](F)C(=O)N*")
    for number, row in enumerate(draw(models[name], task, 20, seed=1, steps=1)):
        if row.smiles is not None and row.lost is None:
            assert parse(row.smiles).GetRingInfo().NumRings() > 0, number
    notation = NOTATIONS[name](models[name].tokenizer, 90)
    prompt = notation.closing(task.fragments[0], 2, np.random.default_rng(0))
    closed = prompt.fill(
        [token or ("[C]" if name == "selfies" else "C") for token in prompt.tokens]
    )
    if name != "safe":  # its blanks stand around a link
        assert task.rejection_reason(canonical(closed)) is None


def test_a_core_stands_between_three_substituents(models):
    task = FragmentTask.of("core", "*F.*OC.*C#N")
    notation = NOTATIONS["smiles"](models["smiles"].tokenizer, 90)
    for seed in range(8):
        prompt = notation.core(task.fragments, 4, np.random.default_rng(seed))
        filled = prompt.fill([token or "C" for token in prompt.tokens])
        assert task.rejection_reason(canonical(filled)) is None
    with pytest.raises(ConfigError, match="needs a model that writes SMILES"):
        draw(models["selfies"], task, 1)


def test_what_is_far_from_the_blanks_is_hidden_and_stays_in_the_molecule(models):
    fragment = "*CCc1cc(Cl)ccc1" + "C(CC)" * 30 + "C1CCN(C)CC1"
    task = FragmentTask.of("motif", fragment)
    notation = NOTATIONS["smiles"](models["smiles"].tokenizer, 24)
    for seed in range(8):
        prompt = notation.around(task.fragments[0], 3, np.random.default_rng(seed))
        assert len(prompt.tokens) <= 24
        assert prompt.tokens.count(None) == 3
        shown = "".join(token or "*" for token in prompt.tokens)
        assert shown.count("(") == shown.count(")")
        assert "Cl" in shown and "((" not in shown  # it is near
        assert (
            task.rejection_reason(canonical(prompt.fill([t or "C" for t in prompt.tokens]))) is None
        )


@pytest.mark.parametrize(
    ("text", "left", "removed"),
    [
        ("*CCN.Cl", "*CCN", ["Cl"]),
        ("*CC[NH3+].[Cl-]", "*CCN", ["[Cl-]"]),
        ("*CCN.OC(=O)C(F)(F)F.O", "*CCN", ["OC(=O)C(F)(F)F", "O"]),
        ("*CCN.*CCO", "*CCN.*CCO", []),
        ("[Na+].[Cl-]", "[Na+].[Cl-]", []),
    ],
)
def test_counter_ions_are_left_out(text, left, removed):
    assert without_salts(text) == (left, removed)


@pytest.mark.usefixtures("elsewhere")
def test_a_file_of_fragments_gives_its_columns(said, folders):
    Path("cores.csv").write_text("id,smiles\na,*c1ccccc1\nb,*C1CCNCC1.Cl\n")
    code, out, err = said(
        *("infill", "--model", folders["selfies"], "--scaffold", "cores.csv", "--steps", 2),
        *("-n", 2, "--json"),
    )
    rows = [row for row in records(out) if row["kind"] == "molecule"]
    assert (code, [row["id"] for row in rows]) == (0, ["a", "a", "b", "b"]), err
    assert "left out of scaffold: Cl" in err


def test_a_fragment_longer_than_the_canvas_is_refused(models):
    task = FragmentTask.of("motif", "*" + "C" * 100)
    with pytest.raises(DataError, match="take 10[0-9] tokens or more.*canvas has 90 tokens"):
        complete(models["selfies"], task, 1)


@pytest.mark.parametrize("name", ["safe", "selfies"])
def test_spellings_longer_than_the_canvas_are_drawn_again(name, tmp_path):
    tokenizer = KINDS_OF[name].from_corpus(SIXTY)
    task = FragmentTask.of("scaffold", "*c1ccc([N+](=O)[O-])c(C2CC(*)N2C#N)c1")
    notation, rng = NOTATIONS[name](tokenizer, 90), np.random.default_rng(0)
    lengths = [len(notation.around(task.fragments[0], 2, rng).tokens) for _ in range(50)]

    def model(limit):
        any_length = {"length_mode": "eos", "length_counts": None}
        saved_model(tmp_path, tokenizer, SIXTY, max_seq_len=limit, **any_length)
        return ImplicitRefinementModel.from_pretrained(tmp_path)

    # Most spellings are longer than the shortest one, and none leaves room for many blanks.
    for limit in (min(lengths) + 1, max(lengths)):
        rows = draw(model(limit), task, 6, seed=2, steps=1)
        assert len(rows) == 6
        assert any(row.forward_passes for row in rows)
    with pytest.raises(DataError, match="canvas has 20 tokens"):
        draw(model(20), task, 2, seed=2, steps=1)


def test_rows_that_fit_no_canvas_are_counted_beside_those_that_do(models, monkeypatch):
    import imadarem.design.completion as completion

    prompts = completion._prompts

    def every_second(*given):
        for number, prompt in enumerate(prompts(*given)):
            yield prompt if number % 2 else None

    monkeypatch.setattr(completion, "_prompts", every_second)
    rows = draw(models["selfies"], FragmentTask.of("motif", "*c1ccccc1"), 4, steps=1)
    assert [row.lost == TOO_LONG for row in rows] == [True, False, True, False]


def test_a_model_of_texts_takes_no_fragments(tmp_path):
    saved_model(tmp_path, CharTokenizer.from_corpus(["abc"]), ["abc"])
    model = ImplicitRefinementModel.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a model of molecules"):
        complete(model, FragmentTask.of("motif", "*C"), 1)


# --- scores


def test_built_in_scores_are_those_of_rdkit():
    # Toluene: QED 0.459 and Crippen's logP 1.995; the similarity to itself is 1.
    assert score_named("qed")("Cc1ccccc1") == pytest.approx(0.459, abs=1e-3)
    assert score_named("logp")("Cc1ccccc1") == pytest.approx(1.995, abs=1e-3)
    assert score_named("similarity:Cc1ccccc1")("Cc1ccccc1") == 1.0
    assert score_named("sa")("Cc1ccccc1") == pytest.approx(1.0, abs=0.02)


def test_a_function_of_the_user_is_a_score(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text(
        "def carbons(smiles):\n    return smiles.count('C')\n"
        "def none(smiles):\n    return None\n"
        "def broken(smiles):\n    return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert score_named("my_scores:carbons")("CCO") == 2.0
    assert score_named("my_scores:none")("CCO") == -np.inf
    with pytest.raises(TrainingError, match="ZeroDivisionError"):
        score_named("my_scores:broken")("CCO")
    with pytest.raises(ConfigError, match="no function 'absent'"):
        score_named("my_scores:absent")


@pytest.mark.parametrize("name", ["qde", "no_such_module:f", "similarity:C1CC"])
def test_a_score_that_does_not_exist_is_refused(name):
    with pytest.raises((ConfigError, DataError)):
        score_named(name)


# --- the command


@pytest.mark.usefixtures("elsewhere")
def test_the_command_gives_the_fragment_in_every_molecule(said, folders, tmp_path):
    code, out, err = said(
        *("infill", "--model", folders["selfies"], "--scaffold", "*c1ccccc1", "--steps", 4),
        *("-n", 3, "--score", "qed", "--json", "--out", tmp_path / "new.csv"),
    )
    assert code == 0, err
    rows = [row for row in records(out) if row["kind"] == "molecule"]
    assert len(rows) == 3
    assert [lost(row["smiles"], "*c1ccccc1") for row in rows] == [None] * 3
    assert [row["score"] for row in rows] == sorted((r["score"] for r in rows), reverse=True)
    assert len((tmp_path / "new.csv").read_text().splitlines()) == 4


@pytest.mark.usefixtures("elsewhere")
def test_a_score_that_fails_loses_no_molecule(said, folders):
    Path("fragile.py").write_text("def score(smiles):\n    return 1 / (len(smiles) % 2)\n")
    code, out, err = said(
        *("infill", "--model", folders["selfies"], "--scaffold", "*c1ccccc1", "--steps", 4),
        *("-n", 8, "--score", "fragile:score", "--json"),
    )
    rows = [row for row in records(out) if row["kind"] == "molecule"]
    odd = [row for row in rows if len(row["smiles"]) % 2]
    assert (code, len(rows)) == (0, 8)
    assert rows[: len(odd)] == odd  # those with a number come first
    assert [row["score"] for row in rows] == [1.0] * len(odd) + [None] * (8 - len(odd))
    assert f"{8 - len(odd)} molecules have no score: the score fragile:score failed" in err


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--scaffold", "c1ccnc1"], "[nH]"),
        (["--scaffold", "*c1ccccc1", "[C]<mask>"], "give either prompts"),
        ([], "give either prompts"),
        (["--motif", "*C", "--min-blanks", "9", "--max-blanks", "3"], "more than"),
        (["--motif", "*C", "--score", "qde"], 'did you mean "qed"'),
        (["--linker", "*C"], "requires 2"),
    ],
)
def test_wrong_use_of_the_command_is_one_line(said, folders, tokens, message):
    code, out, err = said("infill", "--model", folders["selfies"], *tokens)
    assert (code, out) == (2, "")
    assert message in err


# --- the benchmark and the example


def script(path: str):
    file = Path(__file__).parent.parent / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_measures_what_is_returned(models):
    benchmark = script("benchmarks/fragments.py")
    drug = {"name": "X", "smiles": "CCc1ccccc1", "motif_extension": "[1*]c1ccccc1"}
    once = benchmark.measured(models["selfies"], "motif", drug, 12, 0, True, {"steps": 2})
    assert once.violations == 0 and once.rows == 1 and once.odd is not None
    assert once.found == pytest.approx(1 - once.lost.get("blanks do not fit the fragment", 0) / 12)
    row = benchmark.measured(models["selfies"], "motif", drug, 3, 0, False, {"steps": 2})
    assert (row.found, row.unique, row.odd) == (1, 1, 0) and row.rows >= 1
    assert row.quality <= row.found
    assert "| motif |" in benchmark.table([once, row])


def test_the_benchmarks_own_search_sees_what_is_missing():
    benchmark = script("benchmarks/fragments.py")
    task = FragmentTask.of("motif", "[1*][C@H](N)F")
    assert benchmark.has_all("CC[C@H](N)F", task)
    assert not benchmark.has_all("CC[C@@H](N)F", task)
    assert not benchmark.has_all("CCC", task)


def test_the_example_joins_two_fragments(folders, capsys):
    linker = script("examples/linker.py")
    linker.main("*N1CCOCC1", "*c1ccc(F)cc1", str(folders["selfies"]), 2)
    assert re.search(r"[0-2] molecules of \d+ rows; lost: ", capsys.readouterr().out)
