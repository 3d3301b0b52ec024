"""What a forward pass returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from imadarem.nn.joint import JointLogits
from imadarem.nn.judge import JudgeLogits

__all__ = ["BackboneOutput", "InPlaceOutput", "RefinementOutput"]


class BackboneOutput(NamedTuple):
    """What a backbone returns: the input of all heads, and the token logits.

    Attributes:
        states: ``(B, L, D)``.
        logits: ``(B, L, V)``, unnormalised log-probabilities of the token at each position.
    """

    states: Tensor
    logits: Tensor


class InPlaceOutput(NamedTuple):
    """What a pass over finished rows returns.

    Attributes:
        states: ``(B, L, D)``.
        logits: ``(B, L, V)`` of each token in its place, read with all others and itself.
        judge: What the judge says; None without one.
    """

    states: Tensor
    logits: Tensor
    judge: JudgeLogits | None


class RefinementOutput(NamedTuple):
    """What one forward pass of a refiner returns.

    Attributes:
        logits: ``(B, L, V)``, unnormalised log-probabilities of the token at each position.
        gate_logits: ``(B, L)``, logit that the token now standing there should be predicted
            again, calibrated by the config's ``gate_temperature`` and ``gate_offset``.
        halt_logits: ``(B,)``, logit that the most likely tokens of this pass are the right
            answer; None without ``config.halting``.
        carry: ``(B, L, D)``, the state to hand to the next step; None without
            ``config.carry``.
        joint: Draws the blanks of this pass jointly; ``logits`` are then those of each
            blank by itself. None without ``config.joint_size``.
        joint_logits: ``(B, L, V)``, those of each token given the ``targets`` left of it;
            None unless ``targets`` were given.
    """

    logits: Tensor
    gate_logits: Tensor
    halt_logits: Tensor | None = None
    carry: Tensor | None = None
    joint: JointLogits | None = None
    joint_logits: Tensor | None = None

    def spread(self, which: Tensor) -> RefinementOutput:
        """``(R,)`` row numbers → the output of these ``R`` rows; one row for all is a view."""

        def rows(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            if len(tensor) == 1:
                return tensor.expand(len(which), *tensor.shape[1:])
            return tensor[which]

        logits, gate, halt, carry, joint, joint_logits = self
        joint = None if joint is None else joint.spread(which)
        parts = (rows(logits), rows(gate), rows(halt), rows(carry), joint, rows(joint_logits))
        return RefinementOutput._make(parts)
