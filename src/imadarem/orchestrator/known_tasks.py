"""What an orchestrator knows of task types: symmetries, verifiers and paraphrases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imadarem.data.tasks import Symmetry, Task, Verifier
from imadarem.orchestrator.augment import Augmenter
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.paraphrase import Paraphrase
from imadarem.sampling.halting import Halting

__all__ = ["KnownTasks", "TaskParts"]


@dataclass(frozen=True, kw_only=True)
class TaskParts:
    """What the orchestrator knows of a task type beside its rows."""

    symmetry: Symmetry | None = None
    verify: Verifier | None = None
    paraphrase: Paraphrase | None = None


class KnownTasks:
    """Augmentation and stopping rules by task type; an unknown type has no parts.

    Args:
        model: Its special ids, vocabulary and lengths are those of all tasks.
        tokenizer: Of the model; formats and paraphrases of a text need it. May be None.
        config: Strategies of augmentation, and stopping rules.

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
            known = TaskParts(symmetry=task.symmetry, verify=task.verify, paraphrase=paraphrase)
        else:
            name, known = task, TaskParts(paraphrase=paraphrase, **parts)
        self.known[name] = known
        self._augmenters.pop(name, None)

    def augmenter(self, task_type: str) -> Augmenter:
        """What augments a task type."""
        if task_type not in self._augmenters:
            self._augmenters[task_type] = self._new_augmenter(self._parts(task_type))
        return self._augmenters[task_type]

    def halting(self, task_type: str) -> Halting:
        """The stopping rules of a task type."""
        return Halting(
            verify=self._parts(task_type).verify,
            confidence=self.config.halt_confidence,
            quality=self.config.quality_threshold,
            patience=self.config.patience,
        )

    def _parts(self, task_type: str) -> TaskParts:
        return self.known.get(task_type, TaskParts())

    def _new_augmenter(self, parts: TaskParts) -> Augmenter:
        strategies = list(self.config.augmentation_strategies)
        starts_fixed = self.model.config.length_mode == "eos" and parts.symmetry is None
        shifts = "position_shift" in strategies and starts_fixed
        if shifts:
            strategies.remove("position_shift")
        augmenter = Augmenter(
            strategies,
            self.config.augmentation_count,
            self.config.seed,
            special=self.model.special,
            vocab_size=self.model.config.vocab_size,
            symmetry=parts.symmetry,
            unique_answer=parts.symmetry is not None or parts.verify is not None,
            paraphrase=parts.paraphrase,
            tokenizer=self.tokenizer,
        )
        if shifts:
            augmenter.unavailable["position_shift"] = (
                "a canvas of this model begins with its text; length_mode='eos' says so"
            )
        return augmenter
