"""A gate that follows a script: work that does not depend on how well a model is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from imadarem.errors import ConfigError
from imadarem.sampling.noise import Stream
from imadarem.sampling.policies import Decision, PassView


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedGate:
    """Redraw a given share of each row in every step, and let rows end by lot.

    For benchmarks: a random network's gate flags all or nothing, so that its speed says
    nothing. In the first step every blank is written; in step ``s`` the share ``active[s - 1]``
    of a row's tokens is drawn anew: a random order that belongs to the row, cut at that share, so
    that a token that was left out stays out. A row ends with a step drawn uniformly from
    ``ends``, by its own seed.

    Rows end by the rule of ``stop_threshold``: set it to 1.

    Args:
        active: Share of the tokens that is drawn in each step, each in (0, 1]; steps behind
            the last entry take the last.
        ends: First and last step with which a row may end.

    Raises:
        ConfigError: A share is out of range, or the steps are in the wrong order.
    """

    active: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.25, 0.15)
    ends: tuple[int, int] = (3, 6)
    refines: bool = True
    uses_teacher: bool = False

    def __post_init__(self) -> None:
        if not self.active or any(not 0.0 < share <= 1.0 for share in self.active):
            raise ConfigError(f"active={self.active} must be shares above 0 and at most 1.")
        if not 1 <= self.ends[0] <= self.ends[1]:
            raise ConfigError(f"ends={self.ends} must be two steps from 1 on, the earlier first.")

    def __call__(self, view: PassView) -> Decision:
        share = self.active[min(view.step, len(self.active)) - 1]
        ours = view.open | view.written
        coin = view.noise.at(step=0).uniform(Stream.ORDER, ours.shape[1])
        # The cut is a rank, not a coin: so many tokens, not so many in the mean.
        ranks = coin.masked_fill(~ours, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
        count = torch.ceil(share * ours.sum(dim=1))
        redrawn = view.written & (ranks < count[:, None])
        first, last = self.ends
        lot = view.noise.at(step=0).uniform(Stream.COIN, 1).squeeze(1)
        end = first + (lot * (last - first + 1)).floor()
        return Decision(view.open | redrawn, torch.zeros_like(ours), hold=view.step < end)
