"""Settings of the loop: how to refine, and how long blank canvases are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from imadarem import checks
from imadarem.canvas import Canvas
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, DataError
from imadarem.sampling.draw import Truncation
from imadarem.sampling.halting import Halting
from imadarem.sampling.noise import RowNoise, Stream
from imadarem.sampling.policies import policy_from_name
from imadarem.sampling.policy import Policy, Shape, check_shape, own_policy


class SamplingOptions(TypedDict, total=False):
    """What a caller may choose for one call; None, or nothing, leaves it to the model.

    ``model.sample``, ``model.infill``, ``generate`` of the Hugging Face classes, the command
    line, the server and the studio take these names and no others.

    Attributes:
        steps: Hard cap on refinement steps; default ``max_refinement_steps``.
        temperature: Divides the logits before a token is drawn; 0 takes the most likely token.
            Default ``sampling_temperature``; in prompts ``infill_temperature`` where the model
            has one.
        policy: A name in :data:`~imadarem.sampling.policies.POLICIES` or an object; default
            the gate, or the entropy rule where ``use_refine_gate`` is False.
        schedule: ``linear``, ``cosine``, a function or shares of your own: see
            :class:`~imadarem.sampling.policy.MaskSchedule`; default ``mask_schedule``.
        top_k: Sample each token from the ``top_k`` most likely tokens.
        top_p: Sample each token from the smallest set of tokens that together have this
            probability, after the temperature; see :class:`~imadarem.sampling.draw.Truncation`.
        best_of: Joint draws of a row in each pass, of which the likeliest per token is used; for
            models with a joint head. Default 1; in prompts ``infill_best_of``.
        min_length: Tokens of a row, its given ones included, at least; shorter rows are ruled
            out, and the lengths of the others keep their proportions.
        max_length: The same, at most.
        suppress_tokens: Ids that are never written.
        forbid_end: True fills every blank; False lets the model write an end of sequence in the
            blanks at a row's end. Default: a given length, of a canvas or of a prompt, is kept,
            and a free sample ends where its drawn length or the model says.
        guidance: Strength of classifier-free guidance: 1 is none, more follows the condition or
            the prompt more closely, at twice the passes; see
            :func:`~imadarem.sampling.passes.guided_pass`.
    """

    steps: int | None
    temperature: float | None
    policy: str | Policy | None
    schedule: Shape | None
    top_k: int | None
    top_p: float | None
    best_of: int | None
    min_length: int | None
    max_length: int | None
    suppress_tokens: Sequence[int] | None
    forbid_end: bool | None
    guidance: float | None


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """The settings of one run of the refinement loop: those of :class:`SamplingOptions`, and more.

    Attributes:
        stop_threshold: A row without blanks stops once a smaller share of it changed.
        may_end: Whether an EOS may be written. Without ``reinject`` the first pass decides where
            rows end; see :class:`~imadarem.sampling.endings.Endings`.
        halting: Further rules by which a row without blanks stops.
        reinject: Show the network the question in every pass, blanks where it wrote, and what
            it wrote as beliefs (and as its carry): the way that an unrolled network learned.
            Without it the network reads its own tokens as it reads those of the data.
        truncation: Cuts the tail of what is drawn from. Policies and records see the
            network's own probabilities, without it and before the temperature.
        gate_slope: Added to the gate's logits times the share of a row that is written; the
            fitted ``gate_progress_slope`` of the config.
        state_noise: Standard deviation of noise added to the carry between steps, by which the
            candidates of a row differ (PTRM, arXiv:2605.19943); 0 adds none.

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
    schedule: Shape = "linear"
    truncation: Truncation | None = None
    best_of: int = 1
    gate_slope: float = 0.0
    min_length: int = 1
    max_length: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    state_noise: float = 0.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        checks.whole("min_length", self.min_length, 1)
        if self.max_length is not None:
            checks.whole("max_length", self.max_length, self.min_length)
        checks.whole("steps", self.steps, 1)
        checks.whole("best_of", self.best_of, 1)
        checks.finite(temperature=self.temperature, state_noise=self.state_noise)
        checks.finite(guidance=self.guidance)
        checks.share(stop_threshold=self.stop_threshold)
        check_shape(self.schedule, self.steps)

    @property
    def guided(self) -> bool:
        """Whether a step costs a second pass without the condition."""
        return self.guidance != 1.0

    @classmethod
    def from_config(
        cls,
        config: ImplicitRefinementConfig,
        length_given: bool | None = None,
        filling: bool = False,
        **options: Unpack[SamplingOptions],
    ) -> SamplingSettings:
        """The model's own settings, with the options given here in their place.

        Args:
            config: Of the model.
            length_given: True for rows whose length the user gives: it is kept. False for free
                samples: their length is drawn from those of the training data where the config
                has them. Both unless ``forbid_end=False`` lets the model write an end. None
                leaves the end to the model.
            filling: The rows are prompts with holes.
            options: Of the call.

        Raises:
            ConfigError: An option is unknown or out of range, no policy has that name, there are
                limits to the length of rows that have one, or guidance has nothing to follow.
        """
        checks.known_keys(options, SamplingOptions.__annotations__, "option of sampling")

        def chosen(option: str, setting: str) -> Any:
            given = options.get(option)
            return getattr(config, setting) if given is None else given

        policy = options.get("policy")
        if policy is None:
            policy = own_policy(config)
        elif isinstance(policy, str):
            policy = policy_from_name(policy, config)
        if not callable(policy):
            raise ConfigError(f"policy={policy!r} is neither a name nor a policy.")
        top_k, top_p, truncation = options.get("top_k"), options.get("top_p"), None
        if not (top_k is None and top_p is None):
            truncation = Truncation(top_k=top_k, top_p=top_p)
        fills = filling and config.infill_temperature is not None
        temperature = chosen(
            "temperature", "infill_temperature" if fills else "sampling_temperature"
        )
        if temperature == 0 and truncation is not None and not truncation.keeps_all:
            warnings.warn(
                "temperature 0 takes the most likely token, so top_k and top_p have no effect.",
                stacklevel=4,
            )
        return cls(
            policy=policy,
            steps=chosen("steps", "max_refinement_steps"),
            temperature=temperature,
            stop_threshold=config.stop_threshold,
            may_end=_may_end(config, length_given, options),
            schedule=chosen("schedule", "mask_schedule"),
            truncation=truncation,
            best_of=_best_of(config, filling, options.get("best_of")),
            gate_slope=config.gate_progress_slope,
            min_length=options.get("min_length") or 1,
            max_length=options.get("max_length"),
            suppress_tokens=_token_ids(options.get("suppress_tokens") or (), config.vocab_size),
            guidance=_guidance(config, filling, options.get("guidance")),
        )

    def restricted(self, canvas: Canvas) -> Canvas:
        """The canvas with the least length and without the suppressed tokens."""
        special = canvas.special
        if self.suppress_tokens:
            banned = sorted({*special.banned, *self.suppress_tokens} - {special.eos})
            special = replace(special, banned=tuple(banned))
        return replace(canvas, special=special, min_length=self.min_length)


