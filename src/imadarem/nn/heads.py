"""What leaves the transformer: token logits, the refine gate, and the halting head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["HaltingHead", "RefineGate"]

#: Bias of the halting head at initialisation: a canvas is wrong until training says otherwise.
HALT_BIAS = -5.0


class RefineGate(nn.Module):
    """Logit that the token standing at a position should be predicted again.

    LayerNorm, Linear, GELU, Linear: ``(B, L, D)`` → ``(B, L)``. The bias starts at
    ``bias_init`` (+2.0) and the last weights at zero: refine by default.
    """

    def __init__(self, hidden_size: int, bias_init: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.activation = nn.GELU()
        self.score = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, bias_init)

    def forward(self, x: Tensor) -> Tensor:
        # A product and a sum: a matrix product with one column rounds by the size of the batch.
        hidden = self.activation(self.hidden(self.norm(x)))
        return (hidden * self.score.weight[0]).sum(dim=-1) + self.score.bias


class HaltingHead(nn.Module):
    """Logit that the answer of this pass is entirely right, one per row.

    Linear, GELU, then mean and maximum over the attended positions (one wrong token must
    not drown in the mean), Linear: ``(B, L, D)`` → ``(B,)``. The bias starts at -5 and the
    last weights at zero, as in HRM and TRM (arXiv:2506.21734, arXiv:2510.04871).
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.activation = nn.GELU()
        self.score = nn.Linear(2 * hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, HALT_BIAS)

    def forward(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """``(B, L, D)`` states and the attended positions ``(B, L)`` → ``(B,)``."""
        hidden = self.activation(self.hidden(x))
        if attended is None:
            mean, most = hidden.mean(dim=1), hidden.amax(dim=1)
        else:
            there = attended[..., None]
            mean = (hidden * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
            most = hidden.masked_fill(~there, float("-inf")).amax(dim=1)
        pooled = torch.cat([mean, most], dim=-1)
        return (pooled * self.score.weight[0]).sum(dim=-1) + self.score.bias
