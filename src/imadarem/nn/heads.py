"""What leaves the transformer: token logits and the refine gate."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["RefineGate"]


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
        return self.score(self.activation(self.hidden(self.norm(x)))).squeeze(-1)
