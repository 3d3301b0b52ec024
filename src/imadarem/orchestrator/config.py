"""The settings of the orchestrator: how long it unrolls, what it weighs, when it stops."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from imadarem import checks
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, nearest

if TYPE_CHECKING:
    from imadarem.training.grokfast import GrokFastEma

StepWeighting = Callable[[int, int], float]
"""``weight(step, steps)`` with ``step`` from 1; at least 0, normalised over the steps."""

UNROLL_MODES = ("full", "window", "last_k", "carry")
STEP_WEIGHTINGS = ("uniform", "linear", "last")
LOSS_TERMS = ("token", "gate", "halt", "memory")
PRECISIONS = ("no", "bf16", "fp16")
EDITS = ("append", "replace", "patch")
AUGMENTATIONS = ("token_noise", "position_shift", "masking", "paraphrase", "format_variation")
#: Usual numbers of steps; others work and warn.
TRAIN_STEPS, INFER_STEPS = (8, 16), (2, 6)

#: Settings of version 0.1 that are gone; files that hold them are still read.
RETIRED = ("halting_loss", "ponder_prior", "ponder_weight")


def without_retired(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from a file, without those that no longer exist."""
    if settings.get("halting_loss", "exact") != "exact":
        raise ConfigError(
            "halting_loss='ponder' no longer exists: the halting head learns whether the canvas "
            "is entirely right. Leave halting_loss out and train again."
        )
    return {name: value for name, value in settings.items() if name not in RETIRED}


def _default_terms() -> dict[str, float]:
    return {"token": 1.0, "gate": 0.5, "halt": 0.5, "memory": 0.0}


