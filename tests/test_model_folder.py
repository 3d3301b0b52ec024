"""Model folders that are damaged, or made to do harm, are refused by name before they cost much."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import grid_model, tiny_model
from safetensors.torch import load_file, save_file

from imadarem import CharTokenizer, ImplicitRefinementModel
from imadarem.errors import CheckpointError
from imadarem.tokenizers import load_tokenizer

BIAS, EXPAND = "network.backbone.to_logits.bias", "network.backbone.blocks.1.expand.weight"
Damage = Callable[[Path], object]


def settings(**changes: Any) -> Damage:
    """Change entries of config.json."""

    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change the dictionary of weights."""

    def damage(folder: Path) -> None:
        loaded = load_file(folder / "model.safetensors")
        change(loaded)
        save_file(loaded, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def text(name: str, content: str) -> Damage:
    """Replace a file."""
    return lambda folder: (folder / name).write_text(content)


def with_value(value: float, name: str = EXPAND) -> Damage:
    return weights(lambda w: w[name].view(-1)[-1:].fill_(value))


def cast(dtype: torch.dtype, name: str = BIAS) -> Damage:
    return weights(lambda w: w.update({name: torch.zeros(w[name].shape).to(dtype)}))


def header_of(size: int) -> Damage:
    """A file that says its header has so many bytes, and has them."""
    return lambda folder: (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", size) + b"{" + b" " * (size - 2) + b"}"
    )


@cache
def vocabulary(count: int) -> str:
    """A built-in tokenizer of so many tokens, as JSON."""
    entries = ",".join(f'"[{i}]":{i}' for i in range(3, count))
    return f'{{"model": {{"vocab": {{"<pad>":0,"<mask>":1,"</s>":2,{entries}}}}}}}'


def tokens(count: int) -> Damage:
    """Replace the tokenizer."""
    return lambda folder: (folder / "tokenizer.json").write_text(vocabulary(count))


NESTED = "[" * 100_000 + "]" * 100_000
#: Folders that would take hours or gigabytes if they were believed: damage and what is said.
COSTLY = {
    "num_layers": (settings(num_layers=10**6), "num_layers=1000000, and it has"),
    "hidden_size": (settings(hidden_size=2**20), "hidden_size=1048576, and no weight has"),
    "vocab_size": (settings(vocab_size=10**9), "vocab_size=1000000000, and no weight has"),
    "max_seq_len": (settings(max_seq_len=10**9), "max_seq_len=1000000000"),
    "intermediate_size": (settings(intermediate_size=10**12), "intermediate_size"),
    "joint_size": (settings(joint_size=10**9), "joint_size"),
    "inner_steps": (settings(inner_steps=10**9), "inner_steps=1000000000"),
    "max_refinement_steps": (settings(max_refinement_steps=10**9), "max_refinement_steps"),
    "relations": (
        settings(relations=[[list(range(12))], [[0] * 11] * 9000]),
        "relations has layouts",
    ),
    "conv_kernel_size": (
        settings(conv_kernel_size=10**9 + 1),
        "blocks.0.neighbours.weight is missing",
    ),
    "tokens": (tokens(2_000_000), "tokenizer.json.*too large to load"),
    "nested config": (text("config.json", NESTED), "nested too deeply"),
    "nested setting": (text("config.json", f'{{"relations": {NESTED}}}'), "nested too deeply"),
    "nested tokenizer": (text("tokenizer.json", NESTED), "nested too deeply"),
    "long config": (text("config.json", " " * 2**23 + "{}"), "too large to load"),
    "long header": (header_of(2**26), "too large to load"),
    "header beyond the file": (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**60)),
        "too large to load",
    ),
}
#: Folders that are wrong in another way.
WRONG = {
    "integer weights": (cast(torch.int64), "to_logits.bias .* is I64; weights are floating"),
    "boolean weights": (cast(torch.bool), "to_logits.bias .* is BOOL"),
    "complex weights": (cast(torch.complex64), "to_logits.bias .* is C64"),
    "NaN": (with_value(float("nan")), "blocks.1.expand.weight .*NaN or infinite"),
    "infinity": (with_value(float("-inf")), "blocks.1.expand.weight .*NaN or infinite"),
    "too large for float32": (
        weights(lambda w: w.update({BIAS: w[BIAS].double() + 1e300})),
        "to_logits.bias .*NaN or infinite",
    ),
    "missing weight": (weights(lambda w: w.pop(BIAS)), "to_logits.bias is missing"),
    "left-over weight": (weights(lambda w: w.update(stray=torch.zeros(1))), "stray is left over"),
    "other shape": (
        weights(lambda w: w.update({BIAS: torch.zeros(3)})),
        r"to_logits.bias is of another shape, \(3,\) for \(\d+,\)",
    ),
    "half a teacher": (
        weights(lambda w: w.update({"teacher.network.backbone.to_logits.bias": torch.zeros(3)})),
        "teacher.network.*missing .and",
    ),
    "no settings": (text("config.json", "[]"), "holds no settings"),
    "counts of text": (settings(length_counts=[0, "many"]), "length_counts must be"),
    "negative counts": (settings(length_counts=[0, -3]), "length_counts must be"),
    "huge counts": (settings(length_counts=[0, 10**300]), "length_counts must be"),
    "NaN counts": (
        text("config.json", '{"vocab_size": 30, "length_counts": [0, NaN]}'),
        "NaN is no JSON number",
    ),
    "unknown setting": (settings(hiden_size=8), 'did you mean "hidden_size"'),
    "fewer tokens": (
        lambda folder: CharTokenizer.from_corpus(["ab"]).save_pretrained(folder),
        "has 5 tokens and its model vocab_size=",
    ),
    "more tokens": (tokens(40), "has 40 tokens and its model vocab_size="),
    "half a character": (
        text("tokenizer.json", vocabulary(4).replace("[3]", "\\ud800")),
        "half of a character",
    ),
}  # fmt: skip
CASES = COSTLY | WRONG


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "model"
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("case", CASES)
def test_a_folder_that_is_damaged_or_hostile_is_refused_by_name(case: str, folder: Path) -> None:
    damage, message = CASES[case]
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        ImplicitRefinementModel.from_pretrained(folder)


