"""8 bits: near float32's figures, the same in every batch, refused where they cannot be."""

from __future__ import annotations

import pytest
import torch
from fakes import grid_model, records, uneven_model
from torch import Tensor

from imadarem import ImplicitRefinementModel
from imadarem.backends import int8 as backend
from imadarem.backends.int8 import Int8Network, seen_ranges
from imadarem.cli.app import run
from imadarem.errors import ConfigError
from imadarem.nn.int8 import Int8Products, Levels, Range, is_exact
from imadarem.nn.packed import Packed

needs_vnni = pytest.mark.skipif(not is_exact(), reason="this processor has no 8-bit products")


def quick(**given: object) -> ImplicitRefinementModel:
    """The same by 8 bits."""
    built = uneven_model(**given)
    built.backend = Int8Network(built)
    return built


def canvas(network: ImplicitRefinementModel) -> tuple[Tensor, Tensor]:
    """Three rows of 20, 17 and 3 positions, blanks among them."""
    inside = torch.arange(20) < torch.tensor([[20], [17], [3]])
    ids = torch.randint(1, 12, (3, 20), generator=torch.Generator().manual_seed(0))
    return ids.masked_fill(~inside, 0), inside


# ---------------------------------------------------------------- levels


# 0 to 255 over -1 to 4.1: steps of 0.02, 0 at level 50.
def test_levels_reach_from_the_least_value_to_the_largest():
    seen = Range(2)
    seen.see(torch.tensor([[-1.0, 0.3], [0.5, 4.1]]))
    levels = Levels.of(seen)
    assert levels.zero == 50
    assert torch.allclose(levels.scale, torch.full((2,), 0.02))


# Ranges 8 and 2, weights 2 and 8: square roots of 8/2 and 2/8 are 2 and 1/2, and 8/2 = 2/(1/2) = 4
# reach to 4 on both sides: 8/255 for a step, times 2 and 1/2.
def test_what_is_hard_to_round_is_shared_by_input_and_weight():
    seen = Range(2)
    seen.see(torch.tensor([[8.0, 2.0], [-8.0, -2.0]]))
    levels = Levels.of(seen, torch.tensor([[2.0, -8.0]]))
    assert levels.zero == 128
    assert torch.allclose(levels.scale, 8 / 255 * torch.tensor([2.0, 0.5]))


# ---------------------------------------------------------------- the figures


@needs_vnni
@torch.no_grad()
@pytest.mark.parametrize(
    "built",
    [
        {},
        {"rotary": False},
        {"attention": False},
        {"positions": False, "conv_kernel_size": 0},
        {"carry": True, "inner_steps": 2, "halting": True, "self_conditioning": True},
        {"joint_size": 6},
        {"num_heads": 1, "hidden_size": 16},
    ],
)
def test_the_figures_are_near_those_of_float32(built):
    network = uneven_model(**built)
    rounded = Int8Network(network)
    ids, inside = canvas(network)
    for mask in (None, inside):
        ours, theirs = rounded(ids, mask), network(ids, mask)
        read = torch.ones_like(inside) if mask is None else mask
        for name in ("logits", "gate_logits"):
            mine, other = getattr(ours, name)[read], getattr(theirs, name)[read]
            # Of logits that span some nats.
            assert 1e-5 < (mine - other).abs().mean() < 0.1, name
        assert (ours.joint is None) == (theirs.joint is None)
        assert (ours.carry is None) == (theirs.carry is None)


# Measured: some ten-thousandths of a nat for a token.
@pytest.mark.slow
@needs_vnni
@torch.no_grad()
@pytest.mark.parametrize("name", ["default", "smiles"])
def test_the_models_in_the_package_lose_little(name):
    network = ImplicitRefinementModel.from_pretrained(name)
    rounded = Int8Network(network)
    ids = torch.stack([row.ids[:20] for row in network.sample(40, seed=5, length=40).rows
                       if len(row.ids) >= 20])  # fmt: skip
    ids[:, ::3] = network.special.mask
    ours, theirs = rounded(ids).logits.log_softmax(-1), network(ids).logits.log_softmax(-1)
    lost = (theirs.exp() * (theirs - ours)).sum(dim=-1).mean()
    assert 0 < lost < 2e-3


# ---------------------------------------------------------------- the same in every batch


@needs_vnni
@pytest.mark.parametrize("policy", ["gate", "entropy-bound"])
@pytest.mark.parametrize("mode", ["drawn", "eos"])
def test_every_figure_of_a_row_is_the_same_bit_for_bit_in_every_batch(mode, policy):
    refiner = quick(length_mode=mode)
    whole = records(refiner, 24, seed=3, policy=policy)
    for size in (1, 5):
        assert records(refiner, 24, seed=3, policy=policy, batch_size=size) == whole


@pytest.mark.slow
@needs_vnni
@pytest.mark.parametrize(
    ("name", "asked"), [("default", {}), ("smiles", {"steps": 1, "policy": "left-to-right"})]
)
def test_the_models_in_the_package_round_a_row_the_same_in_every_batch(name, asked):
    refiner = ImplicitRefinementModel.from_pretrained(name)
    refiner.backend = Int8Network(refiner)
    whole = records(refiner, 24, seed=0, **asked)
    for size in (1, 5):
        assert records(refiner, 24, seed=0, batch_size=size, **asked) == whole


