"""What the refiner is trained on: tokens under a mask, and a gate that judges its own.

``loss = token + diversity_weight · diversity + gate_weight · gate``

- *token*: cross-entropy of the blanks, summed over a row, divided by the ``m`` tokens of the
  data and ends of holes among them, and averaged over the rows that show nothing but data.
  With scattered blanks alone, whose rates are stratified over (0, 1], its mean is the
  masked-diffusion bound in nats per token (MDLM, arXiv:2406.07524, eq. 10 with the linear
  schedule).
  With a joint head it is the cost of each blank given the tokens left of it too, and the
  cross-entropy of each blank by itself is added at ``INDEPENDENT_WEIGHT``.
- *diversity*: entropy floor ``relu(0.5 - H)``, ``H`` in nats, on the blanks.
- *gate*: binary cross-entropy of "the token standing here is not the one of the data", on
  tokens that the model itself wrote. A share of the rows are canvases tied to a real
  sequence: part of it is masked, the model fills some or all of the blanks, and the gate
  judges without knowing which tokens were filled. Its gradient reaches the trunk too.
  (PRISM, arXiv:2510.01384; RemeDi, arXiv:2509.23653.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem import checks
from imadarem.canvas import Canvas, State
from imadarem.corruption import Corruption, TrainingCanvas, choose_masked
from imadarem.nn import RefinementOutput
from imadarem.sampling.loop import refine
from imadarem.sampling.policies import Ancestral
from imadarem.sampling.policy import Policy, own_policy
from imadarem.sampling.settings import SamplingSettings

#: Nats; below it the diversity term pushes the entropy of a blank up.
ENTROPY_FLOOR = 0.5
#: Weight of the independent logits' own loss beside that of a joint head.
INDEPENDENT_WEIGHT = 0.2


class LossTerms(NamedTuple):
    """The loss and its parts, scalars; ``total`` carries the graph.

    Attributes:
        total: The weighted sum that is minimised.
        token: Mean cross-entropy of a blank, nats per token; with a joint head, given what
            stands left of it in the data.
        diversity: Mean shortfall of the entropy below the floor, nats.
        gate: Mean binary cross-entropy of a model-written token, nats.
    """

    total: Tensor
    token: Tensor
    diversity: Tensor
    gate: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective(Corruption):
    """Builds training canvases and scores the network on them.

    Takes what :class:`~imadarem.corruption.Corruption` takes, and one more.

    Args:
        on_policy_share: Share of the rows whose blanks the model fills itself; 0 trains no gate.
    """

    on_policy_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.share(on_policy_share=self.on_policy_share)

    def __call__(
        self,
        network: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        generator: torch.Generator,
        rollout: nn.Module | None = None,
        condition: Tensor | None = None,
    ) -> LossTerms:
        """Corrupt a batch and score it.

        Args:
            network: The network to train, possibly wrapped for several processes.
            input_ids: ``(B, L)`` token ids of the data.
            attention_mask: ``(B, L)``, nonzero where a token is real; None means all are.
            generator: On the CPU; the only source of randomness but for dropout.
            rollout: The network that fills canvases, without a graph; default ``network``.
            condition: ``(B, C)`` what the rows are like, as the network reads it.
        """
        batch = self.corrupt(input_ids, attention_mask, generator)
        batch = replace(batch, canvas=replace(batch.canvas, condition=condition))
        filler = network if rollout is None else rollout
        if self.config.use_refine_gate and self.on_policy_share > 0:
            batch = self.fill(batch, filler, generator)
        prev_probs = self._beliefs(filler, batch.canvas, generator)
        return self.score(self._read(network, batch, prev_probs), batch)

    def fill(
        self,
        batch: TrainingCanvas,
        network: nn.Module,
        generator: torch.Generator,
        stop: int | None = None,
    ) -> TrainingCanvas:
        """Let the model fill blanks of ``on_policy_share`` of the rows.

        Half of these rows are filled in one pass, and a random share of what was written is
        blanked again. The other half goes through the sampler's own policy for the first 1
        to ``K`` of its ``K`` steps: the canvases that the gate will read when it is used.
        With ``stop`` all of them go through the first ``stop`` of these steps.
        """
        # A canvas filled from nothing has no original that would say what is wrong on it.
        apart = batch.blank if batch.longer is None else batch.blank | batch.longer
        tied = (~apart).nonzero().squeeze(1)
        count = round(self.on_policy_share * len(tied))
        chosen = tied[torch.randperm(len(tied), generator=generator)[:count]]
        half = count // 2 if stop is None else 0
        at_once, by_policy = chosen[:half], chosen[half:]
        policy, steps = own_policy(self.config), self.config.max_refinement_steps
        if stop is None:
            stop = int(torch.randint(1, steps + 1, (), generator=generator))
        filled = self._roll_out(batch.canvas, at_once, network, Ancestral(), 1, 1, generator)
        blank_again = self._some_of(filled.written & batch.canvas.open, at_once, generator)
        filled = filled.remask(blank_again)
        filled = self._roll_out(filled, by_policy, network, policy, steps, stop, generator)
        judged = batch.canvas.open & filled.written
        return replace(batch, canvas=filled, judged=judged)

    def score(self, output: RefinementOutput, batch: TrainingCanvas) -> LossTerms:
        """The loss terms of one pass over a training canvas."""
        judged = batch.judged
        # Rows with tokens of the model teach the gate alone. Asked for the data behind its own
        # mistakes, the model learns to distrust what stands on a canvas, and samples fall apart.
        blanks = batch.canvas.open & ~judged.any(dim=1, keepdim=True)
        token = diversity = gate = output.logits.sum() * 0.0
        independent = None
        if bool(blanks.any()):
            log_probs = output.logits[blanks].float().log_softmax(dim=-1)
            per_row = (blanks & ~self._follows_end(batch.targets)).sum(dim=1)
            weight = (1.0 / per_row.clamp(min=1))[:, None].expand_as(blanks)[blanks]
            weight = weight / blanks.any(dim=1).sum()
            targets = batch.targets[blanks]
            token = (F.nll_loss(log_probs, targets, reduction="none") * weight).sum()
            if output.joint_logits is not None:
                independent = token
                joint = output.joint_logits[blanks].float()
                token = (F.cross_entropy(joint, targets, reduction="none") * weight).sum()
            entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
            diversity = (ENTROPY_FLOOR - entropy).relu().mean()
        if bool(judged.any()):
            wrong = (batch.canvas.ids != batch.targets)[judged].float()
            gate = F.binary_cross_entropy_with_logits(output.gate_logits[judged].float(), wrong)
        total = token + self.config.diversity_weight * diversity + self.config.gate_weight * gate
        if independent is not None:
            total = total + INDEPENDENT_WEIGHT * independent
        return LossTerms(total, token.detach(), diversity.detach(), gate.detach())

    def _follows_end(self, targets: Tensor) -> Tensor:
        """``(B, L)`` bool: *nothing* behind *nothing*, of which no choice is left."""
        if self.special.nothing is None:
            return torch.zeros_like(targets, dtype=torch.bool)
        nothing = targets == self.special.nothing
        return nothing & F.pad(nothing[:, :-1], (1, 0))

    def _read(
        self, network: nn.Module, batch: TrainingCanvas, prev_probs: Tensor | None
    ) -> RefinementOutput:
        """One pass; blank canvases of one length go through the network once."""
        canvas, mask = batch.canvas, batch.canvas.attention_mask
        given = {"prev_probs": prev_probs, **canvas.asked}
        if not self.config.joint_size:
            plain: RefinementOutput = network(canvas.ids, mask, **given)
            return plain
        numbers = torch.arange(len(canvas), device=canvas.ids.device)
        blank = batch.blank.to(numbers.device)
        if canvas.condition is not None:
            blank = blank & canvas.condition.isnan().all(dim=1)
        kinds = torch.where(blank, canvas.open.sum(dim=1), -1 - numbers)
        kinds, rows = kinds.unique(return_inverse=True)
        first = torch.zeros_like(kinds).scatter(0, rows, numbers)
        joint: RefinementOutput = network(
            canvas.ids[first],
            None if mask is None else mask[first],
            **{name: None if part is None else part[first] for name, part in given.items()},
            targets=batch.targets,
            rows=rows,
        )
        return joint

    def _roll_out(
        self,
        canvas: Canvas,
        rows: Tensor,
        network: nn.Module,
        policy: Policy,
        steps: int,
        stop: int,
        generator: torch.Generator,
    ) -> Canvas:
        """Fill blanks of some rows by the first ``stop`` of ``steps`` refinement steps."""
        if len(rows) == 0:
            return canvas
        device = canvas.ids.device
        seeds = torch.randint(2**62, (len(rows),), generator=generator).to(device)
        rows = rows.to(device)
        ids, state = canvas.ids.clone(), canvas.state.clone()
        # The data is given while the model fills in, and anonymous again afterwards.
        prompt = state[rows].masked_fill(canvas.written[rows], State.GIVEN)
        condition = None if canvas.condition is None else canvas.condition[rows]
        part = replace(canvas, ids=ids[rows], state=prompt, condition=condition)
        training = network.training
        network.eval()
        # The loop drops rows without blanks at once, so a row's last record is its result.
        for step in refine(
            network,
            part,
            SamplingSettings(
                policy=policy,
                steps=steps,
                temperature=self.config.sampling_temperature,
                may_end=self.config.length_mode == "eos",
                gate_slope=self.config.gate_progress_slope,
            ),
            seeds=seeds,
        ):
            width = step.canvas.ids.shape[1]
            target = rows[step.rows]
            ids[target, :width] = step.canvas.ids
            reached = step.canvas.state
            state[target, :width] = reached.masked_fill(reached == State.GIVEN, State.WRITTEN)
            if step.step == stop:
                break
        network.train(training)
        return replace(canvas, ids=ids, state=state)

    def _some_of(self, eligible: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A uniformly drawn share of the eligible positions of each named row."""
        share = torch.zeros(len(eligible))
        share[rows] = torch.rand(len(rows), generator=generator)
        counts = torch.ceil(share * eligible.sum(dim=1).cpu()).long()
        return choose_masked(counts, eligible.cpu(), generator).to(eligible.device)

    def _beliefs(
        self, network: nn.Module, canvas: Canvas, generator: torch.Generator
    ) -> Tensor | None:
        """A first pass's probabilities, on half of the batches (arXiv:2208.04202)."""
        if not self.config.self_conditioning or torch.rand((), generator=generator) < 0.5:
            return None
        with torch.no_grad():
            logits: Tensor = network(canvas.ids, canvas.attention_mask, **canvas.asked).logits
        return logits.float().softmax(dim=-1)
