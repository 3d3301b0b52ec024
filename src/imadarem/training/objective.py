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
from imadarem.config import ImplicitRefinementConfig
from imadarem.corruption import (
    Holes,
    MaskSchedule,
    choose_masked,
    masked_counts,
    stratified_rates,
    with_surplus,
)
from imadarem.errors import ConfigError, DataError
from imadarem.nn import RefinementOutput
from imadarem.sampling.loop import refine
from imadarem.sampling.policies import Ancestral, Policy, policy_from_name
from imadarem.sampling.settings import SamplingSettings
from imadarem.tokenizers import SpecialIds

#: Nats; below it the diversity term pushes the entropy of a blank up.
ENTROPY_FLOOR = 0.5
#: Weight of the independent logits' own loss beside that of a joint head.
INDEPENDENT_WEIGHT = 0.2
#: Largest share of a row that windows hide.
WINDOW_LIMIT = 0.6
#: Share of the batches whose holes get surplus blanks: the others are not padded for them.
SURPLUS_BATCHES = 0.5


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


@dataclass(frozen=True)
class TrainingCanvas:
    """A corrupted batch.

    Attributes:
        canvas: What the network sees. Every token that is no blank counts as WRITTEN, the
            data's and the model's alike: the network does not see which is which.
        targets: ``(B, L)``, the data.
        judged: ``(B, L)`` bool, tokens written by the model, on which the gate is trained.
        blank: ``(B,)`` bool, rows that were left entirely blank on purpose.
        longer: ``(B,)`` bool, rows with holes that have more blanks than tokens.
    """

    canvas: Canvas
    targets: Tensor
    judged: Tensor
    blank: Tensor
    longer: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Builds training canvases and scores the network on them.

    Args:
        config: Weights, length mode and whether there is a gate to train.
        special: The tokenizer's special ids.
        on_policy_share: Share of the rows whose blanks the model fills itself; 0 trains no gate.
        suffix_share: Share of the rows whose end is masked, as a left-to-right policy leaves it.
        blank_share: Share of the rows that show nothing at all: those of a length share a pass.
        window_share: Share of the rows that hide one or two windows, of up to 60 % of the row
            together. What the three shares leave hides scattered positions.
        surplus: Blanks at most that the holes of a row have beyond their tokens, in half of the
            batches and in rows that hide windows or their end. Needs the token *nothing*.
        grid: Draw mask rates from the seed's grid ``1 - t/K``, ``t = 0 … K - 1``, instead of
            the stratified continuum.
    """

    config: ImplicitRefinementConfig
    special: SpecialIds
    on_policy_share: float = 0.5
    suffix_share: float = 0.0
    blank_share: float = 0.0
    window_share: float = 0.0
    surplus: int = 0
    grid: bool = False

    def __post_init__(self) -> None:
        shares = ("on_policy_share", "suffix_share", "blank_share", "window_share")
        checks.share(**{name: getattr(self, name) for name in shares})
        if self.suffix_share + self.blank_share + self.window_share > 1.0 + 1e-9:
            raise ConfigError(
                f"suffix_share={self.suffix_share}, blank_share={self.blank_share} and "
                f"window_share={self.window_share} must add up to at most 1; the rest of the "
                "rows hides scattered positions."
            )
        if self.surplus and self.special.nothing is None:
            raise ConfigError(
                f"surplus={self.surplus} needs a tokenizer with a token for nothing. Use "
                "tokenizer.with_nothing(), or surplus=0."
            )
        if self.surplus and self.config.length_mode != "drawn":
            raise ConfigError(
                f"surplus={self.surplus} needs length_mode='drawn'. Set it, or surplus=0."
            )

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

    def corrupt(
        self, input_ids: Tensor, attention_mask: Tensor | None, generator: torch.Generator
    ) -> TrainingCanvas:
        """Hide part of each row, as sampling will: by EOS or at a known length.

        With ``length_mode="eos"`` every row is as long as a canvas and filled up with EOS,
        so that a blank behind the end differs from one before it only by what the network reads; a
        visible EOS hides what lies behind it, as in sampling.

        Raises:
            DataError: The batch is empty or too long.
        """
        targets, inside = self._canvas_rows(input_ids, attention_mask)
        device = targets.device
        targets, inside = targets.cpu(), inside.cpu()
        lengths = inside.sum(dim=1)
        rates = (
            MaskSchedule(self.config.max_refinement_steps).grid_rates(len(targets), generator)
            if self.grid
            else stratified_rates(len(targets), generator)
        )
        blank, ends, windows = self._kinds(len(targets), generator)
        rates = torch.where(windows, WINDOW_LIMIT * rates, rates)
        counts = torch.where(blank, lengths, masked_counts(rates, lengths))
        hidden = choose_masked(counts, inside, generator)
        longer = torch.zeros_like(blank)
        if bool((ends | windows).any()):
            holes = Holes.at_the_end(counts, lengths)
            if bool(windows.any()):
                drawn = Holes.windows(counts, lengths, generator, empty=self.surplus > 0)
                holes = drawn.where(windows, holes)
            hidden = torch.where((ends | windows)[:, None], holes.hidden(inside.shape[1]), hidden)
            if self.surplus and torch.rand((), generator=generator) < SURPLUS_BATCHES:
                room = (self.config.max_seq_len - lengths - holes.present.sum(dim=1)).clamp(min=-1)
                longer = (ends | windows) & (room >= 0)
                most = room.clamp(min=0, max=self.surplus)
                extra = holes.surplus(most, generator) + holes.present
                extra = extra * longer[:, None]
                assert self.special.nothing is not None
                targets, hidden, lengths = with_surplus(
                    targets, hidden, lengths, holes.ends, extra, self.special.nothing
                )
                inside = torch.arange(targets.shape[1]) < lengths[:, None]
        state = torch.where(hidden, State.OPEN, State.WRITTEN)
        state = torch.where(inside, state, State.PAD).to(torch.uint8)
        ids = targets.masked_fill(hidden, self.special.mask).masked_fill(~inside, self.special.pad)
        canvas = Canvas(ids, state, self.special).to(device).freeze_endings()
        judged = torch.zeros(targets.shape, dtype=torch.bool, device=device)
        return TrainingCanvas(canvas, targets.to(device), judged, blank, longer)

    def _kinds(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Which rows show nothing, hide their end, hide windows: ``(B,)`` bool each."""
        blank = torch.zeros(rows, dtype=torch.bool)
        blank[: int(self.blank_share * rows)] = True
        draw = torch.rand(rows, generator=generator) * (1.0 - self.blank_share)
        ends = ~blank & (draw < self.suffix_share)
        windows = ~blank & ~ends & (draw < self.suffix_share + self.window_share)
        return blank, ends, windows

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
        policy, steps = policy_from_name(None, self.config), self.config.max_refinement_steps
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

    def _canvas_rows(self, ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Targets and real positions, both ``(B, L)``, on canvases as sampling has them."""
        if ids.ndim != 2 or ids.numel() == 0:
            raise DataError(f"a batch must be (B, L) ids with B, L ≥ 1; got {tuple(ids.shape)}.")
        checks.canvas_length(ids.shape[1], self.config.max_seq_len, "each row of this batch")
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        inside = everywhere if attention_mask is None else attention_mask.bool()
        if self.config.length_mode == "drawn" or self.special.eos is None:
            return ids, inside
        behind = (0, self.config.max_seq_len - ids.shape[1])
        ids, inside = F.pad(ids, behind), F.pad(inside, behind)
        return ids.masked_fill(~inside, self.special.eos), torch.ones_like(inside)

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
