"""Reading users' files: molecules, tables and lines of text."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imadarem.data.molecule_files import RejectedLine, iter_smiles, read_smiles
from imadarem.data.molecules import canonical, parse, split
from imadarem.data.text import iter_lines, read_lines
from imadarem.errors import ConfigError, DataError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    content = text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


# --- what is read


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.smi", "CCO ethanol\nc1ccccc1\tbenzene\n"),
        ("a.smi.gz", "CCO ethanol\nc1ccccc1\tbenzene\n"),
        ("header.smi", "SMILES Name\nCCO x\nc1ccccc1 y\n"),
        ("a.txt", "CCO\r\nc1ccccc1\r\n"),
        ("mark.txt", "\ufeffCCO\nc1ccccc1"),
        ("one.csv", "molecule\nCCO\nc1ccccc1\n"),
        ("named.csv", "id,SMILES,y\n1,CCO,2\n2,c1ccccc1,3\n"),
        ("named.csv.gz", "id,Canonical_SMILES\n1,CCO\n2,c1ccccc1\n"),
        ("a.tsv", "id\tsmiles\n1\tCCO\n2\tc1ccccc1\n"),
        ("semicolon.csv", 'id;smiles\n"1;a";CCO\n2;c1ccccc1\n'),
        ("no_header.csv", "CCO\nc1ccccc1\n"),
    ],
)
def test_every_kind_of_file_gives_the_same_two_molecules(tmp_path, name, text):
    assert read_smiles(write(tmp_path, name, text)).smiles == ["CCO", "c1ccccc1"]


def test_a_column_is_taken_by_name(tmp_path):
    path = write(tmp_path, "a.csv", "smiles,product\nCCO,CC=O\n")
    assert read_smiles(path, column="product").smiles == ["CC=O"]


def test_broken_molecules_are_kept_out_with_line_number_and_reason(tmp_path, capfd):
    text = "CCO\nCC(\n\nC1CC\nCN(C)(C)(C)C\nc1cccc1\nCCN\n"
    found = read_smiles(write(tmp_path, "a.smi", text))
    assert found.smiles == ["CCO", "CCN"]
    assert found.rejected == [
        RejectedLine(2, "CC(", "syntax error around position 3"),
        RejectedLine(4, "C1CC", "unclosed ring"),
        RejectedLine(
            5, "CN(C)(C)(C)C", "Explicit valence for atom # 1 N, 5, is greater than permitted"
        ),
        RejectedLine(6, "c1cccc1", "Can't kekulize mol.  Unkekulized atoms: 0 1 2 3 4"),
    ]
    assert found.notes == {"blank": 1}
    assert capfd.readouterr() == ("", "")  # RDKit's log must not reach the terminal


def test_table_rows_without_a_molecule_are_rejected_not_dropped(tmp_path):
    path = write(tmp_path, "a.csv", "id,smiles\n1,CCO\n2,\n3\n4,C C\n5,CCN\n")
    found = read_smiles(path)
    assert found.smiles == ["CCO", "CCN"]
    assert [(r.line, r.reason) for r in found.rejected] == [
        (3, "empty cell"),
        (4, "short row: 1 of 2 columns"),
        (5, "white space inside the SMILES"),
    ]


def test_salts_isotopes_charges_and_stereo_are_kept_as_written_and_counted(tmp_path):
    lines = ["CC(=O)[O-].[Na+]", "[13CH4]", "C[C@H](N)C(=O)O", "F/C=C/F", "[CH3:1]O", "*CC", "C"]
    found = read_smiles(write(tmp_path, "a.smi", "\n".join(lines)))
    assert found.smiles == lines
    assert found.notes == {
        "multi_fragment": 1,
        "charge": 1,
        "isotope": 1,
        "stereo": 2,
        "atom_map": 1,
        "wildcard": 1,
    }


def test_what_a_line_loses_or_cannot_mean_is_said(tmp_path):
    found = read_smiles(write(tmp_path, "a.smi", "C[C@H](F)Cl |&1:1|\nCC\u00e9\n"))
    assert found.smiles == ["C[C@H](F)Cl"]
    assert found.notes == {"stereo": 1, "cx_extension": 1}
    assert found.rejected == [RejectedLine(2, "CC\u00e9", "'\u00e9' occurs in no SMILES")]


def test_a_one_column_table_without_header_says_so(tmp_path):
    assert read_smiles(write(tmp_path, "a.csv", "CCO\nCCN\n")).notes == {"no_header": 1}


def test_walking_a_file_keeps_its_order_and_needs_the_memory_of_a_line(tmp_path):
    path = tmp_path / "long.smi"
    with path.open("w") as stream:
        stream.writelines(itertools.repeat("CCO  a long name\n", 400_000))  # 6.8 MB
    parse("C")  # RDKit's own import is not what is measured
    tracemalloc.start()
    first = list(itertools.islice(iter_smiles(path), 2000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert first == ["CCO"] * 2000
    assert peak < 1_000_000


# --- what is refused


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.smi", b"", "is empty"),
        ("empty.smi.gz", gzip.compress(b""), "is empty"),
        ("blank.smi", b"\n \n", "only blank lines"),
        ("blank.csv", b"\n\n", "only blank lines"),
        ("header.csv", b"smiles\n", "holds no molecule"),
        ("binary.smi", b"CCO\0\x01\x02\n", "binary file"),
        ("cut.smi.gz", gzip.compress(b"CCO\n" * 9999)[:-20], "damaged gzip"),
        ("all_bad.smi", b"hello\nworld\n", "Line 1: 'hello'"),
        ("one_line.txt", b"C" * 1_000_002, "longer than 1,000,000"),
        ("quote.csv", b'smiles,name\nCCO,"ethanol\nCCN,x\n', "quotation mark"),
        ("twice.csv", b"smiles,SMILES\nCCO,CCN\n", "2 columns called 'smiles'"),
        ("a.pdf", b"CCO\n", "Legal endings"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unusable_file_is_named_with_the_way_out(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_smiles(path)
    assert name in str(caught.value)


def test_a_missing_file_and_a_directory_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read_smiles(tmp_path / "none.smi")
    with pytest.raises(DataError, match="is a directory"):
        read_smiles(tmp_path)


@pytest.mark.parametrize(
    ("column", "said"),
    [("smile", r'did you mean "Smiles"\?.*id, Smiles, y'), ("foo", "id, Smiles, y")],
)
def test_a_missing_column_names_the_columns_and_the_nearest(tmp_path, column, said):
    path = write(tmp_path, "a.csv", "id,Smiles,y\n1,CCO,2\n")
    with pytest.raises(DataError, match=said):
        read_smiles(path, column=column)


def test_without_a_known_column_name_the_choice_is_left_to_the_user(tmp_path):
    path = write(tmp_path, "a.csv", "id,thing\n1,CCO\n")
    with pytest.raises(DataError, match="Its columns are: id, thing"):
        read_smiles(path)
    with pytest.raises(DataError, match="has no column 'structure'"):
        read_smiles(write(tmp_path, "a.smi", "CCO\n"), column="structure")


# --- canonical forms and splits


@pytest.mark.parametrize(
    ("smiles", "form"),
    [
        ("OCC", "CCO"),
        ("C1=CC=CC=C1", "c1ccccc1"),
        ("C[C@H](N)C(=O)O", "C[C@H](N)C(=O)O"),  # chirality stays
        ("[13CH4]", "[13CH4]"),
        ("CC(", None),
        ("", None),
        ("CCO ethanol", None),
        ("CC\u00e9", None),  # RDKit alone would skip the letter and read ethane
    ],
)
def test_canonical_form(smiles, form):
    assert canonical(smiles) == form


ALKANES = ["C" * n for n in range(1, 200)]


def test_split_never_puts_two_spellings_of_a_molecule_on_both_sides():
    pairs = [("OCC", "CCO"), ("NCC", "CCN"), ("C1=CC=CC=C1", "c1ccccc1"), ("FCC", "CCF")]
    for seed in range(20):
        train, valid = split([s for pair in pairs for s in pair], seed=seed, valid_fraction=0.5)
        assert {canonical(s) for s in train}.isdisjoint({canonical(s) for s in valid})
        assert len(train) + len(valid) == 8


def test_split_share_is_near_the_wish_and_the_seed_changes_it():
    train, valid = split(ALKANES, seed=1, valid_fraction=0.25)
    # 199 draws: mean 49.75, standard deviation sqrt(199 * .25 * .75) = 6.1; four of them.
    assert abs(len(valid) - 49.75) < 25
    assert split(ALKANES, seed=1, valid_fraction=0.25) == (train, valid)
    assert split(ALKANES, seed=2, valid_fraction=0.25).valid != valid
    assert split(ALKANES, valid_fraction=0).valid == []


@given(st.permutations(ALKANES[:30]), st.integers(0, 30))
def test_a_molecule_keeps_its_side_whatever_else_is_in_the_file(order, kept):
    everything = set(split(ALKANES[:30], valid_fraction=0.5).valid)
    assert set(split(order[:kept], valid_fraction=0.5).valid) == everything & set(order[:kept])


def test_split_refuses_a_bad_share_and_a_broken_molecule():
    with pytest.raises(ConfigError, match=r"\[0, 1\)"):
        split(["C"], valid_fraction=1.0)
    with pytest.raises(DataError, match="'CC\\('"):
        split(["CC("])


# --- plain text


def test_lines_come_without_line_ends_and_blanks_only_on_request(tmp_path):
    path = write(tmp_path, "a.txt", "one \r\n\n two\rthree")
    assert read_lines(path) == ["one ", " two", "three"]
    assert read_lines(path, keep_blank=True) == ["one ", "", " two", "three"]
    assert list(iter_lines(path)) == [(1, "one "), (2, ""), (3, " two"), (4, "three")]


def test_text_refuses_what_is_no_text(tmp_path):
    with pytest.raises(DataError, match="binary"):
        read_lines(write(tmp_path, "b.bin", "\0\0\0"))
    with pytest.raises(DataError, match="only blank"):
        read_lines(write(tmp_path, "b.txt", "\n\n"))
    (tmp_path / "latin.txt").write_bytes(b"one\ncaf\xe9\n")
    with pytest.raises(DataError, match="not utf-8 text: byte 0xe9 near line"):
        read_lines(tmp_path / "latin.txt")


@given(st.lists(st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]))))
def test_lines_written_are_lines_read(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_text("".join(f"{line}\n" for line in lines) + "end", encoding="utf-8")
    expected = [*lines, "end"]
    expected[0] = expected[0].removeprefix("\ufeff")  # a leading mark is not content
    assert [text for _, text in iter_lines(path)] == expected


def test_a_part_of_a_file_is_drawn_fairly_in_its_order_and_without_holding_the_rest(tmp_path):
    path = tmp_path / "chain.smi"
    chains = ["C" * length for length in range(1, 41)]
    path.write_text("\n".join(chains) + "\n")
    drawn = [read_smiles(path, most=10, seed=seed).smiles for seed in range(100)]
    assert all(part == sorted(part, key=len) and len(set(part)) == 10 for part in drawn)
    counts = [sum(chain in part for part in drawn) for chain in chains]
    # 25 expected of each; the standard deviation is 4.3.
    assert min(counts) > 7 and max(counts) < 43
    assert read_smiles(path, most=40).smiles == read_smiles(path, most=99).smiles == chains
    path.write_text("CCO\n" * 6_000)
    tracemalloc.start()
    assert len(read_smiles(path, most=100).smiles) == 100
    assert tracemalloc.get_traced_memory()[1] < 300_000
    tracemalloc.stop()


def test_a_file_that_would_not_fit_is_refused_with_a_count(tmp_path, monkeypatch):
    monkeypatch.setattr("imadarem.data.molecule_files.MOST_IN_MEMORY", 3)
    monkeypatch.setattr("imadarem.data.molecule_files.MOST_REJECTED", 2)
    path = tmp_path / "large.smi"
    path.write_text("C\nCC\nCCC\nCCCC\n")
    with pytest.raises(DataError, match=r"more than 3 molecules.*rows"):
        read_smiles(path)
    assert len(read_smiles(path, most=2).smiles) == 2
    path.write_text("C\nx\ny\nz\n")
    with pytest.raises(DataError, match=r"more than 2 lines .* beside 1 that are.*Line 2: 'x'"):
        read_smiles(path)
