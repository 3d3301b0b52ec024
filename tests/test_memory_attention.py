"""The gated look at the memory: silent where it must be, and able to open."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from imadarem.nn.memory import GatedCrossAttention, MemoryEmbedding
from imadarem.orchestrator.memory import Recall

WIDTH, HEADS = 16, 4


def attention(gate: float, seed: int = 0) -> GatedCrossAttention:
    torch.manual_seed(seed)
    module = GatedCrossAttention(WIDTH, HEADS)
    nn.init.constant_(module.gate, gate)
    return module


def tensors(batch: int, length: int, memory: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, WIDTH, generator=generator)
    return x, torch.randn(batch, memory, WIDTH, generator=generator)


@given(seed=st.integers(0, 1000), batch=st.integers(1, 3), memory=st.integers(1, 9))
def test_a_closed_gate_changes_no_bit(seed: int, batch: int, memory: int) -> None:
    x, m = tensors(batch, 5, memory, seed)
    assert torch.equal(attention(0.0, seed)(x, m), x)


def test_no_memory_changes_no_bit_at_an_open_gate() -> None:
    x, m = tensors(2, 5, 3)
    module = attention(1.0)
    assert module(x, None) is x
    assert torch.equal(module(x, m[:, :0]), x)
    assert not torch.equal(module(x, m), x)


def test_a_row_without_hits_stays_as_it_is_beside_rows_with_some() -> None:
    x, m = tensors(2, 5, 3)
    x.requires_grad_()
    module = attention(1.0)
    y = module(x, m, torch.tensor([[False] * 3, [True, False, True]]))
    assert torch.equal(y[0], x[0]) and not torch.equal(y[1], x[1])
    y.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert torch.allclose(x.grad[0], 2 * x[0])  # of the identity alone
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_what_is_not_attended_has_no_influence() -> None:
    x, m = tensors(1, 5, 4)
    module, attended = attention(1.0), torch.tensor([[True, True, False, False]])
    y = module(x, m, attended)
    assert torch.allclose(y, module(x, m[:, :2]), atol=1e-6)
    m[:, 2:] = 1e3
    assert torch.equal(module(x, m, attended), y)


def test_the_gate_has_a_gradient_where_it_starts() -> None:
    x, m = tensors(2, 5, 3)
    module = attention(0.0)
    module(x, m).sum().backward()
    assert module.gate.grad is not None and module.gate.grad != 0


def test_the_gate_opens_as_tanh() -> None:
    x, m = tensors(1, 2, 3)
    seen = [attention(g)(x, m) - x for g in (0.5, -0.5, 20.0)]
    # tanh(0.5) = 0.46212, tanh(20) = 1.
    assert torch.allclose(seen[0], 0.46212 * seen[2], atol=1e-4)
    assert torch.allclose(seen[1], -seen[0], atol=1e-6)


def embed(
    ids: Tensor, similarity: list[float], attended: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Hits (k, L') of one canvas through an embedding of 10 tokens → (k, L', D)."""
    torch.manual_seed(seed)
    table, positions = torch.randn(10, WIDTH), torch.randn(8, WIDTH)
    module = MemoryEmbedding(WIDTH)
    real = torch.ones_like(ids, dtype=torch.bool) if attended is None else attended
    scores = torch.tensor([similarity])
    hits = Recall(ids[None], scores, torch.ones_like(scores, dtype=torch.bool), real[None])
    memory, counts = module(hits, lambda ids: table[ids], lambda length: positions[:length])
    assert counts.tolist() == [real.flatten().tolist()]
    assert memory.shape == (1, ids.numel(), WIDTH)
    return memory[0].view(*ids.shape, WIDTH)


def test_a_memory_says_what_stands_where_in_which_company_and_how_alike_it_is() -> None:
    plain = embed(torch.tensor([[3, 4]]), [0.5])[0]
    assert not torch.allclose(embed(torch.tensor([[5, 4]]), [0.5])[0, 1], plain[1])  # company
    assert not torch.allclose(embed(torch.tensor([[3, 4]]), [0.9])[0, 1], plain[1])  # similarity
    twice = embed(torch.tensor([[3, 3]]), [0.5])[0]
    assert not torch.allclose(twice[0], twice[1])  # place


def test_hits_know_nothing_of_each_other_and_have_no_order() -> None:
    both = embed(torch.tensor([[3, 4], [5, 6]]), [0.5, 0.9])
    swapped = embed(torch.tensor([[5, 6], [3, 4]]), [0.9, 0.5])
    assert torch.allclose(both[0], swapped[1], atol=1e-6)
    assert torch.allclose(both[1], swapped[0], atol=1e-6)


@pytest.mark.parametrize("padding", [1, 9])
def test_padding_is_no_company(padding: int) -> None:
    real = torch.tensor([[True, True, False]])
    padded = embed(torch.tensor([[3, 4, padding]]), [0.5], real)[0, :2]
    assert torch.allclose(padded, embed(torch.tensor([[3, 4]]), [0.5])[0], atol=1e-6)


def test_a_hit_of_padding_alone_is_finite() -> None:
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert embed(torch.tensor([[0, 0]]), [0.0], nothing).isfinite().all()