@pytest.mark.parametrize("case", ["num_layers", "long header", "NaN", "integer weights", "tokens"])
def test_the_class_for_transformers_refuses_the_same(case: str, folder: Path) -> None:
    from imadarem.hf import ImadaremForMaskedLM

    damage, message = CASES[case]
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        ImadaremForMaskedLM.from_pretrained(folder)


def test_a_tokenizer_of_no_model_is_not_read_past_its_largest_size(folder: Path) -> None:
    tokens(2_000_000)(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer.json.*too large to load"):
        load_tokenizer(folder)


def test_a_model_of_relations_is_held_against_its_weights(tmp_path: Path) -> None:
    grid_model().save_pretrained(tmp_path)
    assert ImplicitRefinementModel.from_pretrained(tmp_path).config.relations is not None
    relations = json.loads((tmp_path / "config.json").read_text())["relations"]
    settings(relations=[[*relations[0], relations[0][0]]])(tmp_path)
    with pytest.raises(CheckpointError, match=r"of another shape, \(3, 16, 16\) for \(4, 16, 16\)"):
        ImplicitRefinementModel.from_pretrained(tmp_path)


REFUSE_ALL = """
import resource, sys, time
from pathlib import Path
from imadarem import ImplicitRefinementModel
from imadarem.errors import CheckpointError
sound, *hostile = map(Path, sys.argv[1:])
# What the first load costs, everybody pays: modules that torch imports late.
ImplicitRefinementModel.from_pretrained(sound)
if "sympy" in sys.modules:
    print("loading a model has loaded torch's compiler")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in hostile:
    start = time.process_time()
    try:
        ImplicitRefinementModel.from_pretrained(folder)
        print(folder.name, "was loaded")
    except CheckpointError:
        pass
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if seconds > 1 or grown > 250:
        print(f"{folder.name}: {seconds:.2f} s, {grown:.0f} MB")
"""


@pytest.mark.slow
def test_a_hostile_folder_costs_less_than_a_second_and_little_memory(
    sound: Path, tmp_path: Path
) -> None:
    folders = []
    for number, (damage, _) in enumerate(COSTLY.values()):
        folders.append(tmp_path / str(number))
        shutil.copytree(sound, folders[-1])
        damage(folders[-1])
    command = [sys.executable, "-c", REFUSE_ALL, str(sound), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_weights_of_half_precision_and_a_teacher_load(tmp_path: Path) -> None:
    model = tiny_model()
    model.init_teacher()
    model.save_pretrained(tmp_path)
    weights(lambda w: w.update({name: value.bfloat16() for name, value in w.items()}))(tmp_path)
    loaded = ImplicitRefinementModel.from_pretrained(tmp_path)
    assert loaded.teacher is not None
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.bfloat16().float()), name


def test_ids_that_pad_a_vocabulary_are_never_written() -> None:
    """A tokenizer of 5 tokens beside a model of 8: the ids 5 to 7 have no text."""
    tokenizer = CharTokenizer.from_corpus(["ab"])
    tokenizer.get_vocab = lambda: dict(zip(tokenizer.tokens, range(5), strict=True))  # type: ignore
    model = tiny_model(vocab_size=8)
    padded = ImplicitRefinementModel(model.config, tokenizer=tokenizer)
    assert padded.special.banned == (0, 1, 5, 6, 7)
