"""Files as chemists have them: read right, or refused with what to do."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from imadarem.data.molecule_files import iter_smiles, read_smiles
from imadarem.data.molecules import canonical
from imadarem.errors import DataError

ASPIRIN, BENZENE = "CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1"
ETHANOL = """
     RDKit          2D

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.2990    0.7500    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    2.5981   -0.0000    0.0000 O   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
  2  3  1  0
M  END
"""
PROPERTY = "> <IC50>\n12.5\n\n"


def record(block: str) -> str:
    return f"{block}{PROPERTY}$$$$\n"


def parquet(**columns: list[object]) -> bytes:
    import pyarrow
    from pyarrow import parquet as files

    target = io.BytesIO()
    files.write_table(pyarrow.table(columns), target)
    return target.getvalue()


TWO = [ASPIRIN, BENZENE]

READ: list[tuple[str, str | bytes, list[str]]] = [
    # Text with one molecule a line
    ("names.smi", f"{ASPIRIN} acetylsalicylic acid, USP\n{BENZENE}\tbenzene\n", TWO),
    ("header.smi", f"SMILES Name\n{ASPIRIN} a\n{BENZENE} b\n", TWO),
    ("comments.smi", f"# from the freezer\n{ASPIRIN} a\n# dry\n{BENZENE} b\n", TWO),
    ("marked_header.smi", f"#SMILES ID\n{ASPIRIN} a\n{BENZENE} b\n", TWO),
    ("spaces.smi", f"  {ASPIRIN}  a\n\t{BENZENE}\tb\n", TWO),
    ("old_mac.smi", f"{ASPIRIN}\r{BENZENE}\r", TWO),
    ("cx.cxsmiles", f"{ASPIRIN} |$;;;R$,c:1| a\n{BENZENE} |c:0,2,4|\n", TWO),
    # Another column first
    ("id_first.smi", f"CHEMBL25 {ASPIRIN}\nCHEMBL277500 {BENZENE}\n", TWO),
    ("index_first.smi", f"0\t{ASPIRIN}\n1\t{BENZENE}\n", TWO),
    ("name_first.smi", f"acetylsalicylic acid\t{ASPIRIN}\nbenzene\t{BENZENE}\n", TWO),
    ("comma.smi", f"1,{ASPIRIN},aspirin\n2,{BENZENE},benzene\n", TWO),
    ("comma_header.smi", f"ID,SMILES\n1,{ASPIRIN}\n2,{BENZENE}\n", TWO),
    ("semicolon.txt", f"{ASPIRIN};1;a\n{BENZENE};2;b\n", TWO),
    ("third.txt", f"x 1 {ASPIRIN}\ny 2 {BENZENE}\n", TWO),
    # Tables
    ("sep.csv", f"sep=;\nID;SMILES\n1;{ASPIRIN}\n2;{BENZENE}\n", TWO),
    ("quoted_sep.csv", f'"sep=,"\nID,SMILES\n1,{ASPIRIN}\n2,{BENZENE}\n', TWO),
    ("top_comment.csv", f"# exported, today\nid,smiles\n1,{ASPIRIN}\n2,{BENZENE}\n", TWO),
    ("hash_id.csv", f"id,smiles\n#1,{ASPIRIN}\n#2,{BENZENE}\n", TWO),
    ("pipe.csv", f"id|smiles\n1|{ASPIRIN}\n2|{BENZENE}\n", TWO),
    ("commas.tsv", f"id,smiles\n1,{ASPIRIN}\n2,{BENZENE}\n", TWO),
    ("no_header.csv", f"1,{ASPIRIN},x\n2,{BENZENE},y\n", TWO),
    ("quotes.csv", f'"SMILES","name"\n"{ASPIRIN}","2-(acetyl, oxy)"\n{BENZENE},"a ""b"""\n', TWO),
    ("inches.csv", f'smiles,name\n{ASPIRIN},5" pipe\n{BENZENE},6" pipe\n', TWO),
    ("lines_in_cell.csv", f'smiles,note\n{ASPIRIN},"two\nlines"\n{BENZENE},x\n', TWO),
    ("empty_columns.csv", f",,smiles,\n,,{ASPIRIN},\n,,{BENZENE},\n", TWO),
    ("cx_cells.csv", f'smiles,y\n"{ASPIRIN} |c:1,3|",1\n{BENZENE} |c:0|,2\n', TWO),
    ("agree.csv", f"smiles,SMILES\n{ASPIRIN},O=C(C)Oc1ccccc1C(O)=O\n{BENZENE},\n", TWO),
    # Names of the column
    ("pubchem.csv", f"CID,CanonicalSMILES\n2244,{ASPIRIN}\n241,{BENZENE}\n", TWO),
    ("bindingdb.tsv", f"BindingDB ID\tLigand SMILES\n1\t{ASPIRIN}\n2\t{BENZENE}\n", TWO),
    ("isomeric.csv", f"isomeric_smiles,pIC50\n{ASPIRIN},5\n{BENZENE},4\n", TWO),
    ("structure.csv", f"Structure,Structure ID\n{ASPIRIN},1\n{BENZENE},2\n", TWO),
    ("tdc.csv", f"Drug_ID,Drug,Y\n1,{ASPIRIN},0\n2,{BENZENE},1\n", TWO),
    ("washed.csv", f"rxn_smiles,SMILES (washed)\nC>>C,{ASPIRIN}\nC>>C,{BENZENE}\n", TWO),
    ("vendor.csv", f"Molecule,Compound\nX-1,{ASPIRIN}\nX-2,{BENZENE}\n", TWO),
    # Encodings and compression
    ("utf16.csv", f"smiles,name\n{ASPIRIN},ä\n{BENZENE},ö\n".encode("utf-16"), TWO),
    ("utf16_no_mark.smi", f"{ASPIRIN}\n{BENZENE}\n".encode("utf-16-le"), TWO),
    ("latin.csv", f"smiles,Größe\n{ASPIRIN},klein\n{BENZENE},mäßig\n".encode("latin-1"), TWO),
    ("mark.csv", f"\ufeffsmiles,name\n{ASPIRIN},a\n{BENZENE},b\n", TWO),
    ("packed.tsv.gz", f"id\tsmiles\n1\t{ASPIRIN}\n2\t{BENZENE}\n", TWO),
    ("CAPITALS.CSV", f"ID,SMILES\n1,{ASPIRIN}\n2,{BENZENE}\n", TWO),
    # Other formats
    ("plain.sdf", record(ETHANOL) * 2, ["CCO", "CCO"]),
    ("packed.sdf.gz", record(ETHANOL) * 2, ["CCO", "CCO"]),
    ("open_end.sdf", record(ETHANOL) + ETHANOL, ["CCO", "CCO"]),
    ("windows.sdf", (record(ETHANOL) * 2).replace("\n", "\r\n"), ["CCO", "CCO"]),
    ("latin.sdf", record(f"\xe4thanol{ETHANOL}").encode("latin-1"), ["CCO"]),
    ("one.mol", ETHANOL, ["CCO"]),
    ("table.parquet", parquet(id=[1, 2], smiles=TWO), TWO),
    ("named.parquet", parquet(name=["a", "b"], IsomericSMILES=TWO), TWO),
    ("one_text.parquet", parquet(id=[1, 2], x=TWO), TWO),
]

