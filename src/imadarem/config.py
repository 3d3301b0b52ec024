"""The settings of a refiner: its architecture, its objective and how it samples."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imadarem import checks
from imadarem.backbone_spec import BackboneSpec
from imadarem.conditions import check_conditions
from imadarem.errors import ConfigError

MODEL_TYPE = "imadarem"
#: Keys that Hugging Face tools write into ``config.json`` and that carry no setting of ours.
FOREIGN_KEYS = frozenset(
    {"model_type", "architectures", "transformers_version", "auto_map", "dtype", "torch_dtype"}
)
LENGTH_MODES = ("eos", "drawn")
#: Legal values of ``mask_schedule``, and shapes of :class:`imadarem.sampling.policy.MaskSchedule`.
MASK_SCHEDULES = ("linear", "cosine")
#: Settings that are true or false.
SWITCHES = (
    "rotary", "positions", "attention", "carry", "halting", "memory",
    "self_conditioning", "gradient_checkpointing", "use_refine_gate",
    "gate_from_likelihood",
)  # fmt: skip


@dataclass(kw_only=True)
class ImplicitRefinementConfig:
    """Settings of an :class:`~imadarem.ImplicitRefinementModel`, checked on construction.

    Names and defaults of the sampling settings do not change between versions. ``K`` below is
    ``max_refinement_steps``, ``L`` the canvas length.

    Args:
        vocab_size: Number of token ids ``V``, special tokens included.
        hidden_size: Width ``D`` of the transformer; even, and divisible by ``num_heads``.
        num_layers: Transformer blocks; one stack, shared across all refinement steps.
        num_heads: Attention heads per block.
        max_seq_len: Longest canvas, in tokens.
        intermediate_size: Width of the feed-forward layer; ``None`` means ``4 * hidden_size``.
        dropout: Probability of dropping an activation in training.
        conv_kernel_size: Taps of a depthwise convolution over neighbouring tokens at the
            head of every block (odd; ``0`` leaves it out).
        rotary: Rotary position embeddings of queries and keys (RoPE, arXiv:2104.09864), in
            addition to the positions added to the embedding.
        positions: Give the network the position of each token: learned positions added to the
            embedding, and rotary ones with ``rotary``. Without them, it knows only ``relations``.
        attention: Give every block self-attention. Without it, information passes between
            positions only through ``relations`` and the convolution.
        relations: Positions that belong together, pooled in every block: for each canvas
            length a list of partitions, a partition being one group number per position.
            The layout whose length is the canvas's is used; canvases of other lengths are
            refused. The number of partitions is the same in all layouts.
        inner_steps: How many times the stack of blocks runs within one forward pass, with
            gradient; the weights are shared and the input is added again each time.
        carry: Pass the last hidden state to the next refinement step: a latent ``(B, L, D)``
            besides the tokens (arXiv:2510.19304, arXiv:2510.04871).
        halting: Give the network a halting head: the probability that its answer is entirely
            right.
        judge: Give the network a judge of finished rows: a block of its own and three outputs,
            which tokens are wrong, where some are missing, and whether a row is right.
        memory: Let the network look at earlier canvases through gated cross-attention.
        joint_size: Hidden units of a recurrent head that draws the blanks of one pass from
            left to right, each conditioned on the tokens to its left, so that they fit together;
            ``0``: each blank is drawn independently. Sequences must be padded on the right.
        self_conditioning: Feed the previous step's probabilities for the positions that
            are still blank into the next step (arXiv:2208.04202).
        gradient_checkpointing: Recompute the blocks in the backward pass to save memory.
        use_refine_gate: ``True``: the learned gate decides which written tokens are
            predicted again. ``False``: the entropy rule of ``min_refine_uncertainty``.
        gate_bias_init: Bias of the gate at initialisation, a logit. The default of +2.0
            refines everything until training says otherwise.
        gate_temperature: Divides the gate's logits; fitted after training on held-out
            canvases so that the gate's probabilities are calibrated. ``1`` changes nothing.
        gate_offset: Added to the gate's logits after that, fitted with it.
        gate_progress_slope: Added in sampling too, times the share that is written of what the
            model may write: a gate that reads a canvas cannot know how much of it is given,
            and may be too strict early and too lax late. Fitted with them.
        refine_fraction: Share of the flagged tokens (gate > 0.5) that is refined in a step.
            Below 1 they are re-masked first, the most certain mistakes first; ``1`` is the
            literal rule of Imadarem V: redraw every flagged token in place.
        max_refinement_steps: ``K``, the hard cap on refinement steps.
        sampling_temperature: Divides the logits before a token is drawn; ``0`` takes the
            most likely token.
        infill_temperature: The same when blanks of a prompt are filled; None:
            ``sampling_temperature``.
        infill_best_of: Number of joint draws of a prompt in each pass; the most likely one is
            used. Above 1 only with ``joint_size``.
        min_refine_uncertainty: Entropy above which the entropy mode refines a token, as a
            share of the largest possible entropy ``ln V``: between 0 and 1.
        mask_schedule: How many blanks a sampling step fills: ``"linear"``: as many in each;
            ``"cosine"``: few at first and many at the end (MaskGIT, arXiv:2202.04200).
            Training does not depend on it.
        stop_threshold: A finished canvas stops once less than this share of its tokens
            changed in a step: between 0 and 1; ``0`` never stops early.
        diversity_weight: Weight of the entropy floor ``relu(0.5 - H)``, ``H`` in nats, on
            masked positions.
        gate_weight: Weight of the gate's cross-entropy in the loss.
        ema_decay: Decay of the EMA teacher, per update.
        length_mode: ``"eos"``: the model learns where a row ends, and can write an EOS.
            ``"drawn"``: a canvas has as many blanks as the row has tokens.
        length_counts: ``length_counts[n]`` counts the training sequences of ``n`` tokens; lengths
            of free samples are drawn from it.
        mask_token_id: Id of the blank; taken from the tokenizer where ``None``.
        pad_token_id: Id of padding; taken from the tokenizer where ``None``.
        eos_token_id: Id that ends a sequence; taken from the tokenizer where ``None``.
        nothing_token_id: Id that stands for no token in holes of unknown length; taken from
            the tokenizer where ``None``.
        backbone: The pretrained masked language model that reads the canvas, by the settings of
            :class:`~imadarem.backbone_spec.BackboneSpec`; None builds the project's own
            transformer. ``hidden_size``, ``num_layers`` and ``num_heads`` then describe it.
        conditions: Properties that samples can be asked for, by name: numbers ``{"mean": …,
            "std": …}`` or classes ``{"classes": […]}``, see :mod:`imadarem.conditions`.
        gate_from_likelihood: Start the gate from ``1 - p``, ``p`` being the network's own
            probability of the token that stands there; training corrects it.

    Raises:
        ConfigError: A setting is out of range; the message says what is legal.
    """

    vocab_size: int
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    max_seq_len: int = 64
    intermediate_size: int | None = None
    dropout: float = 0.1
    conv_kernel_size: int = 0
    rotary: bool = True
    positions: bool = True
    attention: bool = True
    relations: list[list[list[int]]] | None = None
    inner_steps: int = 1
    carry: bool = False
    halting: bool = False
    judge: bool = False
    memory: bool = False
    joint_size: int = 0
    self_conditioning: bool = True
    gradient_checkpointing: bool = False
    use_refine_gate: bool = True
    gate_bias_init: float = 2.0
    gate_temperature: float = 1.0
    gate_offset: float = 0.0
    gate_progress_slope: float = 0.0
    refine_fraction: float = 0.5
    max_refinement_steps: int = 6
    sampling_temperature: float = 1.2
    infill_temperature: float | None = None
    infill_best_of: int = 1
    min_refine_uncertainty: float = 0.1
    mask_schedule: str = "linear"
    stop_threshold: float = 0.02
    diversity_weight: float = 0.0
    gate_weight: float = 0.5
    ema_decay: float = 0.999
    length_mode: str = "eos"
    length_counts: list[int] | None = None
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    nothing_token_id: int | None = None
    backbone: dict[str, Any] | None = None
    conditions: dict[str, Any] | None = None
    gate_from_likelihood: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_seq_len"):
            checks.whole(name, getattr(self, name), 1)
        checks.whole("max_refinement_steps", self.max_refinement_steps, 1)
        checks.whole("inner_steps", self.inner_steps, 1)
        checks.whole("conv_kernel_size", self.conv_kernel_size, 0)
        checks.whole("joint_size", self.joint_size, 0)
        checks.whole("infill_best_of", self.infill_best_of, 1)
        if self.infill_best_of > 1 and not self.joint_size:
            raise ConfigError(
                f"infill_best_of={self.infill_best_of} compares draws of a joint head, and "
                "there is none (joint_size=0). Set it to 1."
            )
        if self.intermediate_size is not None:
            checks.whole("intermediate_size", self.intermediate_size, 1)
        if self.hidden_size % (2 * self.num_heads):
            raise ConfigError(
                f"hidden_size={self.hidden_size} cannot be split into num_heads={self.num_heads} "
                f"heads of even width. Choose a multiple of {2 * self.num_heads}."
            )
        if self.conv_kernel_size and self.conv_kernel_size % 2 == 0:
            raise ConfigError(
                f"conv_kernel_size={self.conv_kernel_size} is even, so it has no middle. "
                "Use an odd number, or 0 for no convolution."
            )
        self._check_switches()
        self._check_range("dropout", 0.0, 1.0, closed=False)
        self._check_range("ema_decay", 0.0, 1.0, closed=False)
        for name in ("refine_fraction", "min_refine_uncertainty", "stop_threshold"):
            self._check_range(name, 0.0, 1.0)
        for name in ("sampling_temperature", "diversity_weight", "gate_weight"):
            self._check_range(name, 0.0, math.inf, closed=False)
        if self.infill_temperature is not None:
            self._check_range("infill_temperature", 0.0, math.inf, closed=False)
        for name in ("gate_temperature", "gate_bias_init", "gate_offset", "gate_progress_slope"):
            value, above_zero = getattr(self, name), name == "gate_temperature"
            if not _is_number(value) or (above_zero and value <= 0):
                legal = "a finite number above 0" if above_zero else "a finite number"
                raise ConfigError(f"{name}={value!r} must be {legal}.")
        checks.one_of("length_mode", self.length_mode, LENGTH_MODES)
        checks.one_of("mask_schedule", self.mask_schedule, MASK_SCHEDULES)
        self._check_length_counts()
        self._check_relations()
        self._check_backbone()
        if self.conditions is not None:
            check_conditions(self.conditions)
        for name in ("mask_token_id", "pad_token_id", "eos_token_id", "nothing_token_id"):
            self._check_token_id(name)

    @property
    def recurrent(self) -> bool:
        """Whether a state is added to the input: within a pass, or from the last step."""
        return self.carry or self.inner_steps > 1

    @property
    def feed_forward_size(self) -> int:
        """Width of the feed-forward layer: ``intermediate_size``, or four times the width."""
        return self.intermediate_size or 4 * self.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values, the model type first."""
        return {"model_type": MODEL_TYPE, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> ImplicitRefinementConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: A key is unknown (the nearest known one is named), a required one
                is missing, or a value is out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        checks.known_keys([key for key in settings if key not in FOREIGN_KEYS], known)
        if settings.get("model_type", MODEL_TYPE) != MODEL_TYPE:
            raise ConfigError(
                f"this configuration is of model_type {settings['model_type']!r}, "
                f"not {MODEL_TYPE!r}."
            )
        if "vocab_size" not in settings:
            raise ConfigError("the setting 'vocab_size' is missing; it has no default.")
        return cls(**{key: value for key, value in settings.items() if key in known})

    def to_json(self) -> str:
        """The settings as an indented JSON object."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def _check_range(self, name: str, low: float, high: float, closed: bool = True) -> None:
        value = getattr(self, name)
        if not _is_number(value) or not (low <= value < high or (closed and value == high)):
            bounds = f"from {low:g} to {high:g}" if closed else f"from {low:g} to below {high:g}"
            raise ConfigError(f"{name}={value!r} is out of range: legal is {bounds}.")

    def _check_switches(self) -> None:
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be true or false.")

    def _check_token_id(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and not (_is_count(value) and value < self.vocab_size):
            raise ConfigError(
                f"{name}={value!r} is no id of a vocabulary of vocab_size={self.vocab_size}: "
                f"legal ids are 0 to {self.vocab_size - 1}."
            )

    def _check_length_counts(self) -> None:
        counts = self.length_counts
        if counts is None:
            return
        legal = isinstance(counts, list | tuple) and all(_is_count(n) for n in counts)
        if not legal or len(counts) > self.max_seq_len + 1 or not any(counts[1:]):
            raise ConfigError(
                "length_counts must be a list of whole numbers from 0 to 2^53, how many training "
                f"sequences have each length from 0 to max_seq_len={self.max_seq_len}, one of "
                f"them above 0; got {reprlib.repr(counts)}."
            )

    def _check_backbone(self) -> None:
        if self.backbone is None:
            return
        if not isinstance(self.backbone, Mapping):
            raise ConfigError(
                f"backbone must be an object of settings; got {reprlib.repr(self.backbone)}."
            )
        BackboneSpec.from_dict(self.backbone)
        own = ("carry", "memory", "relations", "self_conditioning", "conditions")
        for name in own:
            if getattr(self, name):
                raise ConfigError(
                    f"{name} is a part of the project's own transformer and this model reads by a "
                    "pretrained one (backbone). Leave one of the two out."
                )

    def _check_relations(self) -> None:
        layouts = self.relations
        if layouts is None:
            if not self.attention and not self.conv_kernel_size:
                raise ConfigError(
                    "attention=False without relations or a convolution leaves every position "
                    "alone. Give relations, or keep the attention."
                )
            return
        if not _is_nested_list(layouts):
            raise ConfigError(
                "relations must be a list of layouts, a layout a list of partitions, and a "
                f"partition a list of group numbers; got {reprlib.repr(layouts)}."
            )
        counts = {len(layout) for layout in layouts}
        if len(counts) != 1 or 0 in counts:
            raise ConfigError(
                f"relations has layouts of {sorted(counts) or 'no'} partitions; every layout must "
                "have the same number of them, at least 1."
            )
        for layout in layouts:
            lengths = {len(groups) for groups in layout}
            if len(lengths) != 1 or not 1 <= min(lengths) <= self.max_seq_len:
                raise ConfigError(
                    f"a layout of relations covers {sorted(lengths)} positions; partitions must "
                    f"cover the same positions, 1 to max_seq_len={self.max_seq_len}."
                )
            size = len(layout[0])
            if any(not _is_count(n) or n >= size for groups in layout for n in groups):
                raise ConfigError(
                    f"a layout of relations for {size} positions must hold group numbers: whole "
                    f"numbers from 0 to {size - 1}."
                )
        if len({len(layout[0]) for layout in layouts}) != len(layouts):
            raise ConfigError("relations has two layouts of one length; give one for each length.")


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that a float can hold; true and false are none."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) <= sys.float_info.max


def _is_count(value: Any) -> bool:
    """Whether it is a whole number from 0 to 2^53, which a float holds exactly."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**53


def _is_nested_list(value: Any) -> bool:
    """Whether it is a list of lists of lists, the inner ones of anything."""
    kinds = (list, tuple)
    return isinstance(value, kinds) and all(
        isinstance(layout, kinds) and all(isinstance(groups, kinds) for groups in layout)
        for layout in value
    )
