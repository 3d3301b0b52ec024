"""Relations: pooling by hand, what a symmetry does, grids of several sizes in one batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import SPECIAL, grid_model, shaken
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.config import ImplicitRefinementConfig
from imadarem.data.sudoku import SudokuSymmetry, relations
from imadarem.errors import ConfigError, DataError
from imadarem.model import ImplicitRefinementModel
from imadarem.nn.relations import Layouts, RelationPooling

MODEL = shaken(grid_model(sizes=(4, 6), inner_steps=2, halting=True))
V = MODEL.config.vocab_size


def grids(size: int, rows: int = 1, seed: int = 0) -> Tensor:
    """Rows of ``size``² blanks and digits, no legal sudoku in general."""
    generator = torch.Generator().manual_seed(seed)
    digits = torch.randint(3, 3 + size, (rows, size * size), generator=generator)
    return digits.masked_fill(torch.rand(digits.shape, generator=generator) < 0.5, SPECIAL.mask)


def members(layout: list[list[int]], length: int) -> Tensor:
    return Layouts([layout]).members(length, None, torch.zeros(()))


def test_members_are_one_where_a_position_is_in_a_group() -> None:
    # Positions 0 and 1 in group 0, position 2 in group 1; then all apart but 0 and 2.
    found = members([[0, 0, 1], [0, 1, 0]], 3)
    assert found.tolist() == [[[[1, 1, 0], [0, 0, 1]], [[1, 0, 1], [0, 1, 0]]]]


@given(seed=st.integers(0, 1000), length=st.integers(1, 6), kinds=st.integers(1, 3))
def test_pooling_is_what_a_double_loop_gives(seed: int, length: int, kinds: int) -> None:
    torch.manual_seed(seed)
    layout = torch.randint(0, 3, (kinds, length)).tolist()
    pooling = RelationPooling(4, kinds)
    with torch.no_grad():
        pooling.weight.normal_()
    x = torch.randn(2, length, 4)
    heard = F.gelu(pooling.message(x))
    expected = torch.zeros_like(x)
    for row in range(2):
        for i in range(length):
            for relation, groups in enumerate(layout):
                company = [j for j in range(length) if groups[j] == groups[i]]
                mean = sum(heard[row, j] for j in company) / len(company)
                expected[row, i] += mean @ pooling.weight[relation]
    assert torch.allclose(pooling(x, members(layout, length)), expected, atol=1e-5)


def test_pooling_is_silent_at_initialisation() -> None:
    pooling = RelationPooling(4, 1)
    assert torch.equal(pooling(torch.randn(1, 3, 4), members([[0, 0, 1]], 3)), torch.zeros(1, 3, 4))


def same_after(ids: Tensor, places: Tensor, model: ImplicitRefinementModel = MODEL) -> bool:
    """Whether moving the cells moves what the model says of them, and nothing else."""
    moved, still = model(ids[:, places]), model(ids)
    return (
        torch.allclose(moved.logits, still.logits[:, places], atol=1e-4)
        and torch.allclose(moved.gate_logits, still.gate_logits[:, places], atol=1e-4)
        and torch.allclose(moved.halt_logits, still.halt_logits, atol=1e-4)
    )


@given(seed=st.integers(0, 2**32 - 1))
def test_a_symmetry_of_the_grid_moves_the_logits_and_changes_nothing(seed: int) -> None:
    ids = grids(6, seed=seed)
    symmetry = SudokuSymmetry(V, 3, SPECIAL.pad)
    assert same_after(ids, symmetry.draw(ids[0], np.random.default_rng(seed)).positions)


def test_turning_rows_into_columns_changes_nothing_where_both_weigh_the_same() -> None:
    ids, transposed = grids(4), torch.arange(16).view(4, 4).T.reshape(-1)
    assert not same_after(ids, transposed)
    model = shaken(grid_model(halting=True))
    with torch.no_grad():
        weight = model.network.backbone.blocks[0].relations.weight  # type: ignore[union-attr]
        weight[1] = weight[0]  # type: ignore[index]
    assert same_after(ids, transposed, model)


def test_a_swap_that_tears_rows_apart_changes_the_logits() -> None:
    ids = grids(4)
    ids[0, 0], ids[0, 6] = 3, 4  # another row, another column, another box
    places = torch.arange(16)
    places[0], places[6] = 6, 0
    assert not same_after(ids, places)


@given(seed=st.integers(0, 1000), garbage=st.integers(0, V - 1))
def test_in_a_batch_of_two_sizes_each_grid_gets_what_it_gets_alone(seed: int, garbage: int) -> None:
    small, large = grids(4, 2, seed), grids(6, 1, seed)
    padded = F.pad(small, (0, 20), value=garbage)
    mask = torch.arange(36) < torch.tensor([16, 36, 16])[:, None]
    together = MODEL(torch.stack([padded[0], large[0], padded[1]]), mask)
    for row, alone in ((0, small[:1]), (1, large), (2, small[1:])):
        expected, length = MODEL(alone), alone.shape[1]
        assert torch.allclose(together.logits[row, :length], expected.logits[0], atol=1e-4)
        assert torch.allclose(together.gate_logits[row, :length], expected.gate_logits, atol=1e-4)
        assert torch.allclose(together.halt_logits[row], expected.halt_logits, atol=1e-4)


def test_padding_may_stand_before_a_grid() -> None:
    small = grids(4, 2)
    padded = torch.stack([F.pad(small[0], (20, 0)), F.pad(small[1], (3, 17))])
    places = torch.arange(36)
    mask = torch.stack([places >= 20, (places >= 3) & (places < 19)])
    together = MODEL(padded, mask).logits[mask].view(2, 16, V)
    assert torch.allclose(together, MODEL(small).logits, atol=1e-4)


@pytest.mark.parametrize("mask", [None, torch.arange(16)[None] < 12])
def test_a_canvas_of_a_length_without_a_layout_is_refused(mask: Tensor | None) -> None:
    ids = grids(4) if mask is not None else grids(4)[:, :12]
    with pytest.raises(DataError, match="12 positions.*of canvases of 16, 36 only"):
        MODEL(ids, mask)


def test_one_such_row_among_others_is_refused_too() -> None:
    mask = torch.arange(16) < torch.tensor([16, 5])[:, None]
    with pytest.raises(DataError, match="5 positions"):
        MODEL(grids(4, 2), mask)


def test_relations_survive_json() -> None:
    config = MODEL.config
    again = ImplicitRefinementConfig.from_dict(json.loads(config.to_json()))
    assert again == config
    assert again.relations == [relations(4), relations(6)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"relations": []}, "layouts of no partitions"),
        ({"relations": [[]]}, r"layouts of \[0\] partitions"),
        ({"relations": [[[0, 1]], [[0, 0, 1], [0, 1, 1]]]}, r"layouts of \[1, 2\] partitions"),
        ({"relations": [[[0, 1], [0, 1, 1]]]}, r"covers \[2, 3\] positions"),
        ({"relations": [[[]]]}, r"covers \[0\] positions"),
        ({"relations": [[[0] * 65]]}, "1 to max_seq_len=64"),
        ({"relations": [[[0, -1]]]}, "whole numbers from 0 to"),
        ({"relations": [[[0, 1.0]]]}, "whole numbers from 0 to"),
        ({"relations": [[[0, True]]]}, "whole numbers from 0 to"),
        ({"relations": [[[0, 1]], [[1, 1]]]}, "two layouts of one length"),
        ({"attention": False}, "leaves every position alone"),
        ({"inner_steps": 0}, "inner_steps=0 must be a whole number of at least 1"),
        ({"inner_steps": 1.5}, "inner_steps=1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImplicitRefinementConfig(vocab_size=9, **wrong)  # type: ignore[arg-type]


def test_a_convolution_is_company_enough_without_attention() -> None:
    ImplicitRefinementConfig(vocab_size=9, attention=False, conv_kernel_size=3)