REFUSED: list[tuple[str, str | bytes, str]] = [
    ("quote.csv", 'smiles,name\nCCO,a\nCCN,"amine\nCCC,c\nCCCC,d\n', "line 3: a quotation mark"),
    ("quote_later.csv", 'smiles,name\nCCO,"a\nCCN,b\nCCC,"c"\n', "line 2: a quotation mark"),
    ("quote_long.csv", 'smiles,name\nCCO,"a\n' + "x y,b\n" * 30_000, "line 2: a quotation mark"),
    ("differ.csv", "smiles,SMILES\nCCO,OCC\nCCO,CCN\n", "differ on line 3: 'CCO' and 'CCN'"),
    ("reactions.csv", "id,reaction\n1,CCO>>CC=O\n", "no column called smiles"),
    ("reactions.smi", "CCO>>CC=O\nCCO>[O]>CC=O\n", "Line 1: 'CCO>>CC=O': a reaction, not a mol"),
    ("columns.csv", "id,foo\n1,CCO\n2,CCN\n", "'foo' looks like molecules.*columns are: id, foo"),
    ("numbers.csv", "id,y\n1,2\n", "columns are: id, y"),
    ("book.xlsx", b"PK\3\4rest", "Legal endings"),
    ("book.csv", b"PK\3\4rest", "ZIP archive or an Excel file"),
    ("scheme.rxn", "$RXN\n", "Legal endings"),
    ("cut.sdf.gz", gzip.compress(record(ETHANOL).encode() * 999)[:-20], "damaged"),
    ("words.sdf", "CCO\n", "holds no molecule"),
    ("none.parquet", parquet(id=[1, 2], y=[0.5, 1.5]), "Its columns are: id, y"),
    ("several.parquet", parquet(a=TWO, b=TWO), "Its columns are: a, b"),
    ("words.parquet", "CCO\n", "not a Parquet file"),
]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path = folder / name
    packed = name.endswith(".gz") and isinstance(content, str)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize(("name", "content", "smiles"), READ, ids=[case[0] for case in READ])
