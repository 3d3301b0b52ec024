"""Filters, ranking, ring systems, and the files that molecules are written to."""

from __future__ import annotations

import gzip
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pandas
import pytest
from cli_parts import SIXTY, records, saved_model

from imadarem.data.molecule_rows import FORMATS, read_rows, write_rows
from imadarem.data.molecules import canonical, parse
from imadarem.design.filters import PROPERTIES, Filters
from imadarem.design.odd_groups import Oddities
from imadarem.design.ranking import Ranking, pick_diverse
from imadarem.design.rings import ring_systems
from imadarem.design.scores import Score
from imadarem.errors import ConfigError, DataError
from imadarem.tokenizers import SelfiesTokenizer

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"  # 180.16 g/mol, 13 heavy atoms, one ring


@pytest.mark.parametrize(
    ("where", "smiles", "why"),
    [
        ("MW<200", ASPIRIN, None),
        ("MW < 180", ASPIRIN, "not MW<180"),
        ("mw>=100 and heavy_atoms=13, rings!=2", ASPIRIN, None),
        ("QED>.99", ASPIRIN, "not QED>0.99"),
        ("charge=-1", "CC(=O)[O-]", None),
        ("undefined_stereo<1", "CC(N)CO", "not undefined_stereo<1"),
        ("undefined_stereo<1", "C[C@H](N)CO", None),
        ("undefined_stereo<1", "CC=CC", "not undefined_stereo<1"),
        ("new_rings=0", "C1CC2CCC1C(C2)c1ccncc1", None),
        ("new_rings=0", "C1=CC=NC=NC=C1", "not new_rings=0"),
    ],
)
def test_a_condition_holds_or_is_the_reason(where, smiles, why):
    assert Filters.of(where).rejection_reason(smiles) == why


@pytest.mark.parametrize(
    ("where", "alerts", "message"),
    [
        ("MW", "", "cannot be read.*Properties: QED"),
        ("__import__('os').system('ls')", "", "cannot be read"),
        ("MW<4<5", "", "cannot be read"),
        ("QDE>0.5", "", "no property 'QDE'.*did you mean \"qed\""),
        ("", "PAIN", 'did you mean "PAINS"'),
    ],
)
def test_a_filter_that_is_none_is_refused_with_what_is_legal(where, alerts, message):
    with pytest.raises(ConfigError, match=message):
        Filters.of(where, alerts)


def test_an_alert_is_named():
    quinone = "O=C1C=CC(=O)C=C1"
    assert Filters.of(alerts="pains").rejection_reason(quinone) == "alert PAINS_A: quinone_A(370)"
    assert Filters.of(alerts="PAINS,BRENK").rejection_reason("Cc1ccccc1") is None
    assert not Filters.of()


def test_every_property_is_a_number():
    assert all(
        float(found(parse(ASPIRIN))) == found(parse(ASPIRIN)) for found in PROPERTIES.values()
    )


@pytest.mark.parametrize(
    ("smiles", "systems"),
    [
        ("CCO", []),
        ("Cn1ccc2ccccc21", ["c1ccc2[nH]ccc2c1"]),
        ("O=c1cccc[nH]1", ["O=c1cccc[nH]1"]),
        ("Oc1ccccn1", ["c1ccncc1"]),  # a hydroxyl group hangs on it; an oxo group is part of it
        ("C[n+]1ccccc1", ["c1cc[nH+]cc1"]),
        ("C1CC12CCN(C)CC2", ["C1CC2(CCN1)CC2"]),
        ("c1ccccc1-c1ccncc1", ["c1ccccc1", "c1ccncc1"]),
    ],
)
def test_ring_systems_stand_without_what_hangs_on_them(smiles, systems):
    assert sorted(ring_systems(parse(smiles))) == sorted(systems)


def test_the_picked_molecules_are_far_apart():
    smiles = ["CCCCO", "CCCCCO", "c1ccncc1", "CCCCCCO"]
    # The alcohols are near each other: pyridine is the furthest from the first.
    assert pick_diverse(smiles, 2) == [0, 2]
    assert pick_diverse(smiles, 9) == [0, 1, 2, 3]


