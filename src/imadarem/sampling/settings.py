"""What a call of the loop is told: how to refine, and how long blank canvases are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from imadarem import checks
from imadarem.config import MASK_SCHEDULES, ImplicitRefinementConfig
from imadarem.errors import ConfigError, DataError
from imadarem.sampling.draw import Truncation
from imadarem.sampling.halting import Halting
from imadarem.sampling.noise import RowNoise, Stream
from imadarem.sampling.policies import Policy, policy_from_name

__all__ = ["SamplingOptions", "SamplingSettings", "check_length", "lengths_of"]


class SamplingOptions(TypedDict, total=False):
    """What a caller may choose for one call; None, or nothing, leaves it to the model.

    ``model.sample``, ``model.infill``, ``generate`` of the Hugging Face classes, the command
    line, the server and the studio take these names and no others.

    Attributes:
        steps: Hard cap on refinement steps; default ``max_refinement_steps``.
        temperature: Divides the logits before a token is drawn; 0 takes the most likely token.
            Default ``sampling_temperature``.
        policy: A name in :data:`~imadarem.sampling.policies.POLICIES` or an object; default
            the gate, or the entropy rule where ``use_refine_gate`` is False.
        schedule: ``linear`` or ``cosine``; default ``mask_schedule``.
        top_k: Sample each token from the ``top_k`` most likely tokens.
        top_p: Sample each token from the smallest set of tokens that together have this
            probability, after the temperature; see :class:`~imadarem.sampling.draw.Truncation`.
    """

    steps: int | None
    temperature: float | None
    policy: str | Policy | None
    schedule: str | None
    top_k: int | None
    top_p: float | None


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How to refine.

    Attributes:
        policy: Decides what is written in each pass.
        steps: ``K``, the hard cap on refinement steps.
        temperature: Divides the logits before a token is drawn; 0 takes the most likely token.
        stop_threshold: A row without blanks stops once a smaller share of it changed.
        may_end: Whether an EOS may be written.
        halting: Further rules by which a row without blanks stops.
        reinject: Show the network the question in every pass, blanks where it wrote, and what
            it wrote as beliefs (and as its carry): the way that an unrolled network learned.
            Without it the network reads its own tokens as it reads those of the data.
        schedule: ``linear`` or ``cosine``: how many blanks a step leaves, for the policies
            that ask; see :class:`~imadarem.corruption.MaskSchedule`.
        truncation: Cuts the tail of what is drawn from. Policies and records see the
            network's own probabilities, without it and before the temperature.
        gate_slope: Added to the gate's logits times the share of a row that is written; the
            fitted ``gate_progress_slope`` of the config.

    Raises:
        ConfigError: A setting is out of range.
    """

    policy: Policy
    steps: int
    temperature: float = 1.0
    stop_threshold: float = 0.0
    may_end: bool = True
    halting: Halting | None = None
    reinject: bool = False
    schedule: str = "linear"
    truncation: Truncation | None = None
    gate_slope: float = 0.0

    def __post_init__(self) -> None:
        checks.whole("steps", self.steps, 1)
        checks.finite(temperature=self.temperature)
        checks.share(stop_threshold=self.stop_threshold)
        checks.one_of("schedule", self.schedule, MASK_SCHEDULES)

    @classmethod
    def from_config(
        cls, config: ImplicitRefinementConfig, **options: Unpack[SamplingOptions]
    ) -> SamplingSettings:
        """The model's own settings, with the options given here in their place.

        Raises:
            ConfigError: An option is unknown or out of range, or no policy has that name.
        """
        checks.known_keys(options, SamplingOptions.__annotations__, "option of sampling")

        def chosen(option: str, setting: str) -> Any:
            given = options.get(option)
            return getattr(config, setting) if given is None else given

        policy = options.get("policy")
        if policy is None or isinstance(policy, str):
            policy = policy_from_name(policy, config)
        if not callable(policy):
            raise ConfigError(f"policy={policy!r} is neither a name nor a policy.")
        truncation = Truncation(top_k=options.get("top_k"), top_p=options.get("top_p"))
        temperature = chosen("temperature", "sampling_temperature")
        if temperature == 0 and not truncation.keeps_all:
            warnings.warn(
                "temperature 0 takes the most likely token, so top_k and top_p have no effect.",
                stacklevel=4,
            )
        return cls(
            policy=policy,
            steps=chosen("steps", "max_refinement_steps"),
            temperature=temperature,
            stop_threshold=config.stop_threshold,
            may_end=config.length_mode == "eos",
            schedule=chosen("schedule", "mask_schedule"),
            truncation=None if truncation.keeps_all else truncation,
            gate_slope=config.gate_progress_slope,
        )


def lengths_of(
    config: ImplicitRefinementConfig, n: int, length: int | Sequence[int] | None, seeds: Tensor
) -> Tensor:
    """``(n,)`` lengths of blank canvases, in tokens.

    Args:
        config: Of the model.
        n: Number of canvases.
        length: For all or one each; None: drawn from the training lengths by ``seeds``, or
            ``max_seq_len`` where an EOS decides where a sample ends.
        seeds: ``(n,)`` int64.

    Raises:
        ConfigError: Lengths are to be drawn, and those of the training data are unknown.
        DataError: A length is above ``max_seq_len``, or there are more or fewer than ``n``.
    """
    if length is not None:
        several = isinstance(length, Iterable)
        values: Iterable[Any] = length if isinstance(length, Iterable) else [length]
        each = [checks.integer("length", value) for value in values]
        if several and len(each) != n:
            raise DataError(f"there are {len(each)} lengths for n={n} samples; give one each.")
        check_length(max(each), config)
        return torch.tensor(each).expand(n)
    if config.length_mode == "eos":
        return torch.tensor(config.max_seq_len).expand(n)
    if config.length_counts is None:
        raise ConfigError(
            "this model draws the length of each sample, but the lengths of its training data "
            "are unknown (config.length_counts is not set). Give length= (--length on the "
            "command line), or set length_counts."
        )
    counts = torch.tensor(config.length_counts, dtype=torch.float64)
    counts[0] = 0.0
    cumulative = counts.cumsum(0)
    drawn = RowNoise(seeds, step=0).uniform(Stream.LENGTH, 1).squeeze(1)
    lengths = torch.searchsorted(cumulative, drawn * cumulative[-1], right=True)
    check_length(int(lengths.max()), config)
    return lengths


def check_length(length: int, config: ImplicitRefinementConfig) -> None:
    """Refuse a canvas that is longer than the model takes.

    Raises:
        DataError: It is.
    """
    if length > config.max_seq_len:
        raise DataError(
            f"a canvas of {length} tokens was asked for; this model takes at most "
            f"max_seq_len={config.max_seq_len}."
        )
