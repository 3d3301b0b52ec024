"""Commands on a masked language model of transformers, and training on top of one."""

from __future__ import annotations

import pytest
from backbone_parts import LETTERS, plain_model, tokenizer

from imadarem.loading import open_model
from imadarem.serve.catalogue import load_catalogue

ROWS = [LETTERS[start:] + LETTERS[: start // 2] for start in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    plain_model("BertForMaskedLM").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_a_folder_of_transformers_is_a_model_of_the_command_line(folder, said):
    code, printed, _ = said("infill", "--model", folder, "ACD<mask><mask>WY", "--json", "--seed", 1)
    assert code == 0 and '"text": "ACD' in printed
    code, printed, _ = said("sample", "--model", folder, "-n", 2, "--length", 7, "--json")
    assert code == 0 and printed.count('"kind": "sample"') == 2


def test_a_folder_of_transformers_can_be_served(folder):
    (served,) = load_catalogue([f"bert={folder}"], "cpu")
    entry = served.description
    assert (entry["id"], entry["kind"], entry["mask"]) == ("bert", "text", "[MASK]")
    assert entry["vocabulary"] == list(LETTERS) and entry["max_length"] == 64


@pytest.mark.slow
def test_a_gate_is_trained_on_a_frozen_backbone_and_the_run_goes_on(folder, said, tmp_path):
    file, run = tmp_path / "rows.txt", tmp_path / "run"
    file.write_text("\n".join(ROWS) + "\n")
    start = ("train", "--data", file, "--backbone", folder, "--freeze", "--out", run)
    sizes = ("--steps", 2, "--batch-size", 4, "--warmup-steps", 1, "--device", "cpu")
    code, _, told = said(*start, *sizes, "--processes", 1, "--max-refinement-steps", 2)
    assert code == 0, told
    code, _, told = said("train", "--out", run, "--resume", "--steps", 3, "--processes", 1)
    assert code == 0, told
    trained, plain = open_model(str(run / "model")), open_model(str(folder))
    assert trained.config.backbone["frozen"] and trained.config.max_refinement_steps == 2
    own, theirs = (m.network.backbone.model.state_dict() for m in (trained, plain))
    assert all(bool((weight == theirs[name]).all()) for name, weight in own.items())
    assert trained.network.gate.score.weight.abs().sum() > 0
    code, _, told = said("train", "--data", file, "--lora", 2, "--out", tmp_path / "other")
    assert code == 2 and "--lora has no effect without --backbone" in told
