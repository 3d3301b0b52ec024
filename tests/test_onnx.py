"""ONNX: the same figures and the same samples as torch's, and clear words where it cannot be."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.backends.onnx import INT8_FILE, ONNX_FILE, OnnxNetwork, export_onnx
from imadarem.cli.app import run
from imadarem.errors import CheckpointError, ConfigError

SPECIAL = SimpleNamespace(mask_token_id=1, pad_token_id=0, eos_token_id=2)


def model(**given: object) -> ImplicitRefinementModel:
    torch.manual_seed(0)
    config = {"vocab_size": 12, "hidden_size": 32, "num_layers": 2, "num_heads": 2}
    config |= {"max_seq_len": 40, "conv_kernel_size": 3}
    built = ImplicitRefinementModel(ImplicitRefinementConfig(**{**config, **given}), SPECIAL).eval()
    with torch.no_grad():
        for weight in built.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return built


def canvas(rows: int, length: int, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens with blanks among them; every second row ends earlier."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(3, vocab, (rows, length), generator=generator)
    ids[torch.rand(ids.shape, generator=generator) < 0.4] = 1
    inside = torch.ones_like(ids, dtype=torch.bool)
    inside[1::2, length // 2 + 1 :] = False
    return ids.masked_fill(~inside, 0), inside


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The molecule model of the package, its folder with both files, made by the command."""
    folder = tmp_path_factory.mktemp("exported")
    assert run(["export", "--onnx", str(folder), "--int8"]) == 0
    return ImplicitRefinementModel.from_pretrained(folder), folder


@pytest.mark.slow
def test_the_shipped_model_gives_torchs_logits_for_any_rows_and_any_length(shipped):
    network, folder = shipped
    onnx = OnnxNetwork(network, folder / ONNX_FILE)
    for rows, length in ((1, 1), (2, 13), (5, 37), (3, network.config.max_seq_len)):
        ids, inside = canvas(rows, length, network.config.vocab_size)
        with torch.no_grad():
            ours = network(ids, inside)
        theirs = onnx(ids, inside)
        assert (theirs.logits - ours.logits)[inside].abs().max() < 1e-4
        assert (theirs.gate_logits - ours.gate_logits)[inside].abs().max() < 1e-4


# Of 30 molecules none is likely to differ: a draw lies within 1e-5 of a boundary for few tokens.
@pytest.mark.slow
def test_the_shipped_model_draws_the_same_molecules(shipped):
    network, folder = shipped
    ours = network.sample(30, seed=0).texts
    network.backend = OnnxNetwork(network, folder / ONNX_FILE)
    theirs = network.sample(30, seed=0).texts
    alone = [network.sample(1, first=number, seed=0)[0] for number in range(5)]
    network.backend = None
    assert theirs == ours
    assert alone == ours[:5]


@pytest.mark.slow
def test_prompts_and_fragments_are_filled_by_the_file_as_by_torch(shipped, said):
    _, folder = shipped
    for asked in (
        ["[C][C]<mask><mask><mask>[O]", "-n", "6"],
        ["--scaffold", "c1ccc(*)cc1", "-n", "2"],
    ):
        theirs, ours = (
            said("infill", *asked, "--model", folder, "--backend", backend, "--json")
            for backend in ("onnx", "torch")
        )
        assert theirs[0] == ours[0] == 0
        assert told(theirs[1]) == told(ours[1])


def told(lines: str) -> list[object]:
    """SMILES and texts of JSON lines; figures of time are left out."""
    found = [json.loads(line) for line in lines.splitlines()]
    texts = [row.get("text", row.get("smiles")) for row in found]
    assert any(texts)
    return texts


# Weights of 8 bits move a logit by some tenths, far below the 20 nats that they span.
@pytest.mark.slow
def test_eight_bits_are_a_third_of_the_size_and_near_the_same_logits(shipped):
    network, folder = shipped
    assert (folder / INT8_FILE).stat().st_size < 0.35 * (folder / ONNX_FILE).stat().st_size
    ids, inside = canvas(4, 37, network.config.vocab_size)
    with torch.no_grad():
        ours = network(ids, inside).logits
    theirs = OnnxNetwork(network, folder / INT8_FILE)(ids, inside).logits
    error = (theirs - ours)[inside].abs()
    assert 1e-4 < error.mean() < 0.2


def test_beliefs_a_carry_and_a_halting_head_go_through_the_file(tmp_path):
    network = model(carry=True, halting=True, self_conditioning=True, inner_steps=2)
    export_onnx(network, tmp_path)
    onnx = OnnxNetwork(network, tmp_path / ONNX_FILE)
    ids, inside = canvas(3, 20, 12)
    with torch.no_grad():
        first = network(ids, inside)
        told = {"prev_probs": first.logits.softmax(-1), "carry": first.carry}
        ours = network(ids, inside, **told)
    assert torch.allclose(onnx(ids, inside).logits[inside], first.logits[inside], atol=1e-4)
    theirs = onnx(ids, inside, **told)
    for name in ("logits", "gate_logits", "carry"):
        mine, other = getattr(ours, name)[inside], getattr(theirs, name)[inside]
        assert torch.allclose(mine, other, atol=1e-4), name
    assert torch.allclose(ours.halt_logits, theirs.halt_logits, atol=1e-4)


# 4 positions in two pairs.
@pytest.mark.parametrize("part", [{"memory": True}, {"relations": [[[0, 0, 1, 1]]]}])
def test_a_part_that_no_file_can_hold_is_refused(part, tmp_path):
    with pytest.raises(ConfigError, match=rf"{next(iter(part))}.*torch backend"):
        export_onnx(model(**part), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_other_weights_is_refused(tmp_path):
    network = model()
    export_onnx(network, tmp_path)
    with torch.no_grad():
        network.to_logits.bias.add_(1.0)
    with pytest.raises(CheckpointError, match="other weights"):
        OnnxNetwork(network, tmp_path / ONNX_FILE)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / ONNX_FILE).write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be read"):
        OnnxNetwork(model(), tmp_path / ONNX_FILE)


def test_the_command_line_says_where_the_file_comes_from(capsys):
    assert run(["sample", "--backend", "onnx"]) == 2
    assert "imadarem export --onnx" in capsys.readouterr().err
    assert run(["sample", "--backend", "onnx", "--device", "cuda"]) == 2
    assert "runs on the CPU" in capsys.readouterr().err
