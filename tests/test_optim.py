"""Optimisers: what the house adds to those it takes from a library."""

from __future__ import annotations

import torch
from fakes import tiny_model
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5

from imadarem.training.optim import _muon, build_optimizer, parameter_groups


def test_muon_orthogonalises_in_float32_on_a_cpu() -> None:
    group = {"ns_steps": 5, "ns_coeffs": (3.4445, -4.7750, 2.0315)}
    gradient = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    (update,) = _muon()._orthogonalize(group, [gradient])
    exact = zero_power_via_newton_schulz_5(gradient.double(), num_steps=5, dtype=torch.float64)
    assert update.dtype == torch.float32
    # bfloat16 is off by some 1e-2.
    assert (update - exact).abs().max() < 1e-5


def test_muon_takes_the_matrices_of_blocks_and_recurrence_alone() -> None:
    model = tiny_model(joint_size=6)
    groups = {g["role"]: g for g in parameter_groups(model, 1e-3, 0.0, 3.0)}
    names = {id(p): name for name, p in model.named_parameters()}
    matrices = {names[id(p)] for p in groups["matrix"]["params"]}
    assert {name for name in matrices if name.startswith("network.joint.")} == {
        "network.joint.recurrence.weight_ih_l0",
        "network.joint.recurrence.weight_hh_l0",
    }
    assert all(
        name.startswith(("network.joint.recurrence.", "network.backbone.blocks."))
        for name in matrices
    )
    optimizer = build_optimizer("muon", list(groups.values()), steps=1)
    rates = {group["use_muon"]: group["lr"] for group in optimizer.param_groups}
    assert rates[True] == 10 * 1e-3
