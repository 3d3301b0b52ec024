"""Held-out figures of a refiner: its token loss, and how well the gate judges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.data.corpus import TokenCorpus, collate
from imadarem.evaluation.calibration import area_under_roc, expected_calibration_error
from imadarem.sampling.passes import progress
from imadarem.training.objective import Objective


@dataclass(frozen=True)
class Validation:
    """Figures on held-out rows; the same masks and draws at every call.

    Attributes:
        loss: Masked-diffusion bound, nats per token; canvases of real data only.
        gate_auroc: Area under the ROC of the gate on the model's own tokens; NaN without.
        gate_ece: Expected calibration error of the same.
        gate_mean: Mean gate probability of the same.
        wrong_share: Share of those tokens that differ from the data.
    """

    loss: float
    gate_auroc: float
    gate_ece: float
    gate_mean: float
    wrong_share: float

    def to_dict(self) -> dict[str, float | None]:
        """The figures as JSON values, NaN as None."""
        return {k: None if math.isnan(v) else v for k, v in asdict(self).items()}

    record = to_dict

    @classmethod
    def from_dict(cls, figures: Mapping[str, float | None]) -> Validation:
        """The inverse of :meth:`to_dict`."""
        return cls(**{k: math.nan if v is None else v for k, v in figures.items()})


def validate(
    network: nn.Module,
    objective: Objective,
    corpus: TokenCorpus,
    *,
    batch_size: int = 250,
    seed: int = 0,
) -> Validation:
    """Measure ``network`` on every row of ``corpus``.

    Args:
        network: Put into evaluation mode for the time of the call.
        objective: Its corruption and rollouts are used; not its weights.
        corpus: Held-out rows.
        batch_size: Rows at a time.
        seed: Of the masks and draws.
    """
    loss = _token_loss(network, objective, corpus, batch_size, seed)
    if not objective.config.use_refine_gate:
        return Validation(loss, math.nan, math.nan, math.nan, math.nan)
    logits, wrong = judge_own_tokens(network, objective, corpus, batch_size=batch_size, seed=seed)
    gate = logits.sigmoid()
    return Validation(
        loss=loss,
        gate_auroc=area_under_roc(gate, wrong),
        gate_ece=expected_calibration_error(gate, wrong),
        gate_mean=gate.mean().item(),
        wrong_share=wrong.float().mean().item(),
    )


@torch.no_grad()
def judge_own_tokens(
    network: nn.Module,
    objective: Objective,
    corpus: TokenCorpus,
    *,
    batch_size: int = 250,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Let the model fill blanks of every row and judge what it wrote.

    Returns:
        Gate logits ``(N,)`` of the tokens it wrote, and whether each differs from the data,
        ``(N,)`` bool; both on the CPU.
    """
    whole = replace(objective, on_policy_share=1.0)
    logits, wrong = [], []
    with _evaluating(network):
        for ids, inside, generator in _batches(network, objective, corpus, batch_size, seed):
            batch = whole.fill(whole.corrupt(ids, inside, generator), network, generator)
            gate = network(batch.canvas.ids, batch.canvas.attention_mask).gate_logits
            logits.append(gate[batch.judged].float().cpu())
            wrong.append((batch.canvas.ids != batch.targets)[batch.judged].cpu())
    return torch.cat(logits), torch.cat(wrong)


#: Bound of the logarithm of the gate's temperature, and weight of the squares of its other two.
LOG_TEMPERATURE, PULL = math.log(20.0), 1e-6


@dataclass(frozen=True)
class GateCalibration:
    """What makes a gate's logit honest: ``g / temperature + offset + progress_slope · s``.

    ``s`` is the share that is written of what the model may write. The fields are settings of
    :class:`~imadarem.ImplicitRefinementConfig` with ``gate_`` in front of their names.
    """

    temperature: float = 1.0
    offset: float = 0.0
    progress_slope: float = 0.0

    def apply(self, config: ImplicitRefinementConfig) -> None:
        """Write the fit into a model's settings."""
        config.gate_temperature = self.temperature
        config.gate_offset = self.offset
        config.gate_progress_slope = self.progress_slope


def fit_gate_calibration(
    network: nn.Module, objective: Objective, corpus: TokenCorpus, *, seed: int = 1
) -> GateCalibration:
    """Fit all three numbers on canvases that the sampler's own policy filled.

    Minimises the binary cross-entropy of "this token is wrong" (Platt scaling, with the
    progress as a second feature) over held-out rows of which a part is hidden and written
    anew in 1 to ``K - 1`` of ``K`` steps: the canvases that the passes 2 to ``K`` judge. The
    temperature stays within [0.05, 20], and a slight pull to 0 keeps the other two finite where
    the gate makes no mistake on these rows.
    """
    logits, shares, wrong = _judged_by_policy(network, objective, corpus, seed)
    log_t = torch.zeros((), requires_grad=True)
    shift = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t, shift], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scale = log_t.clamp(-LOG_TEMPERATURE, LOG_TEMPERATURE).exp()
        fitted = logits / scale + shift[0] + shift[1] * shares
        loss = F.binary_cross_entropy_with_logits(fitted, wrong.float())
        loss = loss + PULL * shift.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    temperature = math.exp(min(max(log_t.item(), -LOG_TEMPERATURE), LOG_TEMPERATURE))
    return GateCalibration(temperature, shift[0].item(), shift[1].item())


@torch.no_grad()
def _judged_by_policy(
    network: nn.Module, objective: Objective, corpus: TokenCorpus, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every token the model wrote: its uncalibrated logit, the progress, whether it is wrong."""
    config = objective.config
    whole = replace(objective, on_policy_share=1.0, suffix_share=0.0, blank_share=0.0)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with _evaluating(network):
        for stop in range(1, max(config.max_refinement_steps, 2)):
            for ids, inside, generator in _batches(network, objective, corpus, 250, seed + stop):
                corrupted = whole.corrupt(ids, inside, generator)
                batch = whole.fill(corrupted, network, generator, stop)
                canvas = batch.canvas
                gate: Tensor = network(canvas.ids, canvas.attention_mask).gate_logits.float()
                raw = (gate - config.gate_offset) * config.gate_temperature
                done = progress(canvas.open, batch.judged)[:, None].expand_as(gate)
                wrong = canvas.ids != batch.targets
                judged = batch.judged
                parts.append((raw[judged].cpu(), done[judged].cpu(), wrong[judged].cpu()))
    logits, shares, labels = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(shares), torch.cat(labels)


@torch.no_grad()
def _token_loss(
    network: nn.Module, objective: Objective, corpus: TokenCorpus, batch_size: int, seed: int
) -> float:
    plain = replace(objective, on_policy_share=0.0)
    total = 0.0
    with _evaluating(network):
        for ids, inside, generator in _batches(network, objective, corpus, batch_size, seed):
            total += plain(network, ids, inside, generator).token.item() * len(ids)
    return total / len(corpus)


def _batches(
    network: nn.Module, objective: Objective, corpus: TokenCorpus, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """Every row, sorted by length, with one generator for all masks and draws."""
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    order = corpus.lengths.argsort(kind="stable")
    for start in range(0, len(corpus), batch_size):
        rows = [corpus[i] for i in order[start : start + batch_size]]
        ids, inside = collate(rows, objective.special.pad)
        yield ids.to(device), inside.to(device), generator


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
