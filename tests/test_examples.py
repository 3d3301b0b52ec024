"""The examples, run as they stand, on tiny sizes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from backbone_parts import LETTERS, plain_model, tokenizer
from fakes import tiny_model

from imadarem.data.moses import load_moses_sample
from imadarem.model import ImplicitRefinementModel
from imadarem.tokenizers import SelfiesTokenizer

ROOT = Path(__file__).parent.parent
MOLECULES = load_moses_sample("train")[:60]


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{Path(path).stem}", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """An untrained model that knows the tokens of the examples' prompts."""
    return untrained(tmp_path_factory.mktemp("model"), 24)


def untrained(folder: Path, length: int) -> str:
    tokenizer = SelfiesTokenizer.from_corpus(MOLECULES)
    config = tiny_model(max_seq_len=length).config
    config.vocab_size = len(tokenizer)
    ImplicitRefinementModel(config, tokenizer).save_pretrained(folder)
    return str(folder)


def test_the_quickstart_draws_shows_and_fills(capsys):
    script("examples/quickstart.py").main()
    printed = capsys.readouterr().out
    assert printed.count("forward passes)") == 6  # five samples and the trajectory's summary
    assert "t=0: [MASK]" in printed and "t=1:" in printed


def test_a_scaffold_is_completed_in_as_many_ways_as_asked(capsys):
    script("examples/infill.py").main(ways=7)
    printed = capsys.readouterr().out.splitlines()
    counts = [int(line.split()[0]) for line in printed if " of 7 " in line]
    assert sum(counts) == 7
    # The ring's eight tokens are given, and the blanks behind it are not.
    assert sum(line.endswith("given") for line in printed) == 8


@pytest.mark.slow
def test_a_file_of_molecules_is_trained_on_and_resumed(tmp_path, capsys):
    file, run = tmp_path / "molecules.smi", tmp_path / "run"
    file.write_text("\n".join([*MOLECULES, "no molecule"]) + "\n")
    arguments = [str(file), str(run), "--hidden-size", "16"]
    example = script("examples/train_your_file.py")
    example.main([*arguments, "--steps", "2"])
    printed = capsys.readouterr().out
    assert "left out, line 61" in printed
    assert printed.count("nats per token") == 3  # before the first of two steps and after each
    assert len(printed.splitlines()) == 1 + 3 + 10
    example.main([*arguments, "--steps", "3", "--resume"])
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 3


@pytest.mark.slow
def test_a_table_becomes_a_ranked_and_drawn_list(tmp_path, capsys, monkeypatch):
    example = script("examples/from_csv.py")
    # A model with random weights writes little that passes: that part has tests of its own.
    monkeypatch.setattr(example, "passes_filters", lambda smiles: True)
    file, folder = tmp_path / "mine.csv", tmp_path / "out"
    file.write_text("\n".join(["SMILES", *MOLECULES, "C[C@H](N)C(=O)O"]) + "\n")
    sizes = ["--steps", "2", "--count", "30", "--init", untrained(tmp_path / "model", 64)]
    example.main([str(file), str(folder), *sizes])
    head, *rows = (folder / "ranked.csv").read_text().splitlines()
    scores = [float(row.rsplit(",", 1)[1]) for row in rows]
    assert head == "SMILES,QED" and scores == sorted(scores, reverse=True) and scores
    assert not {row.rsplit(",", 1)[0] for row in rows} & set(MOLECULES)
    assert f"{len(rows)} of 30 are new" in capsys.readouterr().out
    assert (folder / "best.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_text_is_written_and_filled_by_any_tokenizer(tmp_path, capsys):
    file = tmp_path / "lines.txt"
    names = ("earth", "sea", "light", "day", "night", "grass", "tree", "fruit", "stars", "fish")
    lines = [f"{verb} the {name}." for verb in ("And God saw", "In") for name in names]
    file.write_text("\n".join(lines) + "\n")
    script("examples/text_with_any_tokenizer.py").main(
        [str(file), str(tmp_path / "run"), "--steps", "3", "--hidden-size", "16"]
    )
    printed = capsys.readouterr().out
    assert printed.startswith("held out: ")
    # After three steps the filling is noise, line breaks among it: take all from the prompt on.
    filled = printed[printed.rindex("\nIn the ") :]
    assert "<mask>" not in filled


@pytest.mark.slow
def test_the_check_of_a_machine_passes_on_a_processor(capsys):
    assert script("scripts/gpu_check.py").main(["--device", "cpu", "--tiny"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| nothing |") == 4 and "| bert | bf16 |" in printed


@pytest.mark.slow
def test_five_policies_are_compared_on_a_backbone_and_a_gate_is_trained(tmp_path, capsys):
    plain_model("BertForMaskedLM").save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    rows = tmp_path / "rows.txt"
    rows.write_text("\n".join(LETTERS[start:] + LETTERS[:start] for start in range(20)) + "\n")
    capsys.readouterr()
    script("examples/any_backbone.py").main(
        [str(tmp_path / "bert"), "--prompt", "ACD<mask><mask>WY", "-n", "2", "--passes", "2"]
        + ["--train", str(rows), "--run", str(tmp_path / "run"), "--steps", "3"]
        + ["--plot", str(tmp_path / "policies.png")]
    )
    assert (tmp_path / "policies.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert printed.count("left-to-right     2.0") == 2 and "gate, AUROC" in printed
