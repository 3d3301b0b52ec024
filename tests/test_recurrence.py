"""What a pass does more than once and hands on: inner steps, the carry, the halting head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fakes import shaken, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import imadarem
from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.checkpoint import load_tensors
from imadarem.errors import ConfigError
from imadarem.files import load_json
from imadarem.model_folder import converted
from imadarem.nn.judge import HaltingHead

SHIPPED = Path(imadarem.__file__).parent / "shipped" / "selfies"
FLAGS = {
    "relations": {"relations": [[[0, 0, 1, 1]]]},
    "inject": {"inner_steps": 3},
    "halt": {"halting": True},
    "memory": {"memory": True},
}


def some_ids(rows: int = 2, length: int = 5, seed: int = 0) -> Tensor:
    """Blanks (id 1) and tokens (from 3 on)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 9, (rows, length), generator=generator)
    return ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.5, 1)


def recurrent(inner_steps: int, seed: int = 0) -> ImplicitRefinementModel:
    return shaken(tiny_model(seed, inner_steps=inner_steps, carry=True, halting=True))


#: By inner steps; tests that change weights make their own.
MODELS = {n: recurrent(n) for n in range(1, 6)}


# Off by default


def test_the_shipped_model_has_the_weights_of_a_config_without_the_flags() -> None:
    config = ImplicitRefinementConfig.from_dict(load_json(SHIPPED / "config.json"))
    defaults = ImplicitRefinementConfig(vocab_size=9)
    for name in ("relations", "inner_steps", "carry", "halting", "memory"):
        assert getattr(config, name) == getattr(defaults, name)
    saved = set(converted(load_tensors(SHIPPED / "model.safetensors"), config.num_heads))
    model = ImplicitRefinementModel.from_pretrained("selfies")
    assert set(model.state_dict()) == saved
    output = model(torch.full((1, 4), model.special.mask))
    assert output.halt_logits is None and output.carry is None
    assert output.logits.isfinite().all()


def test_a_config_saved_before_the_flags_existed_still_loads_strictly(tmp_path: Path) -> None:
    old = load_json(SHIPPED / "config.json")
    for name in ("relations", "inner_steps", "carry", "halting", "memory"):
        old.pop(name, None)
    assert ImplicitRefinementConfig.from_dict(old).to_dict().keys() >= old.keys()
    model = ImplicitRefinementModel(ImplicitRefinementConfig.from_dict(old))
    weights = load_tensors(SHIPPED / "model.safetensors")
    ours = {k: v for k, v in weights.items() if not k.startswith("teacher.")}
    model.load_state_dict(ours, strict=True)


@pytest.mark.parametrize("part", sorted(FLAGS))
def test_a_flag_adds_weights_of_its_own_and_no_others(part: str) -> None:
    plain, more = set(tiny_model().state_dict()), set(tiny_model(**FLAGS[part]).state_dict())
    assert plain < more
    assert all(part in name for name in more - plain)


def test_a_carry_needs_the_weights_of_the_injection_alone() -> None:
    assert set(tiny_model(carry=True).state_dict()) == set(tiny_model(inner_steps=2).state_dict())


# Inner steps


@given(n=st.integers(1, 5), seed=st.integers(0, 100))
def test_n_inner_steps_are_one_step_done_n_times(n: int, seed: int) -> None:
    once, often = MODELS[1], MODELS[n]
    ids = some_ids(seed=seed)
    state = None
    for _ in range(n):
        output = once(ids, carry=state)
        state = output.carry
    assert all(torch.equal(a, b) for a, b in zip(output[:4], often(ids)[:4], strict=True))


def test_the_gradient_flows_through_all_inner_steps() -> None:
    once, often = recurrent(1), recurrent(3)
    ids = some_ids()
    often(ids).logits.square().mean().backward()

    def by_hand(cut: bool) -> dict[str, Tensor]:
        once.zero_grad()
        state = None
        for _ in range(3):
            output = once(ids, carry=state.detach() if cut and state is not None else state)
            state = output.carry
        output.logits.square().mean().backward()
        return {n: p.grad.clone() for n, p in once.named_parameters() if p.grad is not None}

    whole, last = by_hand(cut=False), by_hand(cut=True)
    found = {n: p.grad for n, p in often.named_parameters() if p.grad is not None}
    assert found.keys() == whole.keys()
    assert all(torch.allclose(found[n], whole[n], atol=1e-6) for n in whole)
    # A gradient of the last run alone is another one.
    name = "network.backbone.blocks.0.expand.weight"
    assert not torch.allclose(found[name], last[name], rtol=0.1)


def test_gradient_checkpointing_changes_no_number_of_inner_steps() -> None:
    grads = []
    for flag in (False, True):
        model = shaken(tiny_model(inner_steps=3, gradient_checkpointing=flag)).train()
        model(some_ids()).logits.square().mean().backward()
        grads.append(model.network.backbone.blocks[0].expand.weight.grad)  # type: ignore[union-attr]
    assert torch.allclose(*grads)  # type: ignore[arg-type]


# Carry


