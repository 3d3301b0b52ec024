"""How to refine, whatever the canvas: what every caller of the loop hands on as a whole."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

from imadarem import checks
from imadarem.config import MASK_SCHEDULES, ImplicitRefinementConfig
from imadarem.errors import ConfigError
from imadarem.sampling.draw import Truncation
from imadarem.sampling.halting import Halting
from imadarem.sampling.policies import Policy, policy_from_name

__all__ = ["SamplingOptions", "SamplingSettings"]


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
        checks.at_least(0.0, temperature=self.temperature)
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
        steps, temperature = options.get("steps"), options.get("temperature")
        policy, schedule = options.get("policy"), options.get("schedule")
        # Replacing checks the ranges and names the setting in the error.
        config = replace(
            config,
            max_refinement_steps=config.max_refinement_steps if steps is None else steps,
            sampling_temperature=(
                config.sampling_temperature if temperature is None else temperature
            ),
            mask_schedule=config.mask_schedule if schedule is None else schedule,
        )
        if policy is None or isinstance(policy, str):
            policy = policy_from_name(policy, config)
        if not callable(policy):
            raise ConfigError(f"policy={policy!r} is neither a name nor a policy.")
        truncation = Truncation(top_k=options.get("top_k"), top_p=options.get("top_p"))
        if config.sampling_temperature == 0 and not truncation.keeps_all:
            warnings.warn(
                "temperature 0 takes the most likely token, so top_k and top_p have no effect.",
                stacklevel=4,
            )
        return cls(
            policy=policy,
            steps=config.max_refinement_steps,
            temperature=config.sampling_temperature,
            stop_threshold=config.stop_threshold,
            may_end=config.length_mode == "eos",
            schedule=config.mask_schedule,
            truncation=None if truncation.keeps_all else truncation,
            gate_slope=config.gate_progress_slope,
        )
