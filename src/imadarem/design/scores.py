"""What a molecule is worth: built-in scores, and a user's own function."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imadarem.data.molecules import parse
from imadarem.errors import ConfigError, DataError, MissingExtraError, TrainingError, nearest

BUILT_IN = ("qed", "sa", "logp", "weight", "similarity:SMILES")


@dataclass(frozen=True)
class Score:
    """A number for each molecule, higher being better.

    Attributes:
        name: As it was asked for.
        function: Canonical SMILES → a number. One with an attribute ``batched`` that is true takes
            a list and returns as many numbers.
    """

    name: str
    function: Callable[[Any], Any]

    def __call__(self, smiles: str) -> float:
        """The score; ``-inf`` for None and NaN: the function has no number for it."""
        try:
            batched = getattr(self.function, "batched", False)
            value = self.function([smiles])[0] if batched else self.function(smiles)
            number = -math.inf if value is None else float(value)
            if number == math.inf:
                raise ValueError("the score is infinite")
        except Exception as error:  # a user's function raises what it likes
            raise TrainingError(
                f"the score {self.name} failed on {smiles}: {type(error).__name__}: {error}. "
                "Return a number, or None where there is none."
            ) from error
        return -math.inf if math.isnan(number) else number

    def many(self, smiles: Sequence[str], workers: int = 1) -> Iterator[float | TrainingError]:
        """The score, or the error, of each molecule in order, as soon as it is known.

        Args:
            smiles: Canonical SMILES.
            workers: Threads, each with a molecule at a time; they help a score that waits for
                another program. A batched function gets all molecules at once.
        """
        if getattr(self.function, "batched", False):
            yield from self._batch(smiles)
            return
        with ThreadPoolExecutor(workers) as threads:
            yield from (threads.map if workers > 1 else map)(self._or_error, smiles)

    def _or_error(self, smiles: str) -> float | TrainingError:
        try:
            return self(smiles)
        except TrainingError as error:
            return error

    def _batch(self, smiles: Sequence[str]) -> Iterator[float | TrainingError]:
        """One call for all; where it fails, one for each."""
        try:
            values = list(self.function(list(smiles)))
            if len(values) != len(smiles):
                raise ValueError(f"{len(values)} numbers for {len(smiles)} molecules")
        except Exception:  # a user's function raises what it likes
            yield from map(self._or_error, smiles)
            return
        given = Score(self.name, dict(zip(smiles, values, strict=True)).__getitem__)
        yield from map(given._or_error, smiles)


def score_named(name: str) -> Score:
    """A score by its name.

    Args:
        name: ``NAME@LOW..HIGH``: desirability of a score in [0, 1]: 1 inside the window, falling to
            0 over its width outside. Else ``qed``: drug-likeness in [0, 1] (Bickerton 2012).
            ``sa``: (10 - SA) / 9, 1 for the easiest to make (Ertl and Schuffenhauer 2009).
            ``logp``: Crippen's.
            ``weight``: in daltons.
            ``similarity:SMILES``: Tanimoto similarity of Morgan fingerprints (radius 2,
            2048 bits) to that molecule. ``module:function``: a Python function of a SMILES,
            imported from the working directory or an installed package.

    Raises:
        ConfigError: There is no such score, module or function.
        DataError: The molecule to be similar to is none.
        MissingExtraError: RDKit is not installed.
    """
    if window := re.fullmatch(r"(.+)@(-?[\d.]+)\.\.(-?[\d.]+)", name):
        low, high = float(window[2]), float(window[3])
        if not low < high:
            raise ConfigError(f"the window of {name!r} is empty: write the lower number first.")
        return Score(name, _Desirability(score_named(window[1]), low, high))
    kind, _, rest = name.partition(":")
    if kind == "similarity":
        return Score(name, similarity_to(rest))
    if rest:
        return Score(name, _imported(kind, rest))
    built_in = {"qed": _qed, "sa": _ease, "logp": _logp, "weight": _weight}
    if name not in built_in:
        legal = ", ".join(BUILT_IN)
        raise ConfigError(
            f"unknown score {name!r}{nearest(name, built_in)}. Choose one of {legal}, or give "
            "a function of your own as module:function."
        )
    _chem()
    return Score(name, built_in[name])


@dataclass(frozen=True)
class _Desirability:
    score: Score
    low: float
    high: float

    def __call__(self, smiles: str) -> float:
        value = self.score(smiles)
        outside = max(self.low - value, value - self.high, 0.0)
        return max(0.0, 1.0 - outside / (self.high - self.low))


def similarity_to(smiles: str) -> Callable[[str], float]:
    """The Tanimoto similarity of a molecule to ``smiles``, in [0, 1].

    Raises:
        DataError: ``smiles`` is no molecule.
    """
    _chem()
    from rdkit.Chem import rdFingerprintGenerator
    from rdkit.DataStructs import TanimotoSimilarity

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    target = parse(smiles)
    if target is None:
        raise DataError(
            f"similarity to {smiles[:80]!r} cannot be measured: it is not a valid SMILES."
        )
    wanted = generator.GetFingerprint(target)

    def similarity(other: str) -> float:
        return float(TanimotoSimilarity(wanted, generator.GetFingerprint(parse(other))))

    return similarity


def _qed(smiles: str) -> float:
    from rdkit.Chem import QED

    return float(QED.qed(parse(smiles)))


def _ease(smiles: str) -> float:
    from rdkit.Contrib.SA_Score import sascorer

    return (10.0 - float(sascorer.calculateScore(parse(smiles)))) / 9.0


def _weight(smiles: str) -> float:
    from rdkit.Chem import Descriptors

    return float(Descriptors.MolWt(parse(smiles)))  # type: ignore[attr-defined]


def _logp(smiles: str) -> float:
    from rdkit.Chem import Crippen

    return float(Crippen.MolLogP(parse(smiles)))  # type: ignore[attr-defined]


def _imported(module: str, function: str) -> Callable[[str], Any]:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigError(
            f"the score {module}:{function} cannot be imported: {type(error).__name__}: {error}. "
            "Name a module of the working directory or of an installed package."
        ) from error
    if not callable(found):
        raise ConfigError(f"the module {module} has no function {function!r}.")
    return found


def _chem() -> None:
    try:
        import rdkit  # noqa: F401
    except ImportError:
        raise MissingExtraError("rdkit", "mol") from None
