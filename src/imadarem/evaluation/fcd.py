"""Fréchet ChemNet distance (Preuer et al., arXiv:1803.09518) by the published network.

The weights are those of the package ``fcd_torch`` (extra ``fcd``), run on the CPU.
Values depend strongly on the number of molecules: compare at equal n only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imadarem.errors import MissingExtraError

BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Mean (512,) and covariance (512, 512) of ChemNet's last hidden layer."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]


def activation_statistics(
    smiles: Sequence[str],
    counts: Sequence[int] | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> Activations | None:
    """ChemNet's statistics over molecules; ``None`` for fewer than two of them.

    Args:
        smiles: Canonical SMILES; the network reads the string.
        counts: How often each occurs; default once.
        advance: Called as ``advance(molecules done, molecules)``.
    """
    repeats = np.ones(len(smiles), dtype=np.int64) if counts is None else np.asarray(counts)
    if repeats.sum() < 2:
        return None
    seen = _activations(smiles, advance)
    return Activations(
        mu=np.average(seen, axis=0, weights=repeats),
        sigma=np.cov(seen, rowvar=False, fweights=repeats),
    )


def frechet_distance(first: Activations, second: Activations) -> float:
    """|μ₁ − μ₂|² + Tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½).

    Tr (Σ₁ Σ₂)^½ is taken as Σ √λ over the eigenvalues of Σ₁^½ Σ₂ Σ₁^½: the same number,
    but of a symmetric matrix, so no imaginary parts have to be thrown away.
    """
    values, vectors = np.linalg.eigh(first.sigma)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ second.sigma @ root).clip(min=0)
    gap = first.mu - second.mu
    spread = np.trace(first.sigma) + np.trace(second.sigma) - 2 * np.sqrt(cross).sum()
    return float(gap @ gap + spread)


def _activations(
    smiles: Sequence[str], advance: Callable[[int, int], None] | None
) -> NDArray[np.float64]:
    """``(N, 512)``."""
    try:
        from fcd_torch import FCD
        from fcd_torch.utils import SmilesDataset
    except ImportError:
        raise MissingExtraError("fcd_torch", "fcd") from None
    import torch

    model = FCD(device="cpu", canonize=False).model
    # Its own loader is not used: it calls numpy's row_stack, deprecated since numpy 2.0.
    inputs = SmilesDataset(list(smiles), canonize=False)
    parts = []
    with torch.no_grad():
        for start in range(0, len(inputs), BATCH):
            rows = range(start, min(start + BATCH, len(inputs)))
            batch = torch.from_numpy(np.stack([inputs[row] for row in rows])).float()
            parts.append(model(batch.transpose(1, 2)).double().numpy())
            if advance is not None:
                advance(rows.stop, len(inputs))
    return np.concatenate(parts)