def _best_of(config: ImplicitRefinementConfig, filling: bool, given: int | None) -> int:
    """Joint draws of a row in each pass."""
    if given is None:
        return config.infill_best_of if filling else 1
    checks.whole("best_of", given, 1)
    if given > 1 and not config.joint_size:
        raise ConfigError(
            f"best_of={given} compares draws of a joint head, and this model has none "
            "(joint_size=0). Leave it out; width= compares whole rows."
        )
    return given


def _guidance(config: ImplicitRefinementConfig, filling: bool, given: float | None) -> float:
    """The strength of guidance: that of the call, or none."""
    if given not in (None, 1) and not filling and config.conditions is None:
        raise ConfigError(
            f"guidance={given} follows a prompt or a condition, and here is neither. Leave it out, "
            "give a prompt, or take a model that was trained with conditions."
        )
    return 1.0 if given is None else given


def _may_end(
    config: ImplicitRefinementConfig, length_given: bool | None, options: SamplingOptions
) -> bool:
    """Whether the model writes the ends of rows; see :meth:`SamplingSettings.from_config`."""
    ends, forbid_end = config.length_mode == "eos", options.get("forbid_end")
    if forbid_end is False and not ends:
        raise ConfigError(
            "forbid_end=False needs a model that writes an end of sequence, and this one has "
            f"length_mode={config.length_mode!r}. Leave out forbid_end."
        )
    limited = not (options.get("min_length") is None and options.get("max_length") is None)
    if length_given and limited and forbid_end is not False:
        raise ConfigError(
            "min_length and max_length choose where a row ends, and the length is given here. "
            f"Leave them out{', or add forbid_end=False' if ends else ''}."
        )
    if forbid_end is None:
        known = length_given is False and config.length_counts is not None
        forbid_end = bool(length_given or known)
    return ends and not forbid_end


