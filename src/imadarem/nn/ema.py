"""The EMA teacher: a slow copy of the network whose judgement is steadier."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class EmaTeacher(nn.Module):
    """An exponential moving average of a network's weights: ``θ' ← d·θ' + (1 - d)·θ``.

    The copy takes no gradient and always stays in evaluation mode. Weights that training leaves
    alone are not copied: both networks hold the same ones.

    Args:
        network: The network to copy; its weights are the starting point.
        decay: ``d``, per update, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.network = frozen_shared(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, parameters: Sequence[Tensor], decay: float | None = None) -> None:
        """Move the average towards a student's parameters, given in the network's order."""
        weight = 1.0 - (self.decay if decay is None else decay)
        pairs = zip(self.network.parameters(), parameters, strict=True)
        for ours, theirs in pairs:
            if ours is not theirs:
                ours.lerp_(theirs, weight)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The averaged network's output, without a graph."""
        with torch.no_grad():
            return self.network(*args, **kwargs)

    def train(self, mode: bool = True) -> EmaTeacher:
        """Stay in evaluation mode, whatever the student does."""
        return super().train(False)


def frozen_shared(network: nn.Module) -> nn.Module:
    """A copy of a network that has its frozen parameters in common with it."""
    frozen = {id(p): p for p in network.parameters() if not p.requires_grad}
    return copy.deepcopy(network, frozen)
