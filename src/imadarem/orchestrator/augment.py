"""Augmentation: element ``k`` of task ``i`` is a pure function of ``(seed, i, k)``.

The same element comes out in any batch, any order and any process, so a resumed run
sees what the straight run sees, and a run needs to store no augmented data.

Sources: about 300 augmentations of each puzzle in training are the recipe of HRM
(arXiv:2506.21734, which takes up to 1000) and TRM (arXiv:2510.04871).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imadarem import checks
from imadarem.data.tasks import Symmetry, Task, Transform, Verifier
from imadarem.errors import ConfigError, DataError, nearest
from imadarem.orchestrator.change import Strategy
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.paraphrase import Paraphrase
from imadarem.orchestrator.strategies import INTENSITY, STRATEGIES, Means, Unavailable
from imadarem.tokenizers import SpecialIds, Tokenizer

IDENTITY = "identity"
"""The ``strategy`` of element 0, and of an episode that no available strategy changes."""

TRAINING, VOTING = 0, 1

log = logging.getLogger("imadarem")


@dataclass(frozen=True, slots=True)
class Augmented:
    """One element of a task.

    Attributes:
        inputs: ``(L,)`` int64.
        labels: ``(L,)`` int64.
        k: Its number; 0 is the episode itself.
        strategy: A key of ``STRATEGIES``, or ``identity``.
        transform: The group element applied to inputs and labels; ``transform.invert``
            takes an answer back. None for noise and for what cannot be undone.
        metadata: What was drawn: ``positions`` of noise and of other words, ``shift``,
            ``formats``, ``tokens`` of a new spelling, or the ``reason`` why nothing changed.
        passed_over: Strategies whose turn came before and that changed nothing → the reason.
    """

    inputs: Tensor
    labels: Tensor
    k: int
    strategy: str
    transform: Transform | None
    metadata: Mapping[str, Any]
    passed_over: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AugmentedBatch:
    """Augmented episodes of one length.

    Attributes:
        inputs: ``(B, L)`` int64, on the device of the given ones.
        labels: ``(B, L)`` int64.
        rows: How each came about, in the order of the batch.
    """

    inputs: Tensor
    labels: Tensor
    rows: tuple[Augmented, ...]

    def counts(self) -> dict[str, int]:
        """Rows per strategy."""
        return dict(Counter(row.strategy for row in self.rows))

    def passed_over(self) -> dict[str, str]:
        """Strategies that could not change a row whose turn it was → why, and in how many rows."""
        met = Counter(item for row in self.rows for item in row.passed_over.items())
        rows = f"of {len(self.rows)} rows"
        return {name: f"in {n} {rows}: {why}" for (name, why), n in reversed(met.most_common())}


class Augmenter:
    """Draws elements of tasks by the named strategies, in equal shares.

    Args:
        strategies: Names of ``STRATEGIES``; see :mod:`imadarem.orchestrator.strategies`.
        count: Elements per task besides the episode itself: ``k`` runs from 0 to ``count``.
        seed: Of all draws, at least 0.
        special: The tokenizer's special ids.
        vocab_size: Tokens of the vocabulary, V.
        symmetry: The task's label-preserving transforms.
        unique_answer: The question has one right answer, which noise on it would change;
            default: a task with a symmetry has.
        paraphrase: A function of a text that returns paraphrases of it.
        tokenizer: Of the task; formats and paraphrases of a text need it.
        intensity: Strategy → share in (0, 1], over the defaults of ``INTENSITY``.

    Attributes:
        available: Those of ``strategies`` that are used.
        unavailable: The others, with the reason.
    """

    def __init__(
        self,
        strategies: Sequence[str] = tuple(STRATEGIES),
        count: int = 300,
        seed: int = 0,
        *,
        special: SpecialIds,
        vocab_size: int,
        symmetry: Symmetry | None = None,
        unique_answer: bool | None = None,
        paraphrase: Paraphrase | None = None,
        tokenizer: Tokenizer | None = None,
        intensity: Mapping[str, float] | None = None,
    ) -> None:
        _refuse_names(strategies)
        _refuse_intensity(intensity or {})
        checks.at_least(0, count=count, seed=seed)
        self.count = count
        self.seed = seed
        self._means = Means(
            special=special,
            vocab_size=vocab_size,
            symmetry=symmetry,
            unique_answer=symmetry is not None if unique_answer is None else unique_answer,
            paraphrase=paraphrase,
            tokenizer=tokenizer,
            intensity={**INTENSITY, **(intensity or {})},
        )
        built = {name: STRATEGIES[name](self._means) for name in strategies}
        self._strategies: dict[str, Strategy] = {
            name: made for name, made in built.items() if not isinstance(made, Unavailable)
        }
        self.available: tuple[str, ...] = tuple(self._strategies)
        self.unavailable: dict[str, str] = {
            name: made.reason for name, made in built.items() if isinstance(made, Unavailable)
        }
        for name, made in built.items():
            if isinstance(made, Unavailable):
                level = logging.INFO if made.by_design else logging.WARNING
                log.log(level, "augmentation %r is left out: %s.", name, made.reason)

    def __call__(self, inputs: Tensor, labels: Tensor, task_id: int, k: int) -> Augmented:
        """Element ``k`` of an episode, ``(L,)`` inputs and labels.

        The strategies take turns over the elements. Where the one whose turn it is leaves the
        episode as it is, such as a format that this text cannot take, the next one is asked.
        """
        if not 0 <= k <= self.count:
            raise ConfigError(f"k={k} is no element: legal are 0 (the episode) to {self.count}.")
        _refuse_shapes(inputs, labels)
        passed_over: dict[str, str] = {}
        for turn in range(len(self.available) if k else 0):
            # Another one comes first in the next task.
            name = self.available[(task_id + k + turn) % len(self.available)]
            element = self.apply(name, inputs, labels, task_id, k)
            if not (element.inputs.equal(inputs) and element.labels.equal(labels)):
                return replace(element, passed_over=passed_over)
            if "reason" in element.metadata:
                passed_over[name] = element.metadata["reason"]
        return Augmented(inputs, labels, k, IDENTITY, None, {}, passed_over)

    def apply(
        self, strategy: str, inputs: Tensor, labels: Tensor, task_id: int, k: int
    ) -> Augmented:
        """Element ``k`` by the named strategy, whether or not the mixture would take it."""
        _refuse_shapes(inputs, labels)
        _refuse_names([strategy])
        if strategy not in self._strategies:
            raise ConfigError(self._why_not(strategy))
        change = self._strategies[strategy](
            inputs.cpu(), labels.cpu(), self._rng(task_id, k, TRAINING)
        )
        device = inputs.device
        return Augmented(
            change.inputs.to(device),
            change.labels.to(device),
            k,
            strategy,
            change.transform,
            change.metadata,
        )

    def batch(
        self,
        inputs: Tensor,
        labels: Tensor,
        task_ids: Tensor | Sequence[int],
        ks: Tensor | Sequence[int],
    ) -> AugmentedBatch:
        """``(B, L)`` inputs and labels, ``(B,)`` task ids and element numbers → the elements."""
        numbers, elements = (torch.as_tensor(part).tolist() for part in (task_ids, ks))
        given = (inputs, labels, numbers, elements)
        if len(inputs) == 0 or any(len(part) != len(inputs) for part in given):
            raise DataError(
                f"{len(inputs)} inputs, {len(labels)} labels, {len(numbers)} task ids and "
                f"{len(elements)} element numbers: give as many of each, and one at least."
            )
        rows = tuple(map(self, inputs, labels, numbers, elements))
        return AugmentedBatch(
            torch.stack([row.inputs for row in rows]),
            torch.stack([row.labels for row in rows]),
            rows,
        )

    def transforms(self, row: Tensor, task_id: int, count: int) -> list[Transform]:
        """Up to ``count`` different transforms of a question ``(L,)``, the identity first.

        They need no label and can be inverted: elements of the symmetry where there is
        one, else shifts within the padding. A small group gives fewer than ``count``.
        """
        if count < 1:
            raise ConfigError(f"count={count}; the question itself is one, so give at least 1.")
        row = row.cpu()
        identity = Transform(torch.arange(len(row)), torch.arange(self._means.vocab_size))
        found = {_key(identity): identity}
        draw = repeats = 0
        # All n elements of a small group have come, nearly surely, when 8 n draws brought none.
        while len(found) < count and repeats < 8 * (len(found) + 1):
            draw += 1
            element = self._invertible(row, self._rng(task_id, draw, VOTING))
            if element is None:
                break
            repeats = repeats + 1 if _key(element) in found else 0
            found.setdefault(_key(element), element)
        return list(found.values())

    def _invertible(self, row: Tensor, rng: np.random.Generator) -> Transform | None:
        shift = self._strategies.get("position_shift")
        if self._means.symmetry is not None:
            return self._means.symmetry.draw(row, rng)
        return None if shift is None else shift(row, row, rng).transform

    def _rng(self, task_id: int, k: int, stream: int) -> np.random.Generator:
        # Halves of 32 bits each: SeedSequence would let a longer number run into the next.
        key = [part for n in (task_id, k) for part in (n & 0xFFFFFFFF, (n >> 32) & 0xFFFFFFFF)]
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(stream, *key)))

    def _why_not(self, strategy: str) -> str:
        reason = self.unavailable.get(strategy)
        if reason is None:
            chosen = ", ".join(self.available) or "none"
            return f"{strategy!r} is not among this augmenter's strategies ({chosen}). Add it."
        return f"the augmentation {strategy!r} is not available: {reason}."


@dataclass(frozen=True, kw_only=True)
class TaskParts:
    """What the orchestrator knows of a task type beside its rows."""

    symmetry: Symmetry | None = None
    verify: Verifier | None = None
    paraphrase: Paraphrase | None = None
    unique_answer: bool | None = None


class KnownTasks:
    """Augmentation by task type; an unknown type has no parts.

    Args:
        model: Its special ids, vocabulary and lengths are those of all tasks.
        tokenizer: Of the model; formats and paraphrases of a text need it. May be None.
        config: Strategies of augmentation.

    Attributes:
        known: The parts of each registered task type.
    """

    def __init__(self, model: Any, tokenizer: Any, config: OrchestrationConfig) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.known: dict[str, TaskParts] = {}
        self._augmenters: dict[str, Augmenter] = {}

    def register(
        self, task: Task | str, *, paraphrase: Paraphrase | None = None, **parts: Any
    ) -> None:
        """Make a task's symmetry and verifier known; for a name, ``parts`` are they."""
        if isinstance(task, Task):
            name = task.name
            known = TaskParts(
                symmetry=task.symmetry,
                verify=task.verify,
                paraphrase=paraphrase,
                unique_answer=not task.open_ended,
            )
        else:
            name, known = task, TaskParts(paraphrase=paraphrase, **parts)
        self.known[name] = known
        self._augmenters.pop(name, None)

    def augmenter(self, task_type: str) -> Augmenter:
        """What augments a task type."""
        if task_type not in self._augmenters:
            self._augmenters[task_type] = self._new_augmenter(
                self.known.get(task_type, TaskParts())
            )
        return self._augmenters[task_type]

    def _new_augmenter(self, parts: TaskParts) -> Augmenter:
        strategies = list(self.config.augmentation_strategies)
        starts_fixed = self.model.config.length_mode == "eos" and parts.symmetry is None
        shifts = "position_shift" in strategies and starts_fixed
        unique = parts.unique_answer
        if unique is None:
            unique = parts.symmetry is not None or parts.verify is not None
        if shifts:
            strategies.remove("position_shift")
        augmenter = Augmenter(
            strategies,
            self.config.augmentation_count,
            self.config.seed,
            special=self.model.special,
            vocab_size=self.model.config.vocab_size,
            symmetry=parts.symmetry,
            unique_answer=unique,
            paraphrase=parts.paraphrase,
            tokenizer=self.tokenizer,
        )
        if shifts:
            augmenter.unavailable["position_shift"] = (
                "a canvas of this model begins with its text; length_mode='eos' says so"
            )
        return augmenter