@needs_vnni
@pytest.mark.parametrize("joint_size", [0, 16])
def test_running_equal_rows_once_changes_no_bit(monkeypatch, joint_size):
    refiner = quick(joint_size=joint_size, halting=True, carry=True)
    once = records(refiner, 24, seed=3, policy="gate")
    monkeypatch.setattr(Packed, "rows_alike", False)
    assert records(refiner, 24, seed=3, policy="gate") == once


# 65 to 320 positions are filled up: 3 · 23 = 69 to 72, 7 · 43 = 301 to 304.
@needs_vnni
@torch.no_grad()
def test_a_product_of_any_number_of_positions_gives_the_same_rows():
    network = uneven_model()
    block = network.blocks[0]
    products = Int8Products(block, True, seen_ranges(network)[0])
    x = torch.randn(320, 32, generator=torch.Generator().manual_seed(1))

    def after(rows: int) -> tuple[Tensor, Tensor]:
        y, given = x[:rows].clone(), x[:rows].clone()
        qkv = products.qkv(given)
        assert given.equal(x[:rows])
        products.add_mixed(y, qkv[:, 64:].clone())
        products.add_feed_forward(y)
        return qkv, y

    whole = after(320)
    for rows in [*range(1, 40), 63, 64, 65, 69, 127, 128, 129, 200, 255, 257, 301, 319]:
        for part, every in zip(after(rows), whole, strict=True):
            assert part.equal(every[:rows]), rows


@needs_vnni
def test_the_same_ranges_are_seen_again():
    first, second = (quick().sample(8, seed=1) for _ in range(2))
    assert [row.ids.tolist() for row in first.rows] == [row.ids.tolist() for row in second.rows]


# ---------------------------------------------------------------- where it cannot be


@needs_vnni
def test_weights_that_change_afterwards_are_refused():
    refiner = quick()
    with torch.no_grad():
        refiner.to_logits.bias.add_(1.0)
    with pytest.raises(ConfigError, match="model.backend = Int8Network"):
        refiner.sample(1)


def test_a_model_that_cannot_is_told_why(monkeypatch):
    with pytest.raises(ConfigError, match="float64 on cpu"):
        Int8Network(uneven_model().double())
    with pytest.raises(ConfigError, match="relations"):
        Int8Network(grid_model())
    hooked = uneven_model()
    hooked.blocks[0].expand.register_forward_hook(lambda *given: None)
    with pytest.raises(ConfigError, match="has a hook"):
        Int8Network(hooked)
    monkeypatch.setattr(backend, "is_exact", lambda: False)
    with pytest.raises(ConfigError, match="VNNI"):
        Int8Network(uneven_model())


@needs_vnni
def test_ranges_are_taken_without_leaving_a_trace():
    refiner = uneven_model(length_counts=None)
    mine = refiner.backend = Packed(refiner)
    seen = seen_ranges(refiner, rows=2)
    assert refiner.backend is mine
    assert all(float(known.hidden.high.max()) > 0 for known in seen)


# ---------------------------------------------------------------- the command line


@pytest.mark.slow
@needs_vnni
def test_the_command_line_draws_by_8_bits(said):
    code, told, _ = said("sample", "-n", "3", "--backend", "int8", "--json")
    assert code == 0
    network = ImplicitRefinementModel.from_pretrained("default")
    network.backend = Int8Network(network)
    for text in network.sample(3, seed=0).texts:
        assert str(text) in told


@pytest.mark.slow
@needs_vnni
def test_a_file_goes_on_by_the_back_end_that_began_it(tmp_path, said):
    path, whole = tmp_path / "some.smi", tmp_path / "whole.smi"
    asked = ["sample", "--backend", "int8", "--resume", "--batch-size"]
    assert said(*asked, "4", "-n", "6", "--out", path)[0] == 0
    assert said(*asked, "4", "-n", "20", "--out", whole)[0] == 0
    # A row does not depend on its batch, so that another size may go on.
    assert said(*asked, "7", "-n", "20", "--out", path)[0] == 0
    assert path.read_text() == whole.read_text()
    assert said("sample", "-n", "30", "--resume", "--out", path)[0] == 2


def test_a_back_end_is_of_sampling(tmp_path, said):
    file = tmp_path / "some.smi"
    file.write_text("CCO\n")
    for asked in ([file], ["--model", "default", "--likelihood"]):
        code, _, why = said("evaluate", *asked, "--backend", "int8")
        assert code == 2 and "--backend is of sampling" in why


def test_8_bits_are_for_the_cpu(capsys):
    assert run(["sample", "--backend", "int8", "--device", "cuda"]) == 2
    assert "runs on the CPU" in capsys.readouterr().err


# ---------------------------------------------------------------- with sparse passes


# The first pass of a run leaves nothing out.
@needs_vnni
def test_sparse_passes_run_by_8_bits():
    refiner = quick()
    whole, sparse = (refiner.sample(6, seed=0, sparse=leave).rows for leave in (False, True))
    assert [len(row.ids) for row in whole] == [len(row.ids) for row in sparse]
    one, other = (refiner.sample(6, steps=1, seed=0, sparse=leave).rows for leave in (False, True))
    assert [row.ids.tolist() for row in one] == [row.ids.tolist() for row in other]
