"""Held-out figures of a refiner: its token loss, and how well the gate judges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.data.corpus import TokenCorpus, collate
from imadarem.evaluation.calibration import area_under_roc, expected_calibration_error
from imadarem.training.objective import Objective

__all__ = ["Validation", "fit_gate_temperature", "judge_own_tokens", "validate"]


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


def fit_gate_temperature(
    network: nn.Module, objective: Objective, corpus: TokenCorpus, *, seed: int = 1
) -> float:
    """The temperature that makes the gate's probabilities fit what is wrong.

    Minimises ``BCE(logits / T, wrong)`` over ``T`` on held-out canvases that the model filled
    (temperature scaling, arXiv:1706.04599); ``T`` stays within [0.05, 20].

    Returns:
        The value for ``ImplicitRefinementConfig.gate_temperature``.
    """
    scaled, wrong = judge_own_tokens(network, objective, corpus, seed=seed)
    logits = scaled * objective.config.gate_temperature
    log_t = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logits / log_t.exp(), wrong.float())
        loss.backward()
        return loss

    optimizer.step(closure)
    return min(max(math.exp(log_t.item()), 0.05), 20.0)


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
