"""Block after block, each filled in several passes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from imadarem import checks
from imadarem.corruption import MaskSchedule
from imadarem.sampling.passes import Decision, PassView, Policy

__all__ = ["Blocks"]


def _confidence() -> Policy:
    # Policies know blocks by their name.
    from imadarem.sampling.policies import Confidence

    return Confidence()


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Fill one block after the other, each in several passes by another policy.

    The blanks of a row are cut into ``count`` blocks of equal length, left to right, and the
    steps into as many parts; the steps that do not divide go to the first blocks. Source:
    semi-autoregressive sampling of masked diffusion (LLaDA, arXiv:2502.09992).

    Args:
        count: Blocks of a row.
        within: Fills a block; it must not re-mask. Default: the most confident tokens first.
    """

    count: int = 4
    within: Policy = field(default_factory=_confidence)
    refines: bool = False
    uses_teacher: bool = False

    def __post_init__(self) -> None:
        checks.whole("count", self.count, 1)

    def __call__(self, view: PassView) -> Decision:
        count = min(self.count, view.steps)
        block = (view.step - 1) * count // view.steps
        first, last = (-(-number * view.steps // count) for number in (block, block + 1))
        mine = view.open | view.written
        rank = mine.cumsum(dim=1) - 1
        reached = mine & (rank * count < (block + 1) * mine.sum(dim=1, keepdim=True))
        size = (reached & (rank * count >= block * mine.sum(dim=1, keepdim=True))).sum(dim=1)
        # What every policy reads is computed once, for this view and for that of the block.
        _ = view.log_probs, view.drawn
        part = copy.copy(view)
        part.__dict__.update(
            open=view.open & reached,
            remaining=MaskSchedule(last - first).remaining(view.step - first, size),
            step=view.step - first,
            steps=last - first,
            schedule="linear",
        )
        return self.within(part)