def test_an_odd_file_is_read_right(tmp_path, name, content, smiles):
    found = read_smiles(written(tmp_path, name, content))
    assert found.rejected == []
    assert found.smiles == smiles


@pytest.mark.parametrize(("name", "content", "said"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_cannot_be_read_is_refused_with_what_to_do(tmp_path, name, content, said):
    with pytest.raises(DataError, match=said) as caught:
        read_smiles(written(tmp_path, name, content))
    assert name in str(caught.value)


def test_what_was_passed_over_is_counted(tmp_path):
    text = "# a comment\n\nsmiles,name\nC[C@H](F)Cl |&1:1|,x\n"
    found = read_smiles(written(tmp_path, "a.csv", text))
    assert found.smiles == ["C[C@H](F)Cl"]
    assert found.notes == {"comment": 1, "blank": 1, "cx_extension": 1, "stereo": 1}
    latin = read_smiles(written(tmp_path, "b.smi", "CCO caf\xe9\n".encode("latin-1")))
    assert latin.notes == {"latin1": 1}


def test_a_column_is_chosen_by_name_or_number(tmp_path):
    table = written(tmp_path, "a.csv", "smiles,product\nCCO,CC=O\n")
    assert read_smiles(table, column="product").smiles == ["CC=O"]
    assert read_smiles(table, column="2").smiles == ["CC=O"]
    bare = written(tmp_path, "b.smi", "CCO CC=O\n")
    assert read_smiles(bare, column="2").smiles == ["CC=O"]
    rows = written(tmp_path, "c.parquet", parquet(a=TWO, b=["C", "CC"], n=[1, 2]))
    assert read_smiles(rows, column="b").smiles == ["C", "CC"]
    for file, column, said in [
        (table, "prod", 'did you mean "product"'),
        (bare, "3", "no column '3'"),
        (rows, "c", "Its columns are: a, b, n"),
        (rows, "n", "holds int64, not text"),
        (written(tmp_path, "d.sdf", record(ETHANOL)), "a", "no columns to choose"),
    ]:
        with pytest.raises(DataError, match=said):
            read_smiles(file, column=column)


def test_records_of_an_sdf_file_that_are_no_molecules_are_rejected_with_their_number(tmp_path):
    broken = ETHANOL.replace("  1  2  1  0", "  1  2  3  0").replace("  2  3  1", "  2  3  3")
    cut = ETHANOL.replace("3  2  0", "3  9  0")
    empty = "\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n"
    text = record(ETHANOL) + record(broken) + record(cut) + record(empty) + record(ETHANOL)
    found = read_smiles(written(tmp_path, "a.sdf", text))
    assert found.smiles == ["CCO", "CCO"]
    assert [row.line for row in found.rejected] == [2, 3, 4]
    valence, unreadable, empty = (row.reason for row in found.rejected)
    assert valence == "Explicit valence for atom # 1 C, 6, is greater than permitted"
    assert "line" in unreadable
    assert empty == "no atoms"


def test_stereo_of_a_drawing_is_kept(tmp_path):
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    molecule = Chem.MolFromSmiles("C[C@H](N)C(=O)O")
    rdDepictor.Compute2DCoords(molecule)
    found = read_smiles(written(tmp_path, "a.sdf", record(Chem.MolToMolBlock(molecule))))
    assert found.smiles == [canonical("C[C@H](N)C(=O)O")]


def test_every_line_of_a_file_of_samples_counts_even_if_it_looks_like_a_comment(tmp_path):
    # A model may write anything: 3 of these are no molecules, and none is passed over.
    path = written(tmp_path, "a.smi", "CCO\n#CC\nC1CC\n(C)\n")
    items = list(iter_smiles(path))
    assert [item if isinstance(item, str) else None for item in items] == ["CCO", None, None, None]
