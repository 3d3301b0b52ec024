"""Packed weights: the network's figures up to rounding, and only where nothing was changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import shaken, tiny_model
from torch import nn

from imadarem import ImplicitRefinementModel
from imadarem.nn.joint import JointLogits
from imadarem.nn.packed import Packed, packed
from imadarem.nn.walk import JointWalk, PackedJoint


def canvas(model: ImplicitRefinementModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of 6, 4 and 1 positions."""
    inside = torch.arange(6) < torch.tensor([[6], [4], [1]])
    ids = torch.randint(1, model.config.vocab_size, (3, 6), generator=torch.Generator())
    return ids.masked_fill(~inside, 0), inside


@torch.no_grad()
@pytest.mark.parametrize(
    "built",
    [
        {},
        {"conv_kernel_size": 5},
        {"conv_kernel_size": 5, "rotary": False},
        {"attention": False, "conv_kernel_size": 3},
        {"positions": False},
        {"carry": True, "inner_steps": 2, "halting": True},
        {"joint_size": 6},
    ],
)
def test_the_figures_are_those_of_the_network(built: dict[str, object]) -> None:
    model = shaken(tiny_model(num_heads=2, num_layers=2, **built)).eval()
    quick = packed(model)
    assert isinstance(quick, Packed)
    ids, inside = canvas(model)
    for mask in (None, inside):
        ours, theirs = quick(ids, mask), model(ids, mask)
        read = torch.ones_like(inside) if mask is None else mask
        for name in ("logits", "gate_logits"):
            mine, other = getattr(ours, name)[read], getattr(theirs, name)[read]
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_a_block_is_given_stays_as_it_is() -> None:
    for taps in (0, 3):
        model = shaken(tiny_model(conv_kernel_size=taps)).eval()
        x = torch.randn(2, 5, model.config.hidden_size)
        before = x.clone()
        Packed(model).block(0, x, None)
        assert x.equal(before)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("spread", [False, True])
def test_the_joint_head_steps_as_its_own_does(rows: int, spread: bool) -> None:
    model = shaken(tiny_model(joint_size=16)).eval()
    ids = torch.randint(1, 9, (rows, 5))
    ours, theirs = packed(model)(ids).joint, model(ids).joint
    if spread:
        which = torch.arange(2 * rows) % rows
        ours, theirs, rows = ours.spread(which), theirs.spread(which), 2 * rows
    assert isinstance(ours, PackedJoint) and isinstance(theirs, JointLogits)
    walk, (hidden, previous) = JointWalk(ours), theirs.begin()
    for position in range(5):
        walk.step(position, previous.numpy())
        logits = ours.logits[:, position] + torch.from_numpy(walk.added)
        wanted, hidden = theirs.at(position, hidden, previous)
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-4)
        previous = torch.randint(3, 9, (rows,))


@torch.no_grad()
def test_a_step_rounds_a_row_the_same_in_every_batch() -> None:
    model = shaken(tiny_model(joint_size=256, max_seq_len=16)).eval()
    ids, tokens = torch.full((85, 16), 1), torch.randint(3, 9, (16, 85))
    joint = packed(model)(ids).joint
    assert isinstance(joint, PackedJoint)

    def added(rows: int) -> list[np.ndarray]:
        walk, found = JointWalk(joint.spread(torch.arange(rows))), []
        for position, previous in enumerate(tokens[:, :rows].numpy()):
            walk.step(position, previous)
            found.append(walk.added.copy())
        return found

    whole = np.stack(added(85))
    for rows in range(1, 85):
        assert np.array_equal(np.stack(added(rows)), whole[:, :rows])


def test_a_joint_head_that_was_changed_is_read_by_torch() -> None:
    model = tiny_model(joint_size=16).eval()

    class Other(nn.Linear):
        pass

    assert model.joint is not None
    model.joint.to_logits = Other(16, model.config.vocab_size, bias=False)
    assert isinstance(packed(model)(torch.tensor([[1]])).joint, JointLogits)


def test_a_network_that_was_changed_or_is_in_training_is_called_as_it_is() -> None:
    model = tiny_model().eval()
    assert isinstance(packed(packed(model)), Packed)
    assert packed(model.train()) is model
    wide = tiny_model().double().eval()
    assert packed(wide) is wide
    hooked = tiny_model().eval()
    hooked.blocks[0].expand.register_forward_hook(lambda *given: None)
    assert packed(hooked) is hooked

    class Other(nn.Linear):
        pass

    replaced = tiny_model().eval()
    replaced.blocks[0].contract = Other(4, 4)
    assert packed(replaced) is replaced

    class Around(ImplicitRefinementModel):
        def forward(self, *given: object, **named: object) -> object:
            return super().forward(*given, **named)

    around = Around(model.config).eval()
    assert packed(around) is around


def test_evaluation_mode_reaches_every_part_however_little_of_it_was_in_training() -> None:
    model = tiny_model().eval()
    model.blocks[1].contract.train()
    assert not any(part.training for part in model.eval().modules())
    assert all(part.training for part in model.train().modules())
    model.init_teacher()
    assert model.teacher is not None
    assert not any(part.training for part in model.train().teacher.modules())