def test_ranking_sorts_by_the_score_and_a_failure_comes_last():
    def length(smiles: str) -> float | None:
        if smiles == "CCC":
            raise ValueError("no")
        return None if smiles == "N" else len(smiles)

    failures: list[str] = []
    rows = [{"smiles": s} for s in ("CCC", "C", "N", "CCCC")]
    ranked = Ranking(Score("length", length))(rows, failures)
    assert [row["smiles"] for row in ranked] == ["CCCC", "C", "CCC", "N"]
    assert len(failures) == 1
    assert len(Ranking(top=2)(rows)) == 2
    with pytest.raises(ConfigError, match="--top"):
        Ranking(diverse=True)


def test_open_centres_are_enumerated_and_defined_ones_stay():
    rows = [
        {"smiles": "CC(N)[C@H](C)O", "undefined_stereo": 1},
        {"smiles": "CC=CC"},
        {"smiles": "C"},
    ]
    made = Ranking(isomers=8)(rows)
    assert [canonical(row["smiles"]) for row in made[:2]] == sorted(
        map(canonical, ("C[C@H](N)[C@H](C)O", "C[C@@H](N)[C@H](C)O")),
        key=[row["smiles"] for row in made].index,
    )
    assert [row.get("undefined_stereo") for row in made] == [0, 0, None, None, None]
    assert {row["smiles"] for row in made[2:]} == {"C/C=C/C", "C/C=C\\C", "C"}
    assert len(Ranking(isomers=1)(rows)) == 3


ROWS = [
    {"smiles": "C[C@H](N)CO", "id": "a-1", "score": 0.5, "note": None},
    {"smiles": "c1ccncc1", "id": "a-2", "score": None, "note": "second"},
]


@pytest.mark.parametrize("ending", FORMATS)
def test_what_is_written_can_be_read_again(tmp_path, ending):
    file = tmp_path / f"new{ending}"
    assert write_rows(ROWS, file) == 2
    if ending == ".png":
        assert file.read_bytes().startswith(b"\x89PNG")
    elif ending == ".svg":
        assert "<svg" in file.read_text()
    else:
        rows, rejected = read_rows(file)
        assert rejected == []
        assert [canonical(row["smiles"]) for row in rows] == ["C[C@H](N)CO", "c1ccncc1"]
        assert [row["id"] for row in rows] == ["a-1", "a-2"]
        if ending != ".smi":
            assert (float(rows[0]["score"]), rows[1]["note"]) == (0.5, "second")
    if ending == ".sdf.gz":
        assert gzip.decompress(file.read_bytes()).count(b"$$$$") == 2


