"""One pass of the loop: what a network takes beside the canvas, and what its output says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.config import ImplicitRefinementConfig
from imadarem.nn import RefinementOutput
from imadarem.nn.heads import JointHead
from imadarem.nn.memory import Retrieved
from imadarem.sampling.draw import draw_tokens, forbid, normalized_entropy
from imadarem.sampling.joint_draws import JointDraws, StepWeights
from imadarem.sampling.policies import PassView
from imadarem.sampling.settings import SamplingSettings

__all__ = ["LoopView", "PassInputs", "forward_unique_rows", "sigmoid"]

Network = Callable[..., RefinementOutput]


@dataclass(frozen=True)
class PassInputs:
    """What a pass takes beside the canvas: from the last pass, and from a memory.

    Attributes:
        prev_probs: ``(B, L, V)`` beliefs about blanks.
        carry: ``(B, L, D)``.
        memory: Earlier canvases.
    """

    prev_probs: Tensor | None = None
    carry: Tensor | None = None
    memory: Retrieved | None = None

    def read_by(
        self, network: Network, ids: Tensor, attended: Tensor | None, first: bool = False
    ) -> RefinementOutput:
        """One pass. Keywords are given only where there is something: a network may know fewer."""
        if first and self.memory is None:
            return forward_unique_rows(network, ids, attended)
        optional = {"carry": self.carry, "memory": self.memory}
        given: dict[str, Any] = {name: x for name, x in optional.items() if x is not None}
        return network(ids, attended, prev_probs=self.prev_probs, **given)

    def after(self, network: Network, view: LoopView, write: Tensor, reinject: bool) -> PassInputs:
        """What a pass that wrote at ``write`` ``(B, L)`` hands to the next one.

        Beliefs are those about blanks: what a written token's logits say is not trained, except
        where the network is shown a blank in its place (``reinject``).
        """
        config = getattr(network, "config", None)
        beliefs = None
        # An unknown network may read the beliefs of its last pass.
        if not isinstance(config, ImplicitRefinementConfig) or config.self_conditioning:
            where = write if reinject else view.open
            before = self.prev_probs if reinject else None
            probs = view.log_probs_alone.exp()
            beliefs = torch.where(where[..., None], probs, 0.0 if before is None else before)
        return PassInputs(beliefs, view.output.carry, self.memory)

    def rows(self, keep: Tensor, width: int) -> PassInputs:
        """The rows ``keep``, numbers, cropped to ``width`` positions."""
        return PassInputs(
            None if self.prev_probs is None else self.prev_probs[keep, :width],
            None if self.carry is None else self.carry[keep, :width],
            None if self.memory is None else self.memory.rows(keep),
        )


def forward_unique_rows(network: Network, ids: Tensor, attended: Tensor | None) -> RefinementOutput:
    """A pass whose only input is the canvas; equal rows go through the network once.

    The first pass of a run reads blanks, the same number of them in many rows; copies of a
    prompt are equal too. Only on a CPU, and only for a network that has ``rows_independent``: no
    row's numbers depend on another row. Any other one is called with all rows.

    Args:
        network: Called as ``network(input_ids, attention_mask, prev_probs=None)``.
        ids: ``(B, L)``.
        attended: ``(B, L)`` bool; None where every position is.

    Returns:
        Of all ``B`` rows.
    """
    alike = getattr(network, "rows_independent", False) and ids.device.type == "cpu"
    if len(ids) == 1 or not alike:
        return network(ids, attended, prev_probs=None)
    key = ids if attended is None else 2 * ids + attended
    _, first, which = np.unique(key.numpy(), axis=0, return_index=True, return_inverse=True)
    if len(first) == len(ids):
        return network(ids, attended, prev_probs=None)
    rows = torch.from_numpy(first)
    some = None if attended is None else attended[rows]
    return network(ids[rows], some, prev_probs=None).spread(torch.from_numpy(which.reshape(-1)))


class LoopView(PassView):
    """A :class:`PassView` of a pass; its costly fields are computed when they are read.

    Args:
        output: Of the network.
        teacher: Output of the teacher, where it judges the entropy.
        canvas: Says which tokens may stand where.
        settings: How to draw.
        laid_out: Gives the weights of a joint head for its steps.
        gate_slope: ``(B, 1)``, added to the gate's logits.
        facts: The other fields of :class:`PassView`.
    """

    output: RefinementOutput
    teacher: RefinementOutput | None
    _canvas: Canvas
    _settings: SamplingSettings
    _laid_out: Callable[[JointHead], StepWeights]
    _gate_slope: Tensor

    def __init__(
        self,
        output: RefinementOutput,
        teacher: RefinementOutput | None,
        canvas: Canvas,
        settings: SamplingSettings,
        laid_out: Callable[[JointHead], StepWeights],
        gate_slope: Tensor,
        **facts: Any,
    ) -> None:
        how = {"output": output, "teacher": teacher, "_canvas": canvas, "_settings": settings}
        self.__dict__.update(facts, **how, _laid_out=laid_out, _gate_slope=gate_slope)

    @cached_property
    def log_probs_alone(self) -> Tensor:
        """``(B, L, V)`` log-probabilities of each position by itself."""
        return forbid(self.output.logits, self._canvas, self._settings.may_end)

    @cached_property
    def _joint(self) -> JointDraws | None:
        joint, how = self.output.joint, self._settings
        if joint is None:
            return None
        weights = self._laid_out(joint.head) if joint.steps_in_numpy() else None
        return JointDraws(
            joint, self._canvas, self.noise, how.temperature, how.may_end, how.truncation, weights
        )

    @cached_property
    def _drawn_alone(self) -> Tensor:
        how = self._settings
        eos = self._canvas.special.eos if how.may_end else None
        return draw_tokens(self.log_probs_alone, self.noise, how.temperature, eos, how.truncation)

    @cached_property
    def log_probs(self) -> Tensor:
        return self.log_probs_alone if self._joint is None else self._joint.whole()[0]

    @cached_property
    def drawn(self) -> Tensor:
        return self._drawn_alone if self._joint is None else self._joint.whole()[1]

    @cached_property
    def gate(self) -> Tensor:
        return sigmoid(self.output.gate_logits + self._gate_slope)

    @cached_property
    def entropy(self) -> Tensor:
        if self.teacher is None:
            return normalized_entropy(self.log_probs)
        return normalized_entropy(forbid(self.teacher.logits, self._canvas, self._settings.may_end))

    def at(self, write: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B, L, V)`` and tokens ``(B, L)``, right at ``write`` at least.

        Drawing jointly ends with the last position that any row writes.
        """
        if self._joint is None:
            return self.log_probs_alone, self._drawn_alone
        positions = torch.arange(1, write.shape[1] + 1, device=write.device)
        return self._joint.upto(int((positions * write.any(dim=0)).amax()))


def sigmoid(logits: Tensor) -> Tensor:
    """Written out: torch's own rounds the last elements of a batch in another way."""
    return 1.0 / (1.0 + (-logits.float()).exp())
