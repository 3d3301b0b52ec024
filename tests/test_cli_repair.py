"""``imadarem repair``: what is read, what is written, and what the exit code says."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_parts import SIXTY, records, saved_model

from imadarem.tokenizers import CharTokenizer, SmilesTokenizer

Said = Callable[..., tuple[int, str, str]]
#: An ethanol whose branch is not closed, one that is right, and one with an unknown token.
BROKEN, RIGHT, UNKNOWN = "CC(O", "CCO", "CC[Xe]"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model without a judge."""
    tokenizer = SmilesTokenizer.from_corpus(SIXTY)
    return saved_model(tmp_path_factory.mktemp("plain"), tokenizer, SIXTY)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with an untrained judge, which flags nothing."""
    tokenizer = SmilesTokenizer.from_corpus(SIXTY)
    return saved_model(tmp_path_factory.mktemp("judged"), tokenizer, SIXTY, judge=True)


def test_a_row_that_the_check_takes_is_returned_and_others_are_searched(
    said: Said, plain: str, tmp_path: Path
) -> None:
    out = tmp_path / "new.smi"
    line = ("repair", BROKEN, RIGHT, "--model", plain, "--check", "rdkit", "--budget", 400)
    code, text, err = said(*line, "--out", out, "--json")
    first, second = records(text)
    assert code == 0
    assert (second["reason"], second["changed"], second["text"]) == ("clean", False, RIGHT)
    assert (first["reason"], first["changed"]) == ("checked", True)
    (edit,) = first["edits"]
    assert edit["kind"] in {"replace", "insert", "delete"}
    assert all(isinstance(edit[key], str | None) for key in ("before", "after"))
    assert out.read_text().splitlines() == [first["text"], RIGHT]
    assert "1 checked" in err and "1 clean" in err


def test_a_list_of_words_is_a_check(said: Said, tmp_path: Path) -> None:
    words = ["two", "too", "owe"]
    model = saved_model(tmp_path / "model", CharTokenizer.from_corpus(words), words)
    (tmp_path / "words.txt").write_text("two\n")
    check = ("--check", f"words:{tmp_path / 'words.txt'}", "--budget", 900, "--json")
    _, text, _ = said("repair", "two", "tw", "--model", model, *check)
    right, repaired = records(text)
    assert (right["reason"], right["text"]) == ("clean", "two")
    assert (repaired["reason"], repaired["text"]) == ("checked", "two")


def test_what_cannot_be_repaired_or_read_is_written_unchanged(
    said: Said, plain: str, tmp_path: Path
) -> None:
    file, out = tmp_path / "broken.smi", tmp_path / "new.smi"
    file.write_text(f"{BROKEN} name\n{UNKNOWN}\n")
    line = ("repair", "--file", file, "--model", plain, "--out", out, "--json")
    code, text, _ = said(*line, "--check", "cli_parts:never")
    gave_up, unreadable = records(text)
    assert code == 1
    assert (gave_up["reason"], gave_up["given"]) == ("gave_up", BROKEN)
    assert unreadable["reason"] == "unreadable" and "[Xe]" in unreadable["error"]
    assert out.read_text().splitlines() == [f"{BROKEN} name", UNKNOWN]


def test_a_table_and_fasta_come_back_with_all_that_stands_beside_the_sequences(
    said: Said, plain: str, tmp_path: Path
) -> None:
    line = ("--model", plain, "--check", "rdkit", "--budget", 400, "--json")
    table, out = tmp_path / "broken.csv", tmp_path / "new.csv"
    table.write_text(f'id,SMILES\n1,{BROKEN}\n"a, b",{RIGHT}\n')
    code, text, _ = said("repair", "--file", table, "--out", out, *line)
    assert code == 0
    first, _ = records(text)
    assert out.read_text() == f'id,SMILES\n1,{first["text"]}\n"a, b",{RIGHT}\n'
    assert said("repair", "--file", table, "--column", "smile", *line)[0] == 2

    fasta, out = tmp_path / "broken.fa", tmp_path / "new.fa"
    # The lines of a record are one sequence.
    fasta.write_text(f">one\nCC\n(O\n>two x\n{RIGHT}\n")
    assert said("repair", "--file", fasta, "--out", out, *line)[0] == 0
    assert out.read_text() == f">one\n{first['text']}\n>two x\n{RIGHT}\n"


def test_a_report_marks_the_edits_and_escapes_what_was_given(
    said: Said, plain: str, tmp_path: Path
) -> None:
    page = tmp_path / "edits.html"
    rows = (BROKEN, "<b>C</b>")
    line = ("repair", *rows, "--model", plain, "--check", "rdkit", "--budget", 400, "--json")
    code, text, _ = said(*line, "--report", page)
    assert code == 1  # one is unreadable
    (edit,) = records(text)[0]["edits"]
    html = page.read_text()
    assert "<b>C" not in html and "&lt;b&gt;C&lt;/b&gt;" in html
    marks = {"insert": ("<ins>",), "delete": ("<del>",), "replace": ("<del>", "<ins>")}
    assert all(html.count(mark) == 1 for mark in marks[edit["kind"]])
    assert "1 checked, 1 unreadable" in html


def test_rows_come_from_stdin_too(said: Said, judged: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{RIGHT}\n\n{BROKEN}\n"))
    code, text, err = said("repair", "-", "--model", judged)
    assert code == 0
    assert RIGHT in text and BROKEN in text and "2 clean" in err


def test_a_dry_run_shows_every_token_and_repairs_nothing(said: Said, judged: str) -> None:
    code, text, _ = said("repair", BROKEN, "--model", judged, "--dry-run", "--json")
    (record,) = records(text)
    assert code == 0
    assert "".join(record["tokens"]) == BROKEN
    assert len(record["wrong"]) == len(record["surprise"]) == len(BROKEN)
    assert len(record["missing"]) == len(BROKEN) + 1
    code, text, _ = said("repair", BROKEN, "--model", judged, "--dry-run")
    assert (code, text.strip()) == (0, BROKEN)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ((), "give either sequences"),
        (("CCO", "--file", "x.smi"), "give either sequences"),
        (("CCO", "--check", "no_module:f"), "cannot be loaded"),
        (("CCO", "--threshold", 2), "number from 0 to 1"),
        (("CCO",), "no trained judge"),
    ],
)
def test_wrong_use_says_what_is_right(
    said: Said, plain: str, line: tuple[object, ...], message: str
) -> None:
    code, _, err = said("repair", *line, "--model", plain)
    assert code == 2
    assert message in err
