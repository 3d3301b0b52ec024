"""The settings of a training run; importing them loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from imadarem import checks
from imadarem.errors import ConfigError

PRECISIONS = ("no", "bf16", "fp16")
#: Settings that are at least 1, and at least 0.
COUNTS = (
    "steps",
    "batch_size",
    "accumulation",
    "log_every",
    "eval_every",
    "save_every",
    "valid_rows",
)
NONE_OR_MORE = ("warmup_steps", "weight_decay", "seed", "surplus", "sample_count")
#: Steps of warm-up where none are given.
LONGEST_WARMUP = 100
#: Settings that training on rows of data uses, and training on a task does not.
OF_ROWS_ALONE = (
    "accumulation",
    "gate_warmup",
    "on_policy_share",
    "blank_share",
    "suffix_share",
    "window_share",
    "surplus",
    "sample_count",
)
#: Parts of a model that one pass over a canvas gives no gradient.
TRAINED_BY_UNROLLING = ("carry", "halting", "memory")


def refuse_parts_trained_by_unrolling(config: object) -> None:
    """Refuse to train a model on rows of data that has parts which those do not train.

    Args:
        config: An :class:`~imadarem.ImplicitRefinementConfig`.
    """
    for name in TRAINED_BY_UNROLLING:
        if getattr(config, name):
            raise ConfigError(
                f"{name}=True needs a task: rows of data alone do not train that part of the "
                "model, which learns from several refinement steps towards an answer. Leave it "
                "out, or train on a task (imadarem train --task NAME)."
            )


@dataclass(kw_only=True)
class TrainingConfig:
    """Settings of a training run, checked on construction.

    Args:
        steps: Optimiser steps.
        batch_size: Rows per step, over all processes.
        accumulation: Number of parts into which the batch of a step is split (gradient
            accumulation), for a batch that does not fit into memory.
        learning_rate: Peak rate; the gate's is ``gate_lr_scale`` times it.
        optimizer: ``adamw``, ``muon``, ``ranger21`` or another name of pytorch_optimizer.
        schedule: ``cosine`` or ``wsd`` (stable, then a linear decay in the last fifth).
        warmup_steps: Steps of linear warm-up. None: a tenth of the run, at most 100.
        weight_decay: Weight decay of the matrices of the blocks.
        gradient_clip: Maximum global norm of the gradients.
        gate_lr_scale: The gate's learning rate relative to the rest.
        gate_warmup: Share of the run after which the training of the gate begins. Its canvases
            are filled by the model, which must have learned something first.
        on_policy_share: Share of the rows that train the gate from then on.
        blank_share: Share of the rows that are masked entirely, as in the first pass of a sample.
            None: 0.25 for a model with a joint head, else 0.
        suffix_share: Share of the rows of which the end is masked, as left-to-right policies
            leave it. None: 0.12 for a model with a joint head, else 0.
        window_share: Share of the rows of which one or two windows are masked. In the remaining
            rows scattered positions are masked. None: 0.45 for a model with a joint head,
            else 0.
        surplus: Maximum number of blanks that a masked window or end has beyond its tokens, in
            half of the batches: trains holes of unknown length (``<gap>``). 0: none.
        mixed_precision: ``no``, ``bf16`` or ``fp16``; bf16 is slow on CPUs without
            instructions for it.
        seed: Seed of everything that is random in the run.
        log_every: Steps between two lines of ``metrics.jsonl``.
        eval_every: Steps between two validations; the first is before step 1.
        save_every: Steps between two checkpoints.
        valid_rows: Maximum number of held-out rows in a validation.
        sample_count: Samples drawn at each validation.
        best_by: A figure of the validations, such as ``loss`` or, of a task, ``exact``: the
            averaged weights of the best validation are saved in ``best`` of the run folder.
        early_stop: With ``best_by``: the run ends after this many validations without a better
            one.

    Raises:
        ConfigError: A setting is out of range.
    """

    steps: int = 10_000
    batch_size: int = 64
    accumulation: int = 1
    learning_rate: float = 1e-3
    optimizer: str = "adamw"
    schedule: str = "cosine"
    warmup_steps: int | None = None
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    gate_lr_scale: float = 3.0
    gate_warmup: float = 0.1
    on_policy_share: float = 0.5
    blank_share: float | None = None
    suffix_share: float | None = None
    window_share: float | None = None
    surplus: int = 0
    mixed_precision: str = "no"
    seed: int = 0
    log_every: int = 20
    eval_every: int = 500
    save_every: int = 500
    valid_rows: int = 1000
    sample_count: int = 50
    best_by: str | None = None
    early_stop: int | None = None

    def __post_init__(self) -> None:
        given = vars(self)
        checks.at_least(1, **{name: given[name] for name in COUNTS})
        checks.above_zero(
            learning_rate=self.learning_rate,
            gradient_clip=self.gradient_clip,
            gate_lr_scale=self.gate_lr_scale,
        )
        checks.share(
            gate_warmup=self.gate_warmup,
            on_policy_share=self.on_policy_share,
            suffix_share=self.suffix_share,
            blank_share=self.blank_share,
            window_share=self.window_share,
        )
        checks.at_least(0, **{name: given[name] or 0 for name in NONE_OR_MORE})
        if self.early_stop is not None:
            checks.whole("early_stop", self.early_stop, 1)
            if self.best_by is None:
                raise ConfigError(
                    f"early_stop={self.early_stop} needs best_by, the figure that must improve. "
                    "Give best_by='loss', or for a task best_by='exact'."
                )
        checks.one_of("mixed_precision", self.mixed_precision, PRECISIONS)
        # Here, not above: a command line that shows these settings need not load torch.
        from imadarem.training.optim import learning_rate_factor

        learning_rate_factor(0, self.steps, self.warmup, self.schedule)

    @property
    def warmup(self) -> int:
        """Steps of linear warm-up."""
        longest = min(LONGEST_WARMUP, self.steps // 10)
        return longest if self.warmup_steps is None else self.warmup_steps

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TrainingConfig:
        """From plain values.

        Raises:
            ConfigError: A key is unknown; the nearest known one is named.
        """
        checks.known_keys(settings, {field.name for field in fields(cls)}, "training setting")
        return cls(**settings)