def _token_ids(ids: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    """Ids in order, checked."""
    legal = (checks.integer("suppress_tokens", i, 0, vocab_size - 1) for i in ids)
    return tuple(sorted(set(legal)))


def lengths_of(
    config: ImplicitRefinementConfig,
    n: int,
    length: int | Sequence[int] | None,
    seeds: Tensor,
    settings: SamplingSettings,
) -> Tensor:
    """``(n,)`` lengths of blank canvases, in tokens.

    Args:
        config: Of the model.
        n: Number of canvases.
        length: For all or one each; None: drawn from the training lengths by ``seeds``, or as
            long as a row may be where the model writes the end or no lengths are known.
        seeds: ``(n,)`` int64.
        settings: Whether the model writes an end, and the limits of lengths.
    """
    if length is not None:
        several = isinstance(length, Iterable)
        values: Iterable[Any] = length if isinstance(length, Iterable) else [length]
        each = [checks.integer("length", value) for value in values]
        if several and len(each) != n:
            raise DataError(f"there are {len(each)} lengths for n={n} samples; give one each.")
        checks.canvas_length(max(each), config.max_seq_len)
        return torch.tensor(each).expand(n)
    unknown = config.length_counts is None and config.length_mode == "eos"
    if settings.may_end or unknown:
        longest = config.max_seq_len
        if not settings.may_end and settings.max_length is not None:
            longest = min(longest, settings.max_length)
        return torch.tensor(longest).expand(n)
    if config.length_counts is None:
        raise ConfigError(
            "this model draws the length of each sample, but the lengths of its training data "
            "are unknown (config.length_counts is not set). Give length= (--length on the "
            "command line), or set length_counts."
        )
    counts = _between(config.length_counts, settings)
    cumulative = torch.tensor(counts, dtype=torch.float64).cumsum(0)
    drawn = RowNoise(seeds, step=0).uniform(Stream.LENGTH, 1).squeeze(1)
    lengths = torch.searchsorted(cumulative, drawn * cumulative[-1], right=True)
    checks.canvas_length(int(lengths.max()), config.max_seq_len)
    return lengths


def _between(counts: Sequence[int], settings: SamplingSettings) -> list[int]:
    """Counts of lengths, 0 for those outside the limits."""
    least, most = settings.min_length, settings.max_length or len(counts)
    legal = [count if least <= n <= most else 0 for n, count in enumerate(counts)]
    if not any(legal):
        seen = [n for n, count in enumerate(counts) if n and count]
        raise ConfigError(
            f"no row of the training data has {least} to {most} tokens; they have {seen[0]} to "
            f"{seen[-1]}. Change min_length and max_length, or give length=."
        )
    return legal
