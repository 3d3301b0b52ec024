"""What a policy sees of a pass of the loop, computed when it is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.nn import RefinementOutput
from imadarem.nn.heads import JointHead
from imadarem.sampling.best_draws import BestDraws
from imadarem.sampling.draw import draw_tokens, forbid, normalized_entropy
from imadarem.sampling.endings import Endings
from imadarem.sampling.joint_draws import JointDraws, StepWeights
from imadarem.sampling.passes import PassView
from imadarem.sampling.settings import SamplingSettings


class LoopView(PassView):
    """A :class:`PassView` of a pass; its costly fields are computed when they are read.

    Attributes:
        output: Of the network.
        teacher: Output of the teacher, where it judges the entropy.
        canvas: Says which tokens may stand where.
        settings: How to draw.
        laid_out: Gives the weights of a joint head for its steps.
        gate_slope: ``(B, 1)``, added to the gate's logits.
    """

    output: RefinementOutput
    teacher: RefinementOutput | None
    canvas: Canvas
    settings: SamplingSettings
    laid_out: Callable[[JointHead], StepWeights]
    gate_slope: Tensor

    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)

    @cached_property
    def log_probs_alone(self) -> Tensor:
        """``(B, L, V)`` log-probabilities of each position by itself."""
        if self.endings is None:
            return forbid(self.output.logits, self.canvas, self._may_end)
        return self.endings.put_into(forbid(self.output.logits, self.canvas, may_end=False))

    @cached_property
    def endings(self) -> Endings | None:
        """Where rows end, where this pass decides it: the first, save with ``reinject``."""
        how, canvas = self.settings, self.canvas
        if not self._may_end or how.reinject or canvas.special.eos is None:
            return None
        drawn = None if self._joint is None else self._joint.whole()[1]
        return Endings.decided(self.output.logits, canvas, self.noise, how, drawn)

    @property
    def _may_end(self) -> bool:
        return self.settings.may_end and (self.settings.reinject or self.step == 1)

    @cached_property
    def _joint(self) -> JointDraws | BestDraws | None:
        joint, how = self.output.joint, self.settings
        if joint is None:
            return None
        weights = self.laid_out(joint.head) if joint.steps_in_numpy() else None
        noise, truncation = self.noise, how.truncation
        facts = joint, self.canvas, noise, how.temperature, self._may_end, truncation, weights
        # At temperature 0 all draws are alike.
        if how.best_of > 1 and how.temperature > 0:
            return BestDraws(how.best_of, *facts)
        return JointDraws(*facts)

    @cached_property
    def _drawn_alone(self) -> Tensor:
        how = self.settings
        eos = self.canvas.special.eos if self._may_end and self.endings is None else None
        return draw_tokens(self.log_probs_alone, self.noise, how.temperature, eos, how.truncation)

    @cached_property
    def log_probs(self) -> Tensor:
        return self.log_probs_alone if self._joint is None else self._joint.whole()[0]

    @cached_property
    def drawn(self) -> Tensor:
        drawn = self._drawn_alone if self._joint is None else self._joint.whole()[1]
        return drawn if self.endings is None else self.endings.written(drawn)

    @cached_property
    def gate(self) -> Tensor:
        return sigmoid(self.output.gate_logits + self.gate_slope)

    @cached_property
    def entropy(self) -> Tensor:
        if self.teacher is None:
            return normalized_entropy(self.log_probs)
        return normalized_entropy(forbid(self.teacher.logits, self.canvas, self._may_end))

    def at(self, write: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B, L, V)`` and tokens ``(B, L)``, right at ``write`` at least.

        Drawing jointly ends with the last position that any row writes.
        """
        if self._joint is None:
            return self.log_probs_alone, self._drawn_alone
        positions = torch.arange(1, write.shape[1] + 1, device=write.device)
        log_probs, drawn = self._joint.upto(int((positions * write.any(dim=0)).amax()))
        return log_probs, drawn if self.endings is None else self.endings.written(drawn)


def sigmoid(logits: Tensor) -> Tensor:
    """Written out: torch's own rounds the last elements of a batch in another way."""
    return 1.0 / (1.0 + (-logits.float()).exp())
