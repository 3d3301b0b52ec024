"""The convolution over neighbours, and the rotary embedding in attention, with their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.nn.transformer import (
    NeighbourConvolution,
    SelfAttention,
    rotary_turns,
    rotate_pairs,
)

LENGTH, WIDTH, HEADS = 7, 16, 2


def convolution(taps: Tensor) -> NeighbourConvolution:
    built = NeighbourConvolution(taps.shape[1], len(taps)).to(taps.dtype)
    with torch.no_grad():
        built.weight.copy_(taps)
    return built


# Taps 1, 10, 100 on 1, 2, 3: 10·1 + 100·2, 1·1 + 10·2 + 100·3, 1·2 + 10·3; each adds itself.
def test_each_position_adds_its_neighbours() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])[None, :, None]
    y = convolution(torch.tensor([1.0, 10.0, 100.0])[:, None])(x, None)
    assert y.flatten().tolist() == [211.0, 323.0, 35.0]


# A row may be shorter than the taps reach.
@pytest.mark.parametrize("length", [1, 2, 6])
@pytest.mark.parametrize("hides", [False, True])
def test_the_gradient_of_the_convolution_is_that_of_its_sum(length: int, hides: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, taps = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((2, length, 3), (5, 3))
    )
    attended = torch.arange(length) < torch.tensor([[length], [1]])
    built = NeighbourConvolution(3, 5).double()

    def run(x: Tensor, taps: Tensor) -> Tensor:
        return torch.func.functional_call(built, {"weight": taps}, (x, attended if hides else None))

    assert torch.autograd.gradcheck(run, (x, taps))


def test_hidden_positions_are_not_heard() -> None:
    built = NeighbourConvolution(WIDTH, 5)
    nn.init.normal_(built.weight)
    x = torch.randn(1, LENGTH, WIDTH, requires_grad=True)
    attended = (torch.arange(LENGTH) < 4)[None]
    y = built(x, attended)
    y[:, :4].square().sum().backward()
    assert x.grad is not None
    assert x.grad[:, :4].abs().min() > 0
    assert not x.grad[:, 4:].any()
    assert y[:, 4:].detach().allclose((built(x, attended) - x + x)[:, 4:].detach())


# Pairs (1, 0) and (0, 1) turned by a quarter: (0, 1) and (-1, 0). Position 0 stays.
def test_pairs_are_turned_by_the_angle_of_their_position() -> None:
    x = torch.tensor([[[1.0, 0.0, 0.0, 1.0]] * 2])
    turns = torch.tensor([[1, 1], [1j, 1j]])
    wanted = torch.tensor([[[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, -1.0, 0.0]]])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(rotate_pairs(x.clone(), turns), wanted)


# What the rotary embedding is for: a product of a query and a key depends on their distance.
def test_products_depend_on_the_distance_alone() -> None:
    turns = rotary_turns(LENGTH, WIDTH, HEADS, torch.device("cpu"))
    torch.manual_seed(0)
    q, k = torch.randn(2, WIDTH)
    both = torch.cat([q, k]).expand(1, LENGTH, 2 * WIDTH)
    turned = rotate_pairs(both.clone(), turns)[0]
    products = turned[:, :WIDTH].double() @ turned[:, WIDTH:].double().T
    for distance in range(-3, 4):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)
    assert (products.diagonal(1)[0] - products.diagonal(0)[0]).abs() > 1e-3


@pytest.mark.parametrize("hides", [False, True])
def test_attention_has_the_same_gradient_in_double_precision(hides: bool) -> None:
    torch.manual_seed(0)
    config = ImplicitRefinementConfig(vocab_size=9, hidden_size=8, num_heads=HEADS, dropout=0.0)
    attention = SelfAttention(config).double()
    nn.init.normal_(attention.out.weight)
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    attended = torch.arange(4) < torch.tensor([[4], [2]]) if hides else None
    turns = rotary_turns(4, 8, HEADS, x.device).to(torch.complex128)
    assert torch.autograd.gradcheck(lambda x: attention(x, attended, turns), (x,))


def test_attention_runs_in_half_precision_too() -> None:
    config = ImplicitRefinementConfig(vocab_size=9, hidden_size=WIDTH, num_heads=HEADS, dropout=0.0)
    attention = SelfAttention(config)
    x = torch.randn(2, LENGTH, WIDTH, requires_grad=True)
    turns = rotary_turns(LENGTH, WIDTH, HEADS, x.device)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attention(x, None, turns)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad is not None
