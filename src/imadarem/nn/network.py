"""The refiner's network: a backbone and the heads that read its states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError
from imadarem.nn.joint import JointHead
from imadarem.nn.judge import HaltingHead, JudgeHead, JudgeLogits
from imadarem.nn.memory import Retrieved
from imadarem.nn.transformer import BackboneOutput, RefinementTransformer

#: Bounds of the probability of a token in its place: its logarithm, and its distance from 1.
LEAST_LOG_PROB, SMALLEST = -15.0, 1e-6


class RefinementNetwork(nn.Module):
    """Canvas in, token, gate and halting logits out: no sampling, no loss.

    Args:
        config: The architecture.
        mask_token_id: The id of a blank.
        backbone: Called as ``backbone(input_ids, attention_mask, time=…, prev_probs=…, carry=…,
            memory=…)``, gives :class:`BackboneOutput`; None builds the one that the config
            describes, or the project's own.
    """

    def __init__(
        self,
        config: ImplicitRefinementConfig,
        mask_token_id: int,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.backbone = backbone or _backbone_of(config, mask_token_id)
        self.gate = RefineGate(width, config.gate_bias_init)
        self.judge = JudgeHead(config) if config.judge else None
        self.halt = HaltingHead(width) if config.halting else None
        self.joint = (
            JointHead(width, config.vocab_size, config.joint_size, mask_token_id)
            if config.joint_size
            else None
        )

    def train(self, mode: bool = True) -> Self:
        """As in torch; returns at once if every part is in evaluation mode already."""
        if not mode and not any(part.training for part in self.modules()):
            return self
        return super().train(mode)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        time: Tensor | None = None,
        prev_probs: Tensor | None = None,
        carry: Tensor | None = None,
        memory: Retrieved | None = None,
        condition: Tensor | None = None,
        targets: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> RefinementOutput:
        """One pass over a canvas.

        Args:
            input_ids: ``(B, L)`` token ids, blanks as the mask id.
            attention_mask: ``(B, L)``, nonzero where a token is real; ``None`` means all
                are. What lies under a zero never influences the rest.
            time: ``(B,)``, ``t / K`` in [0, 1]; ``None`` reads it off the canvas as the
                share of real positions that are not blank.
            prev_probs: ``(B, L, V)``, the previous pass's probabilities, used where the
                canvas is still blank (a written token must not betray how it was drawn,
                or the gate judges its odds instead of its fit).
            carry: ``(B, L, D)``, the ``carry`` of the last step's output; None starts afresh.
            memory: Earlier canvases to look at; None, or none for a row, changes nothing.
            condition: ``(B, C)``, what the rows are to be like, by
                :func:`imadarem.conditions.as_numbers`; None, or NaN for a row, asks for nothing.
            targets: ``(B, L)`` the data's tokens, for ``joint_logits``: each position reads
                those left of it, as they will stand there when its turn comes.
            rows: ``(R,)`` indices into the batch, to judge a canvas for several targets in one
                pass: everything returned, and ``targets``, then has ``R`` rows.

        Raises:
            DataError: The canvas is longer than the backbone takes.
            ConfigError: A carry, a memory, a condition or targets are given to a model built
                without.
        """
        if condition is not None and self.config.conditions is None:
            raise ConfigError(
                "this model was trained without conditions; give none, or train it with some "
                "(imadarem train --condition NAME)."
            )
        if targets is not None and self.joint is None:
            raise ConfigError(
                "this model has no joint head to read targets; build it with joint_size > 0."
            )
        asked = {} if condition is None else {"condition": condition}
        read: BackboneOutput = self.backbone(
            input_ids,
            attention_mask,
            time=time,
            prev_probs=prev_probs,
            carry=carry,
            memory=memory,
            **asked,
        )
        joint_logits = None
        if self.joint is not None and targets is not None:
            joint_logits = self.joint(read.states, targets, rows)
        attended = None if attention_mask is None else attention_mask.bool()
        states, logits = read
        gate = self._gate_logits(states, logits, input_ids)
        if rows is not None:
            states, logits, gate = states[rows], logits[rows], gate[rows]
            attended = None if attended is None else attended[rows]
        joint = None
        if self.joint is not None and targets is None:
            joint = JointLogits(self.joint, logits, states)
        return RefinementOutput(
            logits=logits,
            gate_logits=gate,
            halt_logits=None if self.halt is None else self.halt(states, attended),
            carry=states if self.config.carry else None,
            joint=joint,
            joint_logits=None if joint_logits is None else logits + joint_logits,
        )

    def judged(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[JudgeLogits, Tensor]:
        """One pass over rows as they stand: what the judge says, and the gate, ``(B, L)``."""
        read = self.read_in_place(input_ids, attention_mask)
        if read.judge is None:
            raise ConfigError("this model has no judge; with_judge() gives it an untrained one.")
        return read.judge, read.gate_logits

    def read_in_place(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> InPlaceOutput:
        """One pass over rows as they stand: the logits of each token, and what the judge says.

        With a joint head the logits are those given the tokens left of a position.
        """
        states, logits = self.backbone(input_ids, attention_mask)
        attended = None if attention_mask is None else attention_mask.bool()
        own = logits if self.joint is None else logits + self.joint(states, input_ids)
        judge = None
        if self.judge is not None:
            judge = self.judge(states, logits, own, input_ids, attended)
        return InPlaceOutput(states, own, self._gate_logits(states, logits, input_ids), judge)

    def _gate_logits(self, states: Tensor, logits: Tensor, ids: Tensor) -> Tensor:
        """States, token logits and ids of a pass → ``(B, L)`` calibrated logits of the gate."""
        gate: Tensor = self.gate(states)
        if self.config.gate_from_likelihood:
            gate = gate + _doubt(logits, ids)
        return gate / self.config.gate_temperature + self.config.gate_offset


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


@dataclass(frozen=True)
class JointLogits:
    """The logits of one pass, to be read from left to right as tokens are drawn.

    Attributes:
        head: Reads the tokens on the left.
        logits: ``(B, L, V)``, of each position by itself.
        states: ``(R, L, D)``.
        rows: ``(B,)``, which row of ``states`` each row of ``logits`` reads; None pairs them.
    """

    head: JointHead
    logits: Tensor
    states: Tensor
    rows: Tensor | None = None

    def spread(self, which: Tensor) -> Self:
        """``(B,)`` row numbers → those rows; the states are not copied."""
        rows = which if self.rows is None else self.rows[which]
        return replace(self, logits=self.logits[which], rows=rows)


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


class InPlaceOutput(NamedTuple):
    """What a pass over finished rows returns.

    Attributes:
        states: ``(B, L, D)``.
        logits: ``(B, L, V)`` of each token in its place, read with all others and itself.
        gate_logits: ``(B, L)``, of the calibrated gate.
        judge: What the judge says; None without one.
    """

    states: Tensor
    logits: Tensor
    gate_logits: Tensor
    judge: JudgeLogits | None


def _backbone_of(config: ImplicitRefinementConfig, mask_token_id: int) -> nn.Module:
    """The backbone that a config describes, with random weights."""
    if config.backbone is None:
        return RefinementTransformer(config, mask_token_id)
    # Loads transformers, which the project's own network does without.
    from imadarem.backbones.masked_lm import build_backbone

    return build_backbone(config)


def _doubt(logits: Tensor, ids: Tensor) -> Tensor:
    """``(B, L)`` logits of ``1 - p``, with ``p`` the probability of the token in its place."""
    own = logits.gather(-1, ids[..., None]).squeeze(-1).float()
    log_p = (own - logits.float().logsumexp(dim=-1)).clamp(LEAST_LOG_PROB, -SMALLEST)
    return (-log_p.expm1()).log() - log_p
