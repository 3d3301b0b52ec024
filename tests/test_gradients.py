"""Gradients that are written out: those that autograd would find, from the same sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.nn.blocks import NeighbourConvolution, SelfAttention
from imadarem.nn.embeddings import rotary_angles
from imadarem.nn.gradients import neighbour_sum

LENGTH, WIDTH, HEADS = 7, 16, 2


# Taps 1, 10, 100 on 1, 2, 3: 10·1 + 100·2, 1·1 + 10·2 + 100·3, 1·2 + 10·3.
def test_each_position_hears_its_neighbours():
    x = torch.tensor([1.0, 2.0, 3.0])[None, :, None]
    heard = neighbour_sum(x, torch.tensor([1.0, 10.0, 100.0])[:, None])
    assert heard.flatten().tolist() == [210.0, 321.0, 32.0]


# A row may be shorter than the taps reach.
@pytest.mark.parametrize("length", [1, 2, 6])
def test_the_gradient_of_neighbours_is_that_of_the_sum(length):
    generator = torch.Generator().manual_seed(0)
    x, taps = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((2, length, 3), (5, 3))
    )
    assert torch.autograd.gradcheck(neighbour_sum, (x, taps))


@pytest.mark.parametrize("hides", [False, True])
def test_heads_turned_in_one_product_have_the_gradients_of_halves(hides):
    torch.manual_seed(0)
    config = ImplicitRefinementConfig(vocab_size=9, hidden_size=WIDTH, num_heads=HEADS, dropout=0.0)
    attention = SelfAttention(config)
    nn.init.normal_(attention.out.weight)
    x = torch.randn(3, LENGTH, WIDTH, requires_grad=True)
    attended = torch.arange(LENGTH) < torch.tensor([LENGTH, 4, 1])[:, None]
    rotation = rotary_angles(LENGTH, WIDTH // HEADS, x.device)

    def run() -> list[Tensor]:
        y = attention(x, attended if hides else None, rotation)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *attention.parameters()])]

    found = run()
    # A layer with a hook is called as it is, and its heads are turned half against half.
    attention.qkv.register_forward_hook(lambda *_: None)
    for ours, halves in zip(found, run(), strict=True):
        torch.testing.assert_close(ours, halves, rtol=1e-5, atol=1e-5)


def test_hidden_positions_are_not_heard_and_learn_nothing():
    convolution = NeighbourConvolution(WIDTH, 5)
    nn.init.normal_(convolution.weight)
    x = torch.randn(1, LENGTH, WIDTH, requires_grad=True)
    attended = (torch.arange(LENGTH) < 4)[None]
    convolution(x, attended).square().sum().backward()
    assert x.grad is not None
    assert x.grad[:, :4].abs().min() > 0
    assert not x.grad[:, 4:].any()


def test_heads_run_in_half_precision_too():
    config = ImplicitRefinementConfig(vocab_size=9, hidden_size=WIDTH, num_heads=HEADS, dropout=0.0)
    attention = SelfAttention(config)
    x = torch.randn(2, LENGTH, WIDTH, requires_grad=True)
    rotation = rotary_angles(LENGTH, WIDTH // HEADS, x.device)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attention(x, None, rotation)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad is not None
