"""A guess of the score of a molecule from those of similar molecules.

A Gaussian process with the Tanimoto kernel on Morgan fingerprints (radius 2, 2048 bits), the model
under GP BO in the PMO benchmark (arXiv:2206.12411).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imadarem.evaluation.chemistry import fingerprint
from imadarem.evaluation.tanimoto import similarities

#: Variance of the noise, beside scores of variance 1.
NOISE = 0.01
#: Known molecules that a guess uses, at most: the best ones.
MOST = 1000


class Surrogate:
    """Guesses from a growing set of known scores; fingerprints are computed once."""

    def __init__(self) -> None:
        self._prints: dict[str, NDArray[np.uint8]] = {}

    def upper(
        self, known: Sequence[tuple[str, float]], unknown: Sequence[str], optimism: float = 1.0
    ) -> NDArray[np.float64]:
        """``(N,)``: expected score plus ``optimism`` standard deviations, standardised.

        Args:
            known: Molecules with finite scores, the best first.
            unknown: The N molecules.
            optimism: Higher values prefer molecules that are unlike all known ones.
        """
        known = known[:MOST]
        values = np.array([value for _, value in known])
        values = (values - values.mean()) / (values.std() or 1.0)
        given = self._packed([smiles for smiles, _ in known])
        new = self._packed(unknown)
        kernel = similarities(given, given) + NOISE * np.eye(len(known))
        cross = similarities(given, new)
        factor = np.linalg.cholesky(kernel)
        half = np.linalg.solve(factor, np.column_stack([cross, values]))
        spread = 1.0 - np.square(half[:, :-1]).sum(axis=0)
        expected: NDArray[np.float64] = half[:, :-1].T @ half[:, -1]
        return expected + optimism * np.sqrt(np.maximum(spread, 0.0))

    def _packed(self, smiles: Sequence[str]) -> NDArray[np.uint8]:
        for text in smiles:
            if text not in self._prints:
                self._prints[text] = fingerprint(text)
        return np.stack([self._prints[text] for text in smiles])
