"""Optimisers by name, the groups of parameters they get, and the learning rate over time."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from imadarem.errors import ConfigError, MissingExtraError, nearest

SCHEDULES = ("cosine", "wsd")
#: Share of a "wsd" run (warm-up, stable, decay; arXiv:2404.06395) that decays to the floor.
DECAY_SHARE = 0.2
#: Share of the peak that every schedule ends on.
FLOOR = 0.02


def parameter_groups(
    network: nn.Module, learning_rate: float, weight_decay: float, gate_lr_scale: float
) -> list[dict[str, Any]]:
    """Matrices with weight decay, the rest without, and the gate at its own rate.

    Returns three groups of trainable parameters, named by their ``"role"``: ``matrix``,
    ``other`` and ``gate``. Teacher weights take no gradient and are left out.
    """
    roles: dict[str, list[nn.Parameter]] = {"matrix": [], "other": [], "gate": []}
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        name = name.removeprefix("network.").removeprefix("backbone.")
        # Of a pretrained backbone ("model.") all matrices but the embeddings and a tied output.
        in_block = name.startswith(("blocks.", "model.")) and "neighbours" not in name
        in_block = in_block and id(parameter) not in tables
        matrix = parameter.ndim == 2 and (in_block or name.startswith("joint.recurrence."))
        role = "gate" if name.startswith("gate.") else "matrix" if matrix else "other"
        roles[role].append(parameter)
    decay = {"matrix": weight_decay, "other": 0.0, "gate": 0.0}
    scale = {"matrix": 1.0, "other": 1.0, "gate": gate_lr_scale}
    return [
        {
            "params": parameters,
            "role": role,
            "lr": learning_rate * scale[role],
            "weight_decay": decay[role],
        }
        for role, parameters in roles.items()
        if parameters
    ]


def build_optimizer(
    name: str, groups: list[dict[str, Any]], *, steps: int
) -> torch.optim.Optimizer:
    """The named optimiser over :func:`parameter_groups`.

    ``adamw`` is torch's; every other name is looked up in the package pytorch_optimizer
    (``ranger21``, arXiv:2106.13731; ``muon``; …). Muon takes the matrices of the blocks
    and of a joint head's recurrence at
    ten times the learning rate, as an orthogonalised update has unit scale, and leaves the
    rest to its AdamW.

    Args:
        name: Lower-case name.
        groups: From :func:`parameter_groups`.
        steps: Length of the run; Ranger21's own schedule is switched off against it.
    """
    if name == "adamw":
        # One pass over a parameter for the whole update, not one for each of its operations.
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    try:
        import pytorch_optimizer
    except ImportError:
        raise MissingExtraError("pytorch_optimizer", "train") from None
    known = pytorch_optimizer.get_supported_optimizers()
    if name not in known:
        legal = ["adamw", *known]
        raise ConfigError(f"unknown optimizer {name!r}{nearest(name, legal)}.")
    if name == "muon":
        return _muon()([_muon_group(group) for group in groups])
    if name == "ranger21":
        # Its built-in warm-up and warm-down would multiply with ours.
        return pytorch_optimizer.load_optimizer(name)(
            groups,
            lr=groups[0]["lr"],
            num_iterations=steps,
            disable_lr_scheduler=True,
        )
    return pytorch_optimizer.load_optimizer(name)(groups, lr=groups[0]["lr"])


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Share of the peak learning rate at ``step`` (from 0) of ``steps``.

    ``cosine`` falls from the end of the warm-up on; ``wsd`` stays at the peak and falls
    linearly in the last fifth, so a run may be prolonged before that without a trace.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(
            f"unknown schedule {schedule!r}{nearest(schedule, SCHEDULES)}. "
            f"Legal: {', '.join(SCHEDULES)}."
        )
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "cosine":
        progress = (step - warmup) / max(steps - warmup, 1)
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    left = (steps - step) / max(DECAY_SHARE * steps, 1)
    return max(FLOOR, min(1.0, left))


@cache
def _muon() -> Any:
    """pytorch_optimizer's Muon, orthogonalising in float32 on a CPU.

    It iterates in bfloat16, which a CPU without units for it emulates: measured 4.5 times
    the time of float32 on matrices of 768 × 256, a quarter of a small model's step.
    """
    from pytorch_optimizer import Muon
    from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5

    class MuonInFloat32(Muon):  # type: ignore[misc, no-any-unimported, unused-ignore]
        @staticmethod
        def _orthogonalize(group: dict[str, Any], updates: list[Tensor]) -> list[Tensor]:
            if updates[0].device.type != "cpu":
                done: list[Tensor] = Muon._orthogonalize(group, updates)
                return done
            return [
                zero_power_via_newton_schulz_5(
                    update.reshape(len(update), -1),
                    num_steps=group["ns_steps"],
                    weights=group["ns_coeffs"],
                    dtype=torch.float32,
                )
                for update in updates
            ]

    return MuonInFloat32


def _muon_group(group: dict[str, Any]) -> dict[str, Any]:
    if group["role"] == "matrix":
        return {**group, "use_muon": True, "lr": 10 * group["lr"]}
    return {**group, "use_muon": False, "betas": (0.9, 0.98), "eps": 1e-8}