def _key(element: Transform) -> bytes:
    return element.positions.numpy().tobytes() + element.tokens.numpy().tobytes()


def _refuse_names(given: Sequence[str]) -> None:
    if isinstance(given, str):
        raise ConfigError(f"strategies is one string; give a list: [{given!r}].")
    for name in given:
        if name not in STRATEGIES:
            raise ConfigError(
                f"unknown augmentation {name!r}{nearest(str(name), STRATEGIES)}. "
                f"Choose from {', '.join(STRATEGIES)}."
            )
    if len(set(given)) < len(given):
        raise ConfigError(f"an augmentation stands twice in {list(given)}. Name each once.")


def _refuse_intensity(given: Mapping[str, float]) -> None:
    for name, share in given.items():
        if name not in INTENSITY:
            raise ConfigError(
                f"intensity has no setting {name!r}{nearest(str(name), INTENSITY)}. "
                f"Legal: {', '.join(INTENSITY)}."
            )
        if not 0 < share <= 1:
            raise ConfigError(f"intensity[{name!r}] is {share}; a share must be in (0, 1].")


def _refuse_shapes(inputs: Tensor, labels: Tensor) -> None:
    if inputs.ndim != 1 or inputs.shape != labels.shape:
        raise DataError(
            f"inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)} are not one episode: "
            "give two rows of one length, or call batch(...)."
        )
