"""Which of many molecules to look at: the best by a score, or the most different ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imadarem.data.molecules import parse
from imadarem.design.scores import Score
from imadarem.errors import ConfigError, TrainingError

#: Of molecules with a score, the most different ones are picked among so many times as many.
POOL = 5


def pick_diverse(smiles: Sequence[str], count: int) -> list[int]:
    """Numbers of molecules that differ the most from each other, in the order of the picking.

    MaxMin: the first molecule, then always the one whose nearest picked neighbour, by Tanimoto
    similarity of Morgan fingerprints (radius 2, 2048 bits), is the furthest away.
    """
    from rdkit.Chem import rdFingerprintGenerator
    from rdkit.SimDivFilters.rdSimDivPickers import MaxMinPicker

    if count >= len(smiles):
        return list(range(len(smiles)))
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(parse(text)) for text in smiles]
    picker = MaxMinPicker()
    return list(picker.LazyBitVectorPick(prints, len(prints), count, firstPicks=[0], seed=0))


@dataclass(frozen=True)
class Ranking:
    """An order of molecules, and how many of them to keep.

    Attributes:
        score: The highest come first; None keeps the order.
        top: Keep so many; None keeps all.
        diverse: Keep those that differ the most instead of the first ones; with a score, among
            the best 5 times as many.
        isomers: First replace each molecule with undefined stereo centres or double bonds by its
            stereoisomers, at most so many; None leaves it as it is.

    Raises:
        ConfigError: ``diverse`` stands without ``top``.
    """

    score: Score | None = None
    top: int | None = None
    diverse: bool = False
    isomers: int | None = None

    def __post_init__(self) -> None:
        if self.diverse and self.top is None:
            raise ConfigError(
                "diverse picks molecules that differ from each other; say how many with top "
                "(--top 20 --diverse)."
            )

    def __call__(
        self, rows: Iterable[Mapping[str, Any]], failures: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """Rows with a molecule ``smiles``, ranked.

        Args:
            rows: Tables' rows.
            failures: Filled with the reasons where the score failed; the ``score`` of such a row
                is None, as that of one that the score has no number for.
        """
        ranked = [dict(row) for row in rows]
        if self.isomers is not None:
            ranked = [isomer for row in ranked for isomer in _isomers(row, self.isomers)]
        if self.score is not None:
            for row in ranked:
                row["score"] = self._value(row["smiles"], failures)
            ranked.sort(key=lambda row: math.inf if row["score"] is None else -row["score"])
        if self.top is None or not self.diverse:
            return ranked[: self.top]
        pool = ranked if self.score is None else ranked[: POOL * self.top]
        return [pool[i] for i in pick_diverse([row["smiles"] for row in pool], self.top)]

    def _value(self, smiles: str, failures: list[str] | None) -> float | None:
        assert self.score is not None
        try:
            value = self.score(smiles)
        except TrainingError as error:
            if failures is not None:
                failures.append(str(error))
            return None
        return value if math.isfinite(value) else None


def _isomers(row: dict[str, Any], most: int) -> Iterator[dict[str, Any]]:
    """A row for each stereoisomer of its molecule; the row itself where all is defined."""
    from rdkit.Chem import EnumerateStereoisomers as Isomers
    from rdkit.Chem import MolToSmiles

    known = {"undefined_stereo": 0} if "undefined_stereo" in row else {}
    options = Isomers.StereoEnumerationOptions(maxIsomers=most, unique=True, rand=0)
    found = list(Isomers.EnumerateStereoisomers(parse(row["smiles"]), options))
    for molecule in found:
        yield {**row, "smiles": str(MolToSmiles(molecule)), **known}
