"""How far a probability can be trusted: ranking (AUROC) and calibration (ECE)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The probabilities that fell into ``[low, high)``; the last bin holds 1 too.

    Attributes:
        low: Lower end.
        high: Upper end.
        count: How many, at least 1.
        stated: Their mean.
        observed: Share of them whose label is positive.
    """

    low: float
    high: float
    count: int
    stated: float
    observed: float


def area_under_roc(scores: Tensor, labels: Tensor) -> float:
    """Probability that a positive outranks a negative, ties counted half.

    The Mann-Whitney statistic: (sum of the positives' mean ranks - n₊(n₊+1)/2) / (n₊n₋).

    Args:
        scores: ``(N,)``, higher meaning more likely positive.
        labels: ``(N,)`` bool.

    Returns:
        The area in [0, 1]; NaN where one class is absent.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, group, counts = scores.double().unique(return_inverse=True, return_counts=True)
    mean_rank = counts.cumsum(0).double() - (counts - 1) / 2.0
    rank_sum = mean_rank[group][labels].sum().item()
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def expected_calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean gap between stated and observed frequency over equal-width bins.

    ``ECE = Σ_b n_b / N · |mean(probs in b) - mean(labels in b)|`` (arXiv:1706.04599).

    Args:
        probs: ``(N,)`` in [0, 1].
        labels: ``(N,)`` bool.
        bins: Number of bins over [0, 1].
    """
    found = reliability(probs, labels, bins)
    return sum(bin.count * abs(bin.stated - bin.observed) for bin in found) / max(len(probs), 1)


def reliability(probs: Tensor, labels: Tensor, bins: int = 15) -> list[ReliabilityBin]:
    """The reliability diagram: equal-width bins from low to high, without empty ones.

    Args:
        probs: ``(N,)`` in [0, 1].
        labels: ``(N,)`` bool.
        bins: Number of bins over [0, 1].
    """
    index = (probs.double() * bins).long().clamp(max=bins - 1)
    counts = torch.bincount(index, minlength=bins)
    stated = torch.bincount(index, probs.double(), minlength=bins) / counts
    observed = torch.bincount(index, labels.double(), minlength=bins) / counts
    return [
        ReliabilityBin(n / bins, (n + 1) / bins, count, stated[n].item(), observed[n].item())
        for n, count in enumerate(counts.tolist())
        if count
    ]
