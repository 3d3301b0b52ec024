"""One pass: what a network takes beside the canvas, and what a policy sees of it and decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from imadarem.config import ImplicitRefinementConfig
from imadarem.corruption import Shape
from imadarem.nn import RefinementOutput
from imadarem.nn.memory import Retrieved
from imadarem.sampling.noise import RowNoise

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

    def beliefs(self, log_probs: Tensor, about: Tensor, keep: bool) -> Tensor:
        """``(B, L, V)`` probabilities for the next pass, about the positions ``about`` ``(B, L)``.

        Elsewhere they are those of this pass's input (``keep``), or zeros: what the logits of a
        written token say is not trained.
        """
        before = self.prev_probs if keep else None
        return torch.where(about[..., None], log_probs.exp(), 0.0 if before is None else before)

    def rows(self, keep: Tensor, width: int) -> PassInputs:
        """The rows ``keep``, numbers, cropped to ``width`` positions."""
        return PassInputs(
            None if self.prev_probs is None else self.prev_probs[keep, :width],
            None if self.carry is None else self.carry[keep, :width],
            None if self.memory is None else self.memory.rows(keep),
        )


def progress(blank: Tensor, written: Tensor) -> Tensor:
    """``(B,)`` share that is written of what the model may write; 0 where that is nothing.

    ``(B, L)`` bool both: what is blank, and what the model wrote.
    """
    done = written.sum(dim=1)
    return done / (done + blank.sum(dim=1)).clamp(min=1)


def reads_beliefs(network: Network) -> bool:
    """Whether a network reads the beliefs of its last pass; an unknown one may."""
    config = getattr(network, "config", None)
    return not isinstance(config, ImplicitRefinementConfig) or config.self_conditioning


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


@dataclass(frozen=True)
class PassView:
    """What a policy may look at: one forward pass over a batch of canvases.

    Attributes:
        step: 1 … ``steps``.
        steps: ``K``, the most steps that are taken.
        open: ``(B, L)`` bool, blanks.
        written: ``(B, L)`` bool, tokens that the model has written and may change.
        log_probs: ``(B, L, V)``, over the tokens that may stand there, in nats.
        drawn: ``(B, L)``, the token drawn at each position.
        gate: ``(B, L)``, probability that the token on the canvas is wrong.
        entropy: ``(B, L)``, of the prediction ÷ ln V, in [0, 1]; from the EMA teacher if
            ``uses_teacher``.
        remaining: ``(B,)``, blanks that the schedule leaves after this step.
        noise: Random numbers of this step, by row.
        schedule: How many blanks each step fills: a name or a function.
        drawn_with: ``(B, L)``, log-probability that the token standing there had when it was
            drawn, nats; 0 where the model did not write. None if it was not recorded.
    """

    step: int
    steps: int
    open: Tensor
    written: Tensor
    log_probs: Tensor
    drawn: Tensor
    gate: Tensor
    entropy: Tensor
    remaining: Tensor
    noise: RowNoise
    schedule: Shape = "linear"
    drawn_with: Tensor | None = None

    @property
    def confidence(self) -> Tensor:
        """``(B, L)`` log-probability of the drawn token, in nats."""
        return self.log_probs.gather(-1, self.drawn[..., None]).squeeze(-1)

    @property
    def to_fill(self) -> Tensor:
        """``(B,)`` blanks to fill by the schedule; at least 1, so that no pass is idle."""
        return (self.open.sum(dim=1) - self.remaining).clamp(min=1)


class Decision(NamedTuple):
    """Two disjoint ``(B, L)`` bool masks.

    Attributes:
        write: Open or written positions that take the drawn token.
        remask: Written positions that become blanks again.
        edit: What was done, by name, where a policy chooses between edits.
        hold: ``(B,)`` bool, rows that must go on even where nothing is blank and little or
            nothing changed; None holds no row.
    """

    write: Tensor
    remask: Tensor
    edit: str = ""
    hold: Tensor | None = None


class Policy(Protocol):
    """The seam for policies of your own: one method and two facts about it.

    Attributes:
        refines: Whether written tokens may change again. A row whose policy does not
            refine stops as soon as it has no blank.
        uses_teacher: Whether ``entropy`` is to come from the EMA teacher, which costs a
            second forward pass.
    """

    @property
    def refines(self) -> bool: ...

    @property
    def uses_teacher(self) -> bool: ...

    def __call__(self, view: PassView) -> Decision:
        """Decide; positions that are neither open nor written are not yours to name."""
        ...