@dataclass(kw_only=True)
class OrchestrationConfig:
    """Settings of a :class:`~imadarem.UnifiedRefinerOrchestrator`, checked on construction.

    The first eleven names and their defaults never change.

    Args:
        max_steps_train: Refinement steps unrolled in training; 8 to 16 is usual.
        max_steps_infer: Refinement steps at inference; 2 to 6 is usual.
        truncated_backprop: Cut the gradient between steps as ``unroll_mode`` says. False
            unrolls in full, whatever the mode.
        backprop_truncate_steps: ``K``: steps of a window, or steps at the end that get a
            gradient.
        step_loss_weights: Weights of the loss's terms: ``token`` (cross-entropy of the
            blanks), ``gate`` (is the token written last wrong), ``halt`` (is the canvas
            entirely right), ``memory`` (how far the memory's gate is open). Terms left out
            keep their default.
        gradient_clip_threshold: Maximum global norm of the gradients.
        loss_smoothing_window: Number of last losses that the smoothed loss averages.
        augmentation_strategies: Augmentations to choose from; those that do not apply to a task
            are left out and logged, see :attr:`Augmenter.unavailable`.
        augmentation_count: Number of augmented copies of each episode. No copy equals the
            episode if a strategy can change it; a short text has fewer different copies.
        canvas_edit_strategies: The edits to choose between.
        adaptive_edit_selection: Let a bandit choose the edit of a step. False takes
            ``replace`` if it is listed, else the first edit that is available.
        unroll_mode: ``full``: one graph over all steps. ``window``: every step keeps its
            loss, and the graph is cut every ``K`` steps. ``last_k``: no graph and no loss
            before the last ``K`` steps. ``carry``: one supervised step per optimiser step on
            a state that persists, finished rows replaced by new ones (arXiv:2506.21734).
        step_weighting: Weights of the steps in the loss: ``uniform``, ``linear`` (step *s* has
            weight *s*), ``last``, or a function of (step, steps); normalised to sum to 1.
        base_loss_share: For data without a separate answer: least share of the token loss
            that the first step has, which is the plain masked loss; it keeps the likelihood
            from getting worse.
        halt_confidence: Probability of the halting head above which a row stops; None: never.
        quality_threshold: Mean token probability above which a row stops; None: never.
        patience: A row stops after this many steps in which no token changed and the mean token
            probability did not rise; None: never.
        halt_exploration: In ``carry`` mode, share of rows that do not halt before a random
            step, so that the head is trained on later steps too.
        temperature: Sampling temperature at inference; 0 takes the most likely token.
        grok_fast: Filter gradients by GrokFast's EMA (arXiv:2405.20233).
        grok_fast_alpha: Momentum of its average.
        grok_fast_lamb: Weight of the average in the gradient.
        mixed_precision: ``no``, ``bf16`` or ``fp16`` (with a gradient scaler).
        seed: Seed of augmentation, edits and exploration.

    Raises:
        ConfigError: A setting is out of range; the message says what is legal.
    """

    max_steps_train: int = 16
    max_steps_infer: int = 4
    truncated_backprop: bool = True
    backprop_truncate_steps: int = 8
    step_loss_weights: Mapping[str, float] = field(default_factory=_default_terms)
    gradient_clip_threshold: float = 1.0
    loss_smoothing_window: int = 3
    augmentation_strategies: list[str] = field(default_factory=lambda: list(AUGMENTATIONS))
    augmentation_count: int = 300
    canvas_edit_strategies: list[str] = field(default_factory=lambda: list(EDITS))
    adaptive_edit_selection: bool = True
    unroll_mode: str = "window"
    step_weighting: str | StepWeighting = "linear"
    base_loss_share: float = 0.5
    halt_confidence: float | None = 0.95
    quality_threshold: float | None = 0.999
    patience: int | None = 4
    halt_exploration: float = 0.1
    temperature: float = 0.0
    grok_fast: bool = False
    grok_fast_alpha: float = 0.98
    grok_fast_lamb: float = 2.0
    mixed_precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "max_steps_train",
            "max_steps_infer",
            "backprop_truncate_steps",
            "loss_smoothing_window",
        ):
            checks.whole(name, getattr(self, name), 1)
        checks.whole("augmentation_count", self.augmentation_count, 0)
        checks.whole("seed", self.seed, 0)
        if self.patience is not None:
            checks.whole("patience", self.patience, 1)
        self._check_terms()
        self._check_names("augmentation_strategies", AUGMENTATIONS)
        self._check_names("canvas_edit_strategies", EDITS)
        if not self.canvas_edit_strategies:
            raise ConfigError(f"canvas_edit_strategies is empty; name one of {', '.join(EDITS)}.")
        checks.one_of("unroll_mode", self.unroll_mode, UNROLL_MODES)
        checks.one_of("mixed_precision", self.mixed_precision, PRECISIONS)
        if not callable(self.step_weighting):
            checks.one_of("step_weighting", self.step_weighting, STEP_WEIGHTINGS)
        checks.share(
            base_loss_share=self.base_loss_share,
            halt_exploration=self.halt_exploration,
            halt_confidence=self.halt_confidence,
            quality_threshold=self.quality_threshold,
        )
        for name in ("gradient_clip_threshold", "temperature", "grok_fast_lamb"):
            value = getattr(self, name)
            least = "above 0" if name == "gradient_clip_threshold" else "at least 0"
            if not math.isfinite(value) or value < 0 or (value == 0 and least == "above 0"):
                raise ConfigError(f"{name}={value} must be a finite number {least}.")
        if not 0 <= self.grok_fast_alpha < 1:
            raise ConfigError(
                f"grok_fast_alpha={self.grok_fast_alpha} must be at least 0 and below 1."
            )
        self._warn_outside("max_steps_train", TRAIN_STEPS)
        self._warn_outside("max_steps_infer", INFER_STEPS)

    @property
    def gradient_mode(self) -> str:
        """The unroll mode that applies: ``full`` where ``truncated_backprop`` is off."""
        return self.unroll_mode if self.truncated_backprop else "full"

    def gradient_filter(self) -> GrokFastEma | None:
        """A new filter of gradients, where the settings ask for one."""
        if not self.grok_fast:
            return None
        from imadarem.training.grokfast import GrokFastEma

        return GrokFastEma(self.grok_fast_alpha, self.grok_fast_lamb)

    @property
    def term_weights(self) -> dict[str, float]:
        """``step_loss_weights`` with defaults for the terms left out."""
        return {**_default_terms(), **self.step_loss_weights}

    def step_weights(self, steps: int) -> list[float]:
        """``steps`` weights that sum to 1, of the steps 1, 2, …

        Raises:
            ConfigError: ``step_weighting`` is a function that gives no usable weights.
        """
        weighting = self.step_weighting
        if callable(weighting):
            raw = [float(weighting(step, steps)) for step in range(1, steps + 1)]
        elif weighting == "last":
            raw = [0.0] * (steps - 1) + [1.0]
        else:
            raw = [float(s) if weighting == "linear" else 1.0 for s in range(1, steps + 1)]
        total = sum(raw)
        if not (all(math.isfinite(w) and w >= 0 for w in raw) and total > 0):
            raise ConfigError(
                f"step_weighting gave {raw} for {steps} steps; weights must be finite, at least 0, "
                "and not all 0."
            )
        return [weight / total for weight in raw]

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values; a function appears by its name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if callable(self.step_weighting):
            values["step_weighting"] = getattr(
                self.step_weighting, "__qualname__", repr(self.step_weighting)
            )
        return {
            **values,
            "step_loss_weights": dict(self.step_loss_weights),
            "augmentation_strategies": list(self.augmentation_strategies),
            "canvas_edit_strategies": list(self.canvas_edit_strategies),
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> OrchestrationConfig:
        """The inverse of :meth:`to_dict`; also reads the dictionaries of version 0.1.

        Raises:
            ConfigError: A key is unknown (the nearest known one is named), or out of range.
        """
        settings = without_retired(settings)
        checks.known_keys(settings, {f.name for f in fields(cls)}, "orchestration setting")
        return cls(**settings)

    def check_model(self, model: ImplicitRefinementConfig, has_memory: bool) -> None:
        """Refuse a model that lacks what these settings need.

        Raises:
            ConfigError: It does.
        """
        if self.gradient_mode == "carry" and not (model.carry or model.self_conditioning):
            raise ConfigError(
                "unroll_mode='carry' hands a state from one optimiser step to the next, and this "
                "model takes none. Build it with carry=True or self_conditioning=True."
            )
        if has_memory and not model.memory:
            warnings.warn(
                "a memory_bank was given, and this model cannot look at one, so it is written to "
                "and never read. Build the model with memory=True, or give memory_bank=None.",
                UserWarning,
                stacklevel=4,
            )

    def _check_names(self, name: str, legal: tuple[str, ...]) -> None:
        for value in getattr(self, name):
            if value not in legal:
                raise ConfigError(
                    f"{name} names {value!r}{nearest(str(value), legal)}; legal are "
                    f"{', '.join(legal)}."
                )

    def _check_terms(self) -> None:
        for name, weight in self.step_loss_weights.items():
            if name not in LOSS_TERMS:
                raise ConfigError(
                    f"step_loss_weights names {name!r}{nearest(name, LOSS_TERMS)}; legal terms are "
                    f"{', '.join(LOSS_TERMS)}. How steps share the loss is step_weighting."
                )
            if not math.isfinite(weight) or weight < 0:
                raise ConfigError(f"step_loss_weights[{name!r}]={weight} must be at least 0.")

    def _warn_outside(self, name: str, usual: tuple[int, int]) -> None:
        value = getattr(self, name)
        if not usual[0] <= value <= usual[1]:
            warnings.warn(
                f"{name}={value} lies outside the usual {usual[0]} to {usual[1]} steps.",
                UserWarning,
                stacklevel=4,
            )
