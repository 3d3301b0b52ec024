"""How good generated molecules are: the metrics of MOSES and of GenMol, in one record.

Definitions are those of MOSES (arXiv:1811.12823, checked against the code of
``molsets==0.3.1``) and of GenMol (arXiv:2501.06158). Several of them depend on the number
of molecules or on the data: read a row only beside :func:`reference_row` of equal n.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imadarem.data.molecules import canonical
from imadarem.data.moses import load_moses_sample
from imadarem.errors import ConfigError, DataError
from imadarem.evaluation.chemistry import Features
from imadarem.evaluation.fcd import frechet_distance
from imadarem.evaluation.molecule_sets import PROPERTIES, MoleculeSet, Reference, listed
from imadarem.evaluation.tanimoto import mean_powers, nearest_similarity
from imadarem.workers import Progress, Workers

__all__ = ["MoleculeReport", "Reference", "evaluate_molecules", "reference_row"]

QUALITY_QED, QUALITY_SA = 0.6, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MoleculeReport:
    """Metrics of a set of samples; ``None`` where one is undefined or was not asked for.

    "Valid" below means the valid samples with their repetitions, "distinct" each of
    their canonical forms once. T is the Tanimoto similarity of Morgan fingerprints of
    radius 2, with 1024 bits by default. All distances are to ``reference``.

    Attributes:
        samples: Number of strings given, n.
        valid: Share of n that RDKit parses and sanitises (MOSES).
        unique: Distinct ÷ valid.
        unique_1k: The same among the first 1,000 valid ones; ``None`` if there are fewer
            (MOSES warns and goes on with fewer, which flatters).
        unique_10k: The same among the first 10,000.
        novelty: Share of the distinct molecules that are not in the training set (MOSES).
        int_div: 1 − mean of T over all ordered pairs of valid molecules, each with itself
            included (MOSES' IntDiv, p = 1).
        int_div2: 1 − mean over molecules of the root of the mean of T² to all: IntDiv2 as
            MOSES computes it; its paper takes the root once, outside of both means.
        filters: Share of valid molecules that pass MOSES' filters; see
            :func:`imadarem.evaluation.chemistry.passes_filters`.
        quality: Distinct molecules with QED ≥ 0.6 and SA ≤ 4, ÷ n (GenMol).
        diversity: 1 − mean of T over pairs of different distinct molecules, with 2048
            bits (GenMol, by the evaluator of TDC).
        logp: Mean of Crippen's logP over valid molecules; likewise ``sa``, the synthetic
            accessibility from 1 (easy) to 10, ``qed``, the drug-likeness in [0, 1], and
            ``weight``, in daltons.
        reference: Name of the reference set.
        snn: Mean over valid molecules of the largest T to the reference (MOSES' SNN).
        frag: Cosine of the counts of BRICS fragments (MOSES' Frag).
        scaf: Cosine of the counts of Murcko scaffolds with at least two rings (Scaf).
        logp_distance: 1-Wasserstein distance of the distributions (MOSES' logP);
            likewise ``sa_distance``, ``qed_distance`` and ``weight_distance``.
        fcd: Fréchet ChemNet distance of the valid molecules (arXiv:1803.09518).
    """

    samples: int
    valid: float
    unique: float | None = None
    unique_1k: float | None = None
    unique_10k: float | None = None
    novelty: float | None = None
    int_div: float | None = None
    int_div2: float | None = None
    filters: float | None = None
    quality: float = 0.0
    diversity: float | None = None
    logp: float | None = None
    sa: float | None = None
    qed: float | None = None
    weight: float | None = None
    reference: str | None = None
    snn: float | None = None
    frag: float | None = None
    scaf: float | None = None
    logp_distance: float | None = None
    sa_distance: float | None = None
    qed_distance: float | None = None
    weight_distance: float | None = None
    fcd: float | None = None

    def to_dict(self) -> dict[str, int | float | str | None]:
        """Field → value, in the order above; ready for JSON (no NaN)."""
        return dataclasses.asdict(self)


def evaluate_molecules(
    smiles: Iterable[str | None],
    *,
    train: Iterable[str] | None = None,
    train_is_canonical: bool = False,
    reference: Reference | Iterable[str] | None = None,
    fcd: bool = False,
    processes: int | None = None,
    progress: Progress | None = None,
) -> MoleculeReport:
    """Score generated molecules.

    Args:
        smiles: The samples in the order they were drawn, broken ones included; ``None``
            (nothing could be decoded) counts as broken.
        train: Training molecules, for novelty.
        train_is_canonical: Compare ``train`` as it is written. Right for MOSES, whose
            strings are canonical (RDKit 2026.9 writes 3 of 15,000 otherwise); saves
            0.3 ms a molecule.
        reference: Held-out molecules, or a :class:`Reference` made once for many calls.
        fcd: Also measure FCD; needs the extra ``fcd`` and a reference, takes longest.
        processes: Worker processes. ``None`` works in this one; with more, a script
            needs ``if __name__ == "__main__":``.
        progress: Called as ``progress(stage, done, total)``.

    Raises:
        ConfigError: FCD without reference, or a bad number of processes.
        DataError: No samples, one string instead of a list, or a broken reference.
        MissingExtraError: RDKit, or ``fcd_torch`` for FCD, is not installed.
    """
    given = listed(smiles, "smiles")
    with Workers(processes, progress) as workers:
        target = _as_reference(reference, fcd, workers)
        training = None if train is None else _training_set(train, train_is_canonical, workers)
        sample = MoleculeSet.measured([text or "" for text in given], workers)
    return _report(len(given), sample, training, target, fcd, workers)


def reference_row(
    n: int,
    *,
    seed: int = 0,
    molecules: Sequence[str] | None = None,
    reference: Reference | Iterable[str] | None = None,
    train: Iterable[str] | None = None,
    train_is_canonical: bool = False,
    fcd: bool = False,
    processes: int | None = None,
    progress: Progress | None = None,
) -> MoleculeReport:
    """The same metrics for n real molecules: what a perfect generator would score.

    Args:
        n: Number of molecules; that of the samples this row stands beside.
        seed: Of the draw, which is without replacement.
        molecules: Where to draw from. Default: the shipped training sample of MOSES.

    The other arguments and the errors are those of :func:`evaluate_molecules`.

    Raises:
        DataError: There are fewer than n molecules to draw from.
    """
    pool = load_moses_sample("train") if molecules is None else molecules
    if not 1 <= n <= len(pool):
        raise DataError(
            f"n is {n}, and there are {len(pool)} molecules to draw from. Give n between 1 and "
            f"{len(pool)}, or more molecules."
        )
    return evaluate_molecules(
        random.Random(seed).sample(pool, n),
        train=train,
        train_is_canonical=train_is_canonical,
        reference=reference,
        fcd=fcd,
        processes=processes,
        progress=progress,
    )


# --- metrics


def _report(
    samples: int,
    sample: MoleculeSet,
    training: frozenset[str] | None,
    target: Reference | None,
    fcd: bool,
    workers: Workers,
) -> MoleculeReport:
    if not sample.forms:
        return MoleculeReport(samples=samples, valid=0.0, reference=target.name if target else None)
    return MoleculeReport(
        samples=samples,
        valid=len(sample.forms) / samples,
        unique=_unique(sample.forms),
        unique_1k=_unique(sample.forms, first=1_000),
        unique_10k=_unique(sample.forms, first=10_000),
        novelty=None if training is None else _novelty(sample, training),
        filters=float(np.average([f.passes for f in sample.features], weights=sample.weights)),
        quality=sum(map(_is_quality, sample.features)) / samples,
        **_diversities(sample, workers),
        **_means(sample),
        **(_comparison(sample, target, fcd, workers) if target else {}),
    )


def _unique(forms: Sequence[str], first: int | None = None) -> float | None:
    if first is not None and len(forms) < first:
        return None
    taken = forms[:first]
    return len(set(taken)) / len(taken)


def _novelty(sample: MoleculeSet, training: frozenset[str]) -> float:
    return len(sample.counts.keys() - training) / len(sample.counts)


def _means(sample: MoleculeSet) -> dict[str, Any]:
    return {key: float(sample.values(key).mean()) for key in PROPERTIES}


def _is_quality(feature: Features) -> bool:
    return feature.qed >= QUALITY_QED and feature.sa <= QUALITY_SA


def _diversities(sample: MoleculeSet, workers: Workers) -> dict[str, Any]:
    advance = workers.advance("diversity")
    similarity, squared = mean_powers(sample.bits("narrow"), sample.weights.astype(float), advance)
    count = len(sample.features)
    found: dict[str, Any] = {
        "int_div": 1 - float(np.average(similarity, weights=sample.weights)),
        "int_div2": 1 - float(np.average(np.sqrt(squared), weights=sample.weights)),
        "diversity": None,
    }
    if count > 1:
        mean = mean_powers(sample.bits("wide"), np.ones(count), advance)[0].mean()
        # Take the N pairs of a molecule with itself, T = 1, out of the N² pairs.
        found["diversity"] = 1 - float((mean * count - 1) / (count - 1))
    return found


def _comparison(
    sample: MoleculeSet, target: Reference, fcd: bool, workers: Workers
) -> dict[str, Any]:
    nearest = nearest_similarity(
        sample.bits("narrow"), target.fingerprints, workers.advance("nearest neighbours")
    )
    found: dict[str, Any] = {
        "reference": target.name,
        "snn": float(np.average(nearest, weights=sample.weights)),
        "frag": _cosine(sample.fragments(), target.fragments),
        "scaf": _cosine(sample.scaffolds(), target.scaffolds),
    }
    for key in PROPERTIES:
        found[f"{key}_distance"] = _wasserstein(sample.values(key), target.properties[key])
    seen = sample.activations(workers) if fcd else None
    if seen is not None and target.activations is not None:
        found["fcd"] = frechet_distance(seen, target.activations)
    return found


def _cosine(first: Mapping[str, int], second: Mapping[str, int]) -> float | None:
    """⟨a, b⟩ ÷ |a| |b| of two tables of counts; ``None`` if one is empty."""
    if not first or not second:
        return None
    shared = sum(count * second[key] for key, count in first.items() if key in second)
    squares = [sum(count**2 for count in table.values()) for table in (first, second)]
    return float(shared / np.sqrt(float(squares[0]) * float(squares[1])))


def _wasserstein(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """∫ |F − G| of the two empirical distribution functions."""
    first, second = np.sort(first), np.sort(second)
    steps = np.sort(np.concatenate([first, second]))
    below_first = np.searchsorted(first, steps[:-1], side="right") / len(first)
    below_second = np.searchsorted(second, steps[:-1], side="right") / len(second)
    return float(np.sum(np.abs(below_first - below_second) * np.diff(steps)))


# --- arguments


def _as_reference(
    reference: Reference | Iterable[str] | None, fcd: bool, workers: Workers
) -> Reference | None:
    if reference is None:
        if fcd:
            raise ConfigError(
                "FCD is a distance to a reference set, and none was given. Give reference=..., "
                'for example load_moses_sample("test").'
            )
        return None
    if not isinstance(reference, Reference):
        return Reference.measured(listed(reference, "reference"), "reference", fcd, workers)
    if fcd and reference.activations is None:
        raise ConfigError(
            f"the reference {reference.name!r} was made without FCD. Make it with "
            "Reference.from_smiles(..., fcd=True)."
        )
    return reference


def _training_set(train: Iterable[str], is_canonical: bool, workers: Workers) -> frozenset[str]:
    given = listed(train, "train")
    if is_canonical:
        return frozenset(given)
    forms = workers.map("reading", canonical, given)
    return frozenset(form for form in forms if form is not None)
