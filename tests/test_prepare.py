"""From a file to token sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import MOLECULES

from imadarem.data.molecules import canonical
from imadarem.data.prepare import prepare, read_texts
from imadarem.errors import ConfigError, DataError
from imadarem.tokenizers import CharTokenizer, SelfiesTokenizer


def table(tmp_path: Path, lines: list[str], name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_users_table_becomes_two_corpora(tmp_path: Path) -> None:
    path = table(tmp_path, ["id,SMILES", *(f"{i},{s}" for i, s in enumerate(MOLECULES))])
    data = prepare(path, valid_fraction=0.3)
    assert len(data.train) + len(data.valid) == len(MOLECULES)
    decoded = {data.tokenizer.decode(row) for part in (data.train, data.valid) for row in part}
    assert len(decoded) == len(MOLECULES)
    assert data.rejected == []


def test_broken_lines_are_kept_out_and_told(tmp_path: Path) -> None:
    path = table(tmp_path, ["SMILES", *MOLECULES, "C1CC", "not a molecule"])
    data = prepare(path, valid_fraction=0.3)
    assert [r.line for r in data.rejected] == [len(MOLECULES) + 2, len(MOLECULES) + 3]
    assert all(r.reason for r in data.rejected)


def test_copies_never_straddle_the_split(tmp_path: Path) -> None:
    # The same molecules written twice, the second time from the other end.
    path = table(tmp_path, ["SMILES", *MOLECULES, "OCC", "NCC", "OC(C)C", "ClCC"])
    texts = read_texts(path, valid_fraction=0.4)
    for one, other in (("CCO", "OCC"), ("CCN", "NCC"), ("CC(C)O", "OC(C)C"), ("CCCl", "ClCC")):
        assert (one in texts.train) == (other in texts.train)


def test_the_shipped_sample_is_a_data_set(tmp_path: Path) -> None:
    texts = read_texts("moses-sample", rows=100, seed=3)
    assert len(texts.train) == 100 and len(texts.valid) == 1500
    assert not set(texts.train) & set(texts.valid)
    assert read_texts("moses-sample", rows=100, seed=3).train == texts.train
    assert read_texts("moses-sample", rows=100, seed=4).train != texts.train


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imadarem.workers.PATIENCE", 0.0)
    path = table(tmp_path, ["SMILES", *MOLECULES * 10])
    alone, shared = (prepare(path, valid_fraction=0.3, processes=n) for n in (1, 2))
    assert [r.tolist() for r in alone.train] == [r.tolist() for r in shared.train]


def test_lines_of_text_need_no_chemistry(tmp_path: Path) -> None:
    path = table(tmp_path, ["to be", "or not", "", "to be", "that is"], "lines.txt")
    data = prepare(path, tokenizer="char", valid_fraction=0.4)
    assert isinstance(data.tokenizer, CharTokenizer)
    # Three different lines, one of them held out; the doubled one stays on one side.
    decoded = [[data.tokenizer.decode(row) for row in part] for part in (data.train, data.valid)]
    assert len(set(decoded[1])) == 1 and not set(decoded[0]) & set(decoded[1])


def test_text_for_a_known_tokenizer_is_encoded_line_by_line_into_a_mapped_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imadarem.data.streamed.TOGETHER", 2)  # several blocks
    words = ["to be", "or not", "", "to be", "that is", "x"]
    path = table(tmp_path, words, "lines.txt")
    tokenizer = CharTokenizer.from_corpus(["to be or not that is"])
    data = prepare(path, tokenizer=tokenizer, valid_fraction=0.5)
    assert isinstance(data.train.tokens, np.memmap)
    train, valid = (list(map(tokenizer.decode, part)) for part in (data.train, data.valid))
    # Four different lines, half of them held out; one has a letter that nobody knows.
    assert sorted(train + valid) == ["or not", "that is", "to be", "to be"]
    assert not set(train) & set(valid) and [r.text for r in data.rejected] == ["x"]
    fewer = prepare(path, tokenizer=tokenizer, valid_fraction=0.5, rows=1)
    assert len(fewer.train) == 1 and list(map(len, fewer.valid)) == list(map(len, data.valid))


def test_a_known_tokenizer_is_kept_and_reports_what_it_cannot_say(tmp_path: Path) -> None:
    tokenizer = SelfiesTokenizer.from_corpus(MOLECULES)
    path = table(tmp_path, ["SMILES", *MOLECULES, "CCBr"])
    data = prepare(path, tokenizer=tokenizer, valid_fraction=0.3)
    assert data.tokenizer is tokenizer
    assert [r.text for r in data.rejected] == ["CCBr"]
    assert "[Br]" in data.rejected[0].reason


def test_a_known_tokenizer_learns_what_it_cannot_say_behind_what_it_can(tmp_path: Path) -> None:
    known = SelfiesTokenizer.from_corpus(MOLECULES)
    odd = ["CCBr", "C[C@H](N)C(=O)O", "C[N+](C)(C)CC"]
    path = table(tmp_path, ["SMILES", *MOLECULES, *odd])
    data = prepare(path, tokenizer=known, valid_fraction=0.3, extend=True)
    tokens = data.tokenizer.tokens
    assert tokens[: len(known)] == known.tokens
    assert {"[Br]", "[C@H1]", "[N+1]"} <= set(tokens[len(known) :])
    assert data.notes["new_tokens"] == len(tokens) - len(known)
    decoded = {data.tokenizer.decode(row) for part in (data.train, data.valid) for row in part}
    assert {canonical(s) for s in decoded} == {canonical(s) for s in [*MOLECULES, *odd]}
    again = prepare(path, tokenizer=data.tokenizer, valid_fraction=0.3, extend=True)
    assert again.tokenizer.tokens == tokens and "new_tokens" not in again.notes


def test_a_tokenizer_folder_is_loaded(tmp_path: Path) -> None:
    SelfiesTokenizer.from_corpus(MOLECULES).save_pretrained(tmp_path / "tokenizer")
    path = table(tmp_path, ["SMILES", *MOLECULES])
    data = prepare(path, tokenizer=str(tmp_path / "tokenizer"), valid_fraction=0.3)
    assert isinstance(data.tokenizer, SelfiesTokenizer)


def test_too_little_to_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validate on"):
        prepare(table(tmp_path, ["SMILES", "CCO"]))


def test_an_unknown_notation_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="selfies"):
        prepare(table(tmp_path, ["SMILES", *MOLECULES]), tokenizer="selfie")


def test_nothing_that_can_be_said_is_an_error(tmp_path: Path) -> None:
    tokenizer = SelfiesTokenizer.from_corpus(["[Na+]"])
    with pytest.raises(DataError, match="none of the"):
        prepare(table(tmp_path, ["SMILES", *MOLECULES]), tokenizer=tokenizer, valid_fraction=0.4)


ODD_FILE = """smiles,name
C[C@H](N)C(=O)O,stereo
C[C@@H](N)C(=O)O,its mirror image
OC(=O)[C@H](C)N,the first again
CC(=O)[O-].[Na+],a salt
[13CH3]Oc1ccccc1,an isotope
C1CC,broken
c1ccnc1,no hydrogen
,empty
CCO,ethanol
CCO,ethanol again
CCN,fine
"""


@pytest.mark.parametrize("notation", ["selfies", "smiles", "safe"])
def test_a_chemists_odd_file_is_counted_and_nothing_is_dropped_in_silence(tmp_path, notation):
    (tmp_path / "odd.csv").write_text(ODD_FILE)
    data = prepare(tmp_path / "odd.csv", tokenizer=notation, valid_fraction=0.4)
    assert len(data.train) + len(data.valid) == 8
    assert sorted(line.line for line in data.rejected) == [7, 8, 9]
    # Alanine twice (one spelt another way) and ethanol twice; two charges in one salt.
    expected = {"stereo": 3, "multi_fragment": 1, "charge": 1, "isotope": 1, "duplicate": 2}
    assert data.notes == expected
    decoded = [
        canonical(data.tokenizer.decode(row)) for part in (data.train, data.valid) for row in part
    ]
    assert decoded.count("C[C@H](N)C(=O)O") == 2
    assert decoded.count("C[C@@H](N)C(=O)O") == 1


def test_standardized_molecules_are_parents_each_once_and_what_changed_is_counted(tmp_path):
    path = tmp_path / "salts.smi"
    alkanes = ["C" * n for n in range(1, 20)]
    path.write_text("\n".join([*alkanes, "CC(=O)[O-].[Na+]", "CC(=O)O", "C[NH3+].[Cl-]"]))
    texts = read_texts(path, standardize=True, valid_fraction=0.3)
    assert sorted([*texts.train, *texts.valid]) == sorted([*alkanes, "CC(=O)O", "CN"])
    counts = {name: texts.notes[name] for name in ("fragments_removed", "neutralised")}
    assert counts == {"fragments_removed": 2, "neutralised": 2}
    assert texts.notes["duplicates_removed"] == 1
    assert "multi_fragment" not in texts.notes  # those that are left have one part
    data = prepare(path, tokenizer="smiles", standardize=True, valid_fraction=0.3)
    assert "[Na+]" not in data.tokenizer.tokens
    with pytest.raises(ConfigError, match="no effect on moses-sample"):
        read_texts("moses-sample", standardize=True)