@given(seed=st.integers(0, 100), inner_steps=st.integers(1, 3))
def test_a_carry_of_zeros_says_nothing(seed: int, inner_steps: int) -> None:
    model, ids = MODELS[inner_steps], some_ids(seed=seed)
    zeros = torch.zeros(*ids.shape, model.config.hidden_size)
    with_zeros, without = model(ids, carry=zeros)[:4], model(ids)[:4]
    assert all(torch.equal(a, b) for a, b in zip(with_zeros, without, strict=True))


def test_a_carry_is_the_state_that_the_heads_read() -> None:
    model, ids = recurrent(2), some_ids()
    output = model(ids)
    assert output.carry.shape == (*ids.shape, model.config.hidden_size)
    assert torch.equal(model.network.backbone.to_logits(output.carry), output.logits)
    assert not torch.allclose(model(ids, carry=output.carry).logits, output.logits, atol=1e-3)


@given(seed=st.integers(0, 100), pad=st.integers(1, 4))
def test_a_carry_on_padding_reaches_nobody(seed: int, pad: int) -> None:
    model, ids = MODELS[2], some_ids(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    carry = torch.randn(2, 5 + pad, model.config.hidden_size, generator=generator)
    mask = torch.arange(5 + pad).expand(2, -1) < 5
    padded = model(F.pad(ids, (0, pad)), mask, carry=carry)
    alone = model(ids, carry=carry[:, :5])
    assert torch.allclose(padded.logits[:, :5], alone.logits, atol=1e-4)
    assert torch.allclose(padded.carry[:, :5], alone.carry, atol=1e-4)
    assert torch.allclose(padded.halt_logits, alone.halt_logits, atol=1e-4)


def test_what_a_model_was_not_built_for_is_refused() -> None:
    model, ids = tiny_model(inner_steps=2), some_ids()
    assert model(ids).carry is None
    with pytest.raises(ConfigError, match="no carry; build it with carry=True"):
        model(ids, carry=torch.zeros(2, 5, 16))
    with pytest.raises(ConfigError, match="no memory; build it with memory=True"):
        model(ids, memory=object())


# The injection of the question


def test_the_question_has_the_scale_of_the_state_whatever_that_of_the_embedding() -> None:
    model, ids = recurrent(2), some_ids()
    before = model(ids).logits
    with torch.no_grad():
        model.network.backbone.tokens.weight *= 50
        model.network.backbone.time.project.weight *= 50
        model.network.backbone.time.project.bias *= 50
        model.network.backbone.positions.decay -= torch.log(torch.tensor(50.0))
    assert torch.allclose(model(ids).logits, before, atol=1e-2)


def test_the_question_is_heard_in_every_inner_step() -> None:
    # A state that shouts would drown a question that is told once; here it is told again.
    model = recurrent(1)
    loud = 3 * torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    one, other = some_ids(1, seed=1), some_ids(1, seed=2)
    assert not torch.allclose(model(one, carry=loud).logits, model(other, carry=loud).logits)


# The halting head


def test_the_halting_head_begins_at_minus_five_whatever_it_sees() -> None:
    model = tiny_model(halting=True)
    halt = model(some_ids(4)).halt_logits
    assert halt.shape == (4,)
    assert halt.tolist() == [-5.0] * 4


def by_hand() -> HaltingHead:
    """Hidden layer the identity; score = mean + 10 · maximum, of one channel, no bias."""
    head = HaltingHead(1)
    for parameter, values in (
        (head.hidden.weight, [[1.0]]),
        (head.hidden.bias, [0.0]),
        (head.score.weight, [[1.0, 10.0]]),
        (head.score.bias, [0.0]),
    ):
        with torch.no_grad():
            parameter.copy_(torch.tensor(values))
    return head


def test_mean_and_maximum_are_taken_over_the_attended_positions() -> None:
    # GELU(0) = 0 and GELU(20) = 20: mean 5 and maximum 20 over four positions.
    x = torch.tensor([[0.0, 0.0, 20.0, 0.0, 40.0]])[..., None]
    attended = torch.tensor([[True, True, True, True, False]])
    assert by_hand()(x, attended).tolist() == pytest.approx([205.0])
    assert by_hand()(x[:, :4], None).tolist() == pytest.approx([205.0])
    # With all five: mean 12, maximum 40.
    assert by_hand()(x, None).tolist() == pytest.approx([412.0])


def test_a_maximum_of_negative_states_is_not_that_of_the_padding() -> None:
    # GELU(-1) = -0.158655: mean and maximum alike, the zero of the padding is neither.
    x = torch.tensor([[-1.0, -1.0, 0.0]])[..., None]
    attended = torch.tensor([[True, True, False]])
    assert by_hand()(x, attended).tolist() == pytest.approx([-0.158655 * 11], abs=1e-4)


@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_halting_depends_on_the_row_alone(seed: int, lengths: list[int]) -> None:
    model = MODELS[2]
    ids = some_ids(len(lengths), 6, seed)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    together = model(ids, mask).halt_logits
    alone = [model(row[None, :n]).halt_logits for row, n in zip(ids, lengths, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_the_halting_head_learns() -> None:
    model = recurrent(1)
    halt = model(some_ids(3)).halt_logits
    nn.functional.softplus(halt).sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for p in model.network.halt.parameters()
    )
    assert (
        model.network.backbone.blocks[0].expand.weight.grad.abs().sum() > 0
    )  # the trunk hears of it too
