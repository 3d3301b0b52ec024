"""What a search is for, and what a molecule must be like before it is scored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from imadarem.design.filters import Filters
from imadarem.design.fragment_task import FragmentTask
from imadarem.design.scores import similarity_to
from imadarem.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """What an evolution is for, and how long it may take.

    Attributes:
        score: Name of the score, for the file; of several, with spaces between them.
        weights: Of several scores, whose weighted mean is the score; empty: equal ones.
        pareto: Parents are the molecules that no other one beats in every score, instead of those
            of the highest weighted mean.
        workers: Molecules that are scored at the same time.
        budget: Most calls of the score; a molecule that is known costs none.
        population: Best molecules that have children.
        children: Molecules that are scored in a generation, at most.
        prescreen: Rows that the model fills for each of them; a guess from the scores of similar
            molecules (:class:`~imadarem.design.surrogate.Surrogate`) chooses. 1 scores all.
        per_scaffold: Most parents of one Murcko scaffold; None sets no limit.
        seed: The same seed gives the same run.
        until: Stop at this score.
        scaffold: A fragment that every molecule must have, as
            :func:`~imadarem.design.verification.rejection_reason` finds it.
        similar_to: A molecule that every other must be similar to.
        least_similarity: How similar, by Tanimoto of Morgan fingerprints (radius 2, 2048
            bits).
        where: Conditions that every molecule must meet, such as ``"MW<450, new_rings=0"``; see
            :class:`~imadarem.design.filters.Filters`.
        alerts: Catalogues of structural alerts that no molecule may have, with commas.

    Raises:
        ConfigError: A number is out of range, or a similarity stands without a molecule.
    """

    score: str
    budget: int = 2000
    population: int = 100
    children: int = 64
    prescreen: int = 4
    per_scaffold: int | None = None
    weights: tuple[float, ...] = ()
    pareto: bool = False
    workers: int = 1
    seed: int = 0
    until: float | None = None
    scaffold: str | None = None
    similar_to: str | None = None
    least_similarity: float | None = None
    where: str = ""
    alerts: str = ""

    def __post_init__(self) -> None:
        for name in ("budget", "population", "children", "prescreen", "per_scaffold", "workers"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ConfigError(f"{name} is {number}; give at least 1.")
        if (self.similar_to is None) != (self.least_similarity is None):
            raise ConfigError(
                "similar_to names a molecule and least_similarity how near to it: give both or "
                "neither."
            )
        if self.least_similarity is not None and not 0 <= self.least_similarity <= 1:
            raise ConfigError(f"least_similarity is {self.least_similarity}; give 0 to 1.")
        if not all(0 < weight < math.inf for weight in self.weights):
            raise ConfigError(f"weights are {self.weights}; give numbers above 0.")
        Filters.of(self.where, self.alerts)


@dataclass(frozen=True)
class Constraint:
    """What a molecule must be like before it is scored."""

    task: FragmentTask | None
    similarity: Callable[[str], float] | None
    least: float
    filters: Filters

    @classmethod
    def of(cls, settings: EvolutionSettings) -> Constraint:
        task = None if settings.scaffold is None else FragmentTask.of("scaffold", settings.scaffold)
        near = None if settings.similar_to is None else similarity_to(settings.similar_to)
        filters = Filters.of(settings.where, settings.alerts)
        return cls(task, near, settings.least_similarity or 0.0, filters)

    def rejection_reason(self, smiles: str) -> str | None:
        lost = "in several parts" if "." in smiles else None
        if lost is None and self.task is not None:
            lost = self.task.rejection_reason(smiles)
        if lost is None and self.similarity is not None and self.similarity(smiles) < self.least:
            lost = "not similar enough"
        return lost or self.filters.rejection_reason(smiles)
