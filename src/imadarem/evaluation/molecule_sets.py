"""Sets of molecules, measured once: samples to score, and references to score them by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imadarem.data.molecules import canonical
from imadarem.errors import DataError
from imadarem.evaluation.chemistry import Features, describe
from imadarem.evaluation.fcd import Activations, activation_statistics
from imadarem.evaluation.tanimoto import Bits
from imadarem.workers import Progress, Workers

PROPERTIES = ("logp", "sa", "qed", "weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoleculeSet:
    """Valid molecules, each distinct one measured once and weighed by its repetitions.

    Attributes:
        forms: Canonical SMILES of the valid molecules, in the given order.
        counts: Distinct canonical SMILES → repetitions, in order of first occurrence.
        features: One for each of ``counts``.
        weights: (N,) the values of ``counts``.
    """

    forms: list[str]
    counts: Counter[str]
    features: list[Features]
    weights: NDArray[np.int64]

    @classmethod
    def measured(cls, smiles: list[str], workers: Workers, *, filters: bool = True) -> MoleculeSet:
        """Read and describe molecules; strings that are none are left out."""
        forms = workers.map("reading", canonical, smiles)
        distinct = list(dict.fromkeys(form for form in forms if form is not None))
        found = workers.map("describing", partial(describe, filters=filters), distinct)
        # A canonical form that cannot be read back is no usable molecule either.
        features = {form: f for form, f in zip(distinct, found, strict=True) if f is not None}
        valid = [form for form in forms if form in features]
        counts = Counter(valid)
        return cls(
            forms=valid,
            counts=counts,
            features=[features[form] for form in counts],
            weights=np.array(list(counts.values()), dtype=np.int64),
        )

    def bits(self, width: str) -> Bits:
        """(N, bytes) packed fingerprints: ``narrow`` or ``wide``."""
        rows = b"".join(getattr(f, width) for f in self.features)
        return np.frombuffer(rows, dtype=np.uint8).reshape(len(self.features), -1)

    def values(self, name: str) -> NDArray[np.float64]:
        """A property of every valid molecule, repetitions included."""
        return np.repeat([getattr(f, name) for f in self.features], self.weights)

    def fragments(self) -> Counter[str]:
        """BRICS fragment → occurrences in all valid molecules."""
        total: Counter[str] = Counter()
        for feature, count in zip(self.features, self.counts.values(), strict=True):
            for fragment in feature.fragments:
                total[fragment] += count
        return total

    def scaffolds(self) -> Counter[str]:
        """Murcko scaffold → valid molecules that have it."""
        total: Counter[str] = Counter()
        for feature, count in zip(self.features, self.counts.values(), strict=True):
            if feature.scaffold is not None:
                total[feature.scaffold] += count
        return total

    def activations(self, workers: Workers) -> Activations | None:
        """ChemNet's statistics of all valid molecules; None where there are too few."""
        return activation_statistics(
            list(self.counts), list(self.counts.values()), workers.advance("fcd")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A set of molecules to compare with, reduced to what the metrics need.

    Attributes:
        name: What a table calls it.
        fingerprints: (N, 128) packed bits, one row for each molecule.
        fragments: BRICS fragment → occurrences.
        scaffolds: Murcko scaffold → occurrences.
        properties: ``logp``, ``sa``, ``qed`` and ``weight`` → (N,) values.
        activations: ChemNet's statistics, for FCD.
    """

    name: str
    fingerprints: Bits
    fragments: Mapping[str, int]
    scaffolds: Mapping[str, int]
    properties: Mapping[str, NDArray[np.float64]]
    activations: Activations | None = None

    @classmethod
    def from_smiles(
        cls,
        smiles: Iterable[str],
        *,
        name: str = "reference",
        fcd: bool = False,
        processes: int | None = None,
        progress: Progress | None = None,
    ) -> Reference:
        """Measure a set of molecules; broken ones are an error.

        Raises:
            DataError: The set is empty or a string is no molecule.
        """
        with Workers(processes, progress) as workers:
            return cls.measured(listed(smiles, "reference"), name, fcd, workers)

    @classmethod
    def measured(cls, given: list[str], name: str, fcd: bool, workers: Workers) -> Reference:
        """:meth:`from_smiles` with workers that run already."""
        sample = MoleculeSet.measured(given, workers, filters=False)
        if len(sample.forms) < len(given):
            bad = len(given) - len(sample.forms)
            raise DataError(
                f"{bad} of {len(given)} reference strings are no molecules. Read files with "
                "read_smiles, which keeps those out."
            )
        return cls(
            name=name,
            fingerprints=sample.bits("narrow"),
            fragments=sample.fragments(),
            scaffolds=sample.scaffolds(),
            properties={key: sample.values(key) for key in PROPERTIES},
            activations=sample.activations(workers) if fcd else None,
        )

    @classmethod
    def from_moses(
        cls, statistics: Mapping[str, Mapping[str, Any]], *, name: str = "MOSES test"
    ) -> Reference:
        """MOSES' published statistics, from :func:`imadarem.data.moses.load_statistics`."""
        fcd = statistics["FCD"]
        columns = {"logp": "logP", "sa": "SA", "qed": "QED", "weight": "weight"}
        return cls(
            name=name,
            fingerprints=np.packbits(statistics["SNN"]["fps"], axis=1),
            fragments=statistics["Frag"]["frag"],
            scaffolds=statistics["Scaf"]["scaf"],
            properties={
                key: np.asarray(statistics[column]["values"], dtype=np.float64)
                for key, column in columns.items()
            },
            activations=Activations(mu=fcd["mu"].astype(np.float64), sigma=fcd["sigma"]),
        )


def listed(smiles: Iterable[Any], name: str) -> list[Any]:
    """The molecules of an argument as a list.

    Raises:
        DataError: It is a single string, or empty.
    """
    if isinstance(smiles, str):
        raise DataError(f"{name} is one string. Give a list of SMILES: [{smiles[:60]!r}].")
    given = list(smiles)
    if not given:
        raise DataError(f"{name} is empty. Give at least one molecule.")
    return given