def test_a_list_and_a_table_of_pandas_are_read():
    frame = pandas.DataFrame({"name": ["x", "y", "z"], "SMILES": ["CCO", "C1CC", "CCN"]})
    rows, rejected = read_rows(frame)
    assert rows == [{"smiles": "CCO", "name": "x"}, {"smiles": "CCN", "name": "z"}]
    assert [line.line for line in rejected] == [2]
    assert read_rows(["CCO"])[0] == [{"smiles": "CCO"}]
    assert list(pandas.DataFrame(rows).columns) == ["smiles", "name"]
    with pytest.raises(DataError, match="no column called smiles"):
        read_rows(pandas.DataFrame({"x": [1]}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("filtering")
    saved_model(made, SelfiesTokenizer.from_corpus(SIXTY), SIXTY, max_seq_len=60)
    return made


@pytest.mark.usefixtures("elsewhere")
def test_samples_are_filtered_ranked_and_counted(said, folder):
    line = ("sample", "--model", folder, "--steps", 2, "-n", 20, "--json")
    code, out, err = said(*line, "--where", "heavy_atoms<10", "--score", "qed", "--top", 3)
    rows = records(out)
    found = [row for row in rows if row["kind"] == "molecule"]
    summary = rows[-2]
    assert code == 0, err
    assert (len(found), summary["molecules"]) == (3, 20)
    assert all(parse(row["smiles"]).GetNumAtoms() < 10 for row in found)
    assert [row["score"] for row in found] == sorted((r["score"] for r in found), reverse=True)
    assert summary["molecules"] + sum(summary["lost"].values()) == summary["draws"]
    assert summary["lost"]["not heavy_atoms<10"] > 0
    code, _, err = said(*line, "--alerts", "BRENK", "--out", "new.sdf")
    assert Path("new.sdf").read_text().count("$$$$") == 20, err


@pytest.mark.usefixtures("elsewhere")
def test_fragments_and_searches_take_the_same_filters(said, folder):
    shared = ("--model", folder, "--steps", 2, "--where", "heavy_atoms<25", "--json")
    code, out, err = said("infill", "--scaffold", "*c1ccccc1", "-n", 3, *shared)
    found = [row for row in records(out) if row["kind"] == "molecule"]
    assert code == 0 and all(parse(row["smiles"]).GetNumAtoms() < 25 for row in found), err
    line = ("optimize", "--score", "logp", "--budget", 12, "--population", 8, "--children", 4)
    code, out, err = said(*line, *shared, "--out", "best.parquet", "--grid", "best.png")
    found = [row for row in records(out) if row["kind"] == "molecule"]
    assert code == 0 and all(parse(row["smiles"]).GetNumAtoms() < 25 for row in found), err
    assert len(read_rows("best.parquet")[0]) == 12
    assert Path("best.png").exists()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "line",
    [
        "sample -n 6 --where heavy_atoms<25 --score qed --top 3 --diverse",
        "infill --linker *F *c1ccccc1 -n 2 --where MW<900 --alerts PAINS --allow-odd",
        "infill [C][C]<mask><mask>[O] -n 2",
        "analogues Cc1ccc(C(=O)Nc2ccc(F)cc2)cc1 -n 2 --protect C(=O)N --similar 0.1..0.9",
        "optimize --score qed --budget 6 --population 4 --children 4 --top 4",
    ],
)
def test_the_printed_python_makes_the_same_molecules(said, folder, line):
    words = [*line.split(), "--model", folder, "--steps", 2, "--seed", 5]
    code, out, err = said(*words, "--python")
    assert code == 0, err
    scope: dict[str, object] = {}
    with redirect_stdout(StringIO()):
        exec(out, scope)
    kinds = ("molecule", "sample")
    made = [row for row in records(said(*words, "--json")[1]) if row["kind"] in kinds]
    texts = [row.get("smiles", row.get("text")) for row in made]
    assert texts
    assert [row["smiles"] for row in scope["rows"]] == texts


@pytest.mark.parametrize(
    ("smiles", "group"),
    [
        ("CC=COC", "enol ether or ester"),
        ("CC=CC=CCO", "polyene"),
        ("C=C1C=CC=C1", "cyclopentadiene"),
        ("CCOOC", "peroxide"),
        ("CCC=NC", "imine"),
        ("CN=NC", "azo or azide"),
        ("OC(C)NC", "hemiacetal or hemiaminal"),
        ("OCC1OC(O)C(O)C1O", None),  # a sugar
        ("COC=CC(=O)OC", None),  # a vinylogous ester
        ("CC(C)=NO", None),
        ("CC(=O)Nc1ccc(OC(F)F)cc1", None),
        ("CN(C)C(=N)N", None),
    ],
)
def test_an_odd_group_is_named(smiles, group):
    reason = Oddities().rejection_reason(smiles)
    assert (reason or "").startswith("odd group") == (group is not None)
    assert (group is not None) == Filters.of("odd_groups>0").conditions[0](parse(smiles))
    assert group is None or reason == f"odd group: {group}"


def test_what_was_given_may_be_odd_and_a_closed_ring_may_be_new():
    given = parse("CC=COC*")
    assert Oddities([given]).rejection_reason("CC=COCc1ccccc1") is None
    assert Oddities([given]).rejection_reason("CC=COCCOC=CC") == "odd group: enol ether or ester"
    wide = "O=C1CNCCCCCCc2cccc(c2)N1"
    assert "not in the reference table" in str(Oddities().rejection_reason(wide))
    assert Oddities(macrocycles=True).rejection_reason(wide) is None
