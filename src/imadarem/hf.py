"""Refiners behind the classes of Hugging Face transformers; the core knows nothing of them.

Importing this module registers the model type, after which the Auto classes read what
``ImplicitRefinementModel.save_pretrained`` wrote, and what they save the core reads::

    import imadarem.hf
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained("run/model")
    ids = model.generate(num_return_sequences=4, seed=0)
    texts = AutoTokenizer.from_pretrained("run/model").batch_decode(ids, skip_special_tokens=True)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.checkpoint import load_tensors
from imadarem.config import FOREIGN_KEYS, MODEL_TYPE, ImplicitRefinementConfig
from imadarem.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from imadarem.model import ImplicitRefinementModel
from imadarem.model_folder import TEACHER_PREFIX, WEIGHTS, check_finite
from imadarem.nn.conversion import converted
from imadarem.pretrained import HUB_KEYS
from imadarem.sampling.loop import Step
from imadarem.sampling.samples import Samples
from imadarem.tokenizers import load_tokenizer, special_ids

try:
    from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import MaskedLMOutput
    from transformers.utils import ModelOutput
except ImportError as error:
    raise MissingExtraError("transformers", "hf") from error

__all__ = [
    "ImadaremConfig",
    "ImadaremForMaskedLM",
    "ImadaremGenerateOutput",
    "ImadaremMaskedLMOutput",
]

OUR_KEYS = tuple(field.name for field in dataclasses.fields(ImplicitRefinementConfig))
#: Settings that transformers puts into any configuration; the underscored ones come on top.
THEIR_KEYS = (
    frozenset(field.name for field in dataclasses.fields(PreTrainedConfig))
    | FOREIGN_KEYS
    | {"attn_implementation", "experts_implementation", "name_or_path", "num_labels"}
    | {"output_attentions", "tie_word_embeddings"}
)
#: Label that the loss leaves out, as everywhere in transformers.
IGNORED = -100


class ImadaremConfig(PreTrainedConfig):
    """The settings of :class:`~imadarem.ImplicitRefinementConfig`, as transformers keeps them.

    Takes the same names and defaults, checked in the same way, beside the settings that
    transformers knows for any model.

    Raises:
        ConfigError: A setting is unknown, missing or out of range.
    """

    model_type = MODEL_TYPE
    attribute_map = {
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "max_position_embeddings": "max_seq_len",
    }

    def __init__(self, **settings: Any) -> None:
        settings.pop("model_type", None)
        theirs = {
            key: settings.pop(key)
            for key in list(settings)
            if key.startswith("_") or (key in THEIR_KEYS and key not in OUR_KEYS)
        }
        settings = {self.attribute_map.get(key, key): value for key, value in settings.items()}
        core = ImplicitRefinementConfig.from_dict(settings)
        super().__init__(**theirs)
        for key, value in dataclasses.asdict(core).items():
            setattr(self, key, value)

    def core(self) -> ImplicitRefinementConfig:
        """The refiner's own configuration.

        Raises:
            ConfigError: A setting was changed to something illegal.
        """
        return ImplicitRefinementConfig(**{key: getattr(self, key) for key in OUR_KEYS})

    def to_diff_dict(self) -> dict[str, Any]:
        """What ``config.json`` holds: all of our settings, and what the core reads over."""
        theirs = super().to_diff_dict()
        kept = {key: value for key, value in theirs.items() if key in FOREIGN_KEYS}
        return {**self.core().to_dict(), **kept}


@dataclass
class ImadaremMaskedLMOutput(MaskedLMOutput):
    """``loss`` and ``logits`` of a masked language model, and the gate.

    Args:
        gate_logits: ``(B, L)``, logit that the token standing there should be predicted
            again; calibrated where the model's gate was.
    """

    gate_logits: Tensor | None = None


@dataclass
class ImadaremGenerateOutput(ModelOutput):
    """What ``generate(return_dict_in_generate=True)`` returns, ``N`` rows.

    Args:
        sequences: ``(N, L)`` token ids, padded on the right.
        forward_passes: ``(N,)`` passes that each row cost, the teacher's included.
        stopping_reasons: Why each row took no further step.
    """

    sequences: Tensor | None = None
    forward_passes: Tensor | None = None
    stopping_reasons: list[str] | None = None


class ImadaremForMaskedLM(PreTrainedModel):
    """A refiner as a ``PreTrainedModel``; ``.refiner`` is the core's model.

    Args:
        config: Must name ``mask_token_id`` where no tokenizer does.
        tokenizer: Names the special ids, and which tokens never stand in an output.
        with_teacher: Make room for the weights of an EMA teacher.

    Raises:
        TokenizerError: There is no mask token, or two special ids are the same.
    """

    config_class = ImadaremConfig
    base_model_prefix = "refiner"
    main_input_name = "input_ids"
    _no_split_modules = ["Block"]

    def __init__(
        self, config: ImadaremConfig, tokenizer: Any = None, with_teacher: bool = False
    ) -> None:
        super().__init__(config)
        self.refiner = ImplicitRefinementModel(config.core(), tokenizer=tokenizer)
        if with_teacher:
            self.refiner.init_teacher()
        self._take_over_settings()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the core's modules start as they should, the gate's bias among them."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        prev_probs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ImadaremMaskedLMOutput | tuple[Tensor, ...]:
        """One pass over a canvas; with labels, the masked-LM loss.

        The loss is the plain cross-entropy that transformers' own trainer minimises. It
        trains no gate: for that there is :class:`imadarem.Trainer`.

        Args:
            input_ids: ``(B, L)`` token ids, blanks as the mask id.
            attention_mask: ``(B, L)``, nonzero where a token is real.
            labels: ``(B, L)`` token ids; -100 where nothing is asked.
            prev_probs: ``(B, L, V)``, the last pass's probabilities (self-conditioning).
            token_type_ids: Ignored; tokenizers of the BERT family send it along.
            return_dict: False returns a tuple without the entries that are None.
        """
        output = self.refiner(input_ids, attention_mask, prev_probs=prev_probs)
        loss = None
        if labels is not None:
            flat = output.logits.flatten(0, 1).float()
            loss = F.cross_entropy(flat, labels.to(flat.device).flatten(), ignore_index=IGNORED)
        result = ImadaremMaskedLMOutput(
            loss=loss, logits=output.logits, gate_logits=output.gate_logits
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return result if as_dict else result.to_tuple()

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        num_return_sequences: int = 1,
        max_refinement_steps: int | None = None,
        max_denoising_steps: int | None = None,
        temperature: float | None = None,
        do_sample: bool | None = None,
        length: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        streamer: Any = None,
        return_dict_in_generate: bool = False,
        **sampling: Any,
    ) -> Tensor | ImadaremGenerateOutput:
        """Samples from blank canvases, or prompts with their blanks filled.

        Args:
            input_ids: ``(B, L)`` prompts with the mask id at each blank; None samples freely.
            attention_mask: ``(B, L)``, zero where a prompt is padded; None takes padding at
                the end of a prompt for padding.
            num_return_sequences: Samples, for each prompt where there are prompts.
            max_refinement_steps: Hard cap on refinement steps; default the config's.
            max_denoising_steps: The same, as transformers' text-diffusion models call it.
            temperature: Default ``sampling_temperature``; 0 takes the likeliest token.
            do_sample: False is ``temperature=0``.
            length: Canvas length of free samples; default as in
                :meth:`imadarem.ImplicitRefinementModel.sample`.
            generator: Draws the seed where ``seed`` is None.
            seed: The same seed gives the same rows.
            streamer: Has ``put`` and ``end``, and may have ``put_draft``, which is shown the
                canvas of each step; for one row only. Its prompt is empty: what is given
                stands in the canvas itself.
            return_dict_in_generate: Return counts and reasons beside the ids.
            sampling: ``policy``, ``schedule``, ``top_k``, ``top_p``: see
                :class:`~imadarem.sampling.settings.SamplingOptions`.

        Returns:
            ``(N, L)`` ids on the model's device, padded on the right, without EOS; or an
            :class:`ImadaremGenerateOutput`.

        Raises:
            ConfigError: A setting is out of range, contradicts another one, or does not
                suit the prompts.
            DataError: A prompt or a length is too long or empty.
        """
        self.refiner.config = self.config.core()
        rows = None if input_ids is None else self._prompts(input_ids, attention_mask)
        count = num_return_sequences * (1 if rows is None else len(rows))
        if num_return_sequences < 1:
            raise ConfigError(f"num_return_sequences={num_return_sequences} must be at least 1.")
        if streamer is not None and count != 1:
            raise ConfigError(f"a streamer shows one row, and {count} were asked for.")
        settings: dict[str, Any] = {
            "steps": _one_of(
                max_refinement_steps=max_refinement_steps, max_denoising_steps=max_denoising_steps
            ),
            "temperature": _temperature(temperature, do_sample),
            **sampling,
            "seed": seed,
            "generator": generator,
            "on_step": None if streamer is None else _Drafts(streamer),
        }
        if rows is None:
            samples = self.refiner.sample(num_return_sequences, length=length, **settings)
        elif length is not None:
            raise ConfigError("length is for free samples; a prompt has the length that it has.")
        else:
            repeated = [row for row in rows for _ in range(num_return_sequences)]
            samples = self.refiner.infill(repeated, **settings)
        if streamer is not None:
            streamer.put(samples.rows[0].ids)
            streamer.end()
        return self._generated(samples, return_dict_in_generate)

    def _prompts(self, input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
        if input_ids.ndim != 2 or input_ids.numel() == 0:
            raise DataError(f"prompts must be (B, L) ids; got {tuple(input_ids.shape)}.")
        if attention_mask is None:
            # Padding before the last real token was put there on purpose.
            real = input_ids != self.refiner.special.pad
            attention_mask = real.flip(1).cumsum(1).flip(1) > 0
        return [
            row[kept.bool()].tolist() for row, kept in zip(input_ids, attention_mask, strict=True)
        ]

    def _generated(self, samples: Samples, as_dict: bool) -> Tensor | ImadaremGenerateOutput:
        sequences = nn.utils.rnn.pad_sequence(
            [row.ids for row in samples.rows],
            batch_first=True,
            padding_value=self.refiner.special.pad,
        ).to(self.device)
        if not as_dict:
            return sequences
        return ImadaremGenerateOutput(
            sequences=sequences,
            forward_passes=torch.tensor(samples.forward_passes),
            stopping_reasons=samples.stopping_reasons,
        )

    # Saving and loading

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a folder or hub repository that the core, or this class, has written.

        Takes what ``PreTrainedModel.from_pretrained`` takes, and ``tokenizer`` instead of
        the one saved with the model. Strict: no weight may be missing or left over.

        Raises:
            CheckpointError: Weights are missing, left over, of another shape or not finite, or
                the folder cannot be used for another reason.
        """
        folder = _folder(str(pretrained_model_name_or_path), kwargs)
        config, header = ImplicitRefinementModel.check_folder(folder)
        tokenizer = kwargs.pop("tokenizer", None)
        if tokenizer is None and (folder / "tokenizer_config.json").is_file():
            tokenizer = load_tokenizer(folder, config.vocab_size)
        wants_info = kwargs.pop("output_loading_info", False)
        weights = converted(load_tensors(folder / WEIGHTS), config.num_heads)
        prefix = f"{cls.base_model_prefix}."
        kwargs.setdefault("config", ImadaremConfig.from_pretrained(str(folder)))
        model, info = super().from_pretrained(
            None,
            *model_args,
            state_dict={prefix + name: weight for name, weight in weights.items()},
            with_teacher=any(name.startswith(TEACHER_PREFIX) for name in header),
            output_loading_info=True,
            **kwargs,
        )
        _refuse_gaps(folder, info)
        check_finite(folder / WEIGHTS, model.refiner.state_dict())
        if model.refiner.teacher is not None:
            # The loader puts fresh parameters in place, which all ask for a gradient.
            model.refiner.teacher.requires_grad_(False)
        model._attach(tokenizer)
        return (model, info) if wants_info else model

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save as the core does: its ``from_pretrained`` and the Auto classes read the folder.

        Args:
            save_directory: Made if it does not exist.
            state_dict: Weights to save instead of the present ones, such as those gathered
                from several devices.
            push_to_hub: Upload too; ``repo_id`` names the repository.
            kwargs: ``repo_id``, ``token``, ``revision``, … of the upload; what else
                transformers' trainer passes has no effect, there is one file format.
        """
        if not kwargs.pop("is_main_process", True):
            return
        self.refiner.config = self.config.core()
        model = self.refiner
        if state_dict is not None:
            model = ImplicitRefinementModel(self.refiner.config, tokenizer=self.refiner.tokenizer)
            if self.refiner.teacher is not None:
                model.init_teacher()
            prefix = f"{self.base_model_prefix}."
            model.load_state_dict({k.removeprefix(prefix): v for k, v in state_dict.items()})
        for inert in ("safe_serialization", "max_shard_size", "save_peft_format", "variant"):
            kwargs.pop(inert, None)
        model.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _attach(self, tokenizer: Any) -> None:
        if tokenizer is None:
            return
        self.refiner.tokenizer = tokenizer
        self.refiner.special = special_ids(tokenizer, self.config.vocab_size)
        self._take_over_settings()

    def _take_over_settings(self) -> None:
        """Let the configuration name the special ids that the tokenizer decided."""
        for name in ("mask_token_id", "pad_token_id", "eos_token_id", "nothing_token_id"):
            setattr(self.config, name, getattr(self.refiner.config, name))

    # What tools of transformers ask for

    def get_input_embeddings(self) -> nn.Module:
        return self.refiner.network.backbone.get_submodule("tokens")

    def get_output_embeddings(self) -> nn.Module:
        return self.refiner.network.backbone.get_submodule("to_logits")

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Not supported.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "a refiner's vocabulary is fixed. Make a new model with "
            "vocab_size=len(tokenizer), after adding the tokens."
        )


class _Drafts:
    """Shows a streamer the canvas of each step; blanks stand in it as the mask id."""

    def __init__(self, streamer: Any) -> None:
        self.streamer = streamer
        # The prompt comes first in transformers, and some streamers skip it.
        streamer.put(torch.empty(0, dtype=torch.long))

    def __call__(self, numbers: Tensor, step: Step) -> None:
        if hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(step.canvas.sequences()[0])


def _one_of(**names: int | None) -> int | None:
    """The one value that is given under several names.

    Raises:
        ConfigError: Two names disagree.
    """
    given = {name: value for name, value in names.items() if value is not None}
    if len(set(given.values())) > 1:
        shown = " and ".join(f"{name}={value}" for name, value in given.items())
        raise ConfigError(f"{shown} are the same setting with two values. Give one.")
    return next(iter(given.values()), None)


def _temperature(temperature: float | None, do_sample: bool | None) -> float | None:
    if do_sample is not False:
        return temperature
    if temperature:
        raise ConfigError(
            f"do_sample=False takes the likeliest token, and temperature={temperature} draws. "
            "Give one of them."
        )
    return 0.0


def _folder(name: str, kwargs: dict[str, Any]) -> Path:
    """The folder of a model; from here on nothing asks the hub again."""
    hub = {key: kwargs.pop(key) for key in HUB_KEYS if key in kwargs}
    subfolder = kwargs.pop("subfolder", "")
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, **hub))
    return folder / subfolder


def _refuse_gaps(folder: Path, info: Mapping[str, Any]) -> None:
    troubles = {
        "missing": sorted(info["missing_keys"]),
        "left over": sorted(info["unexpected_keys"]),
        "of another shape": sorted(str(key) for key in info["mismatched_keys"]),
    }
    found = [f"{keys[0]} is {what}" for what, keys in troubles.items() if keys]
    if found:
        raise CheckpointError(
            f"the weights in {folder / WEIGHTS} do not fit the config: {', '.join(found)}. "
            "Fetch or save the model again."
        )


AutoConfig.register(MODEL_TYPE, ImadaremConfig)
AutoModelForMaskedLM.register(ImadaremConfig, ImadaremForMaskedLM)
