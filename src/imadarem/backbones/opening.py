"""From a pretrained masked language model to the parts of a refiner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from imadarem import checks
from imadarem.backbone_spec import BackboneSpec
from imadarem.backbones.masked_lm import (
    MaskedLMBackbone,
    described,
    import_transformers,
    longest_row,
)
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import CheckpointError, ConfigError, TokenizerError
from imadarem.tokenizers.contract import fixed_vocabulary_ids

Model = TypeVar("Model", bound=nn.Module)

#: Head → the settings of a refiner that has it.
HEADS: dict[str, dict[str, Any]] = {
    "gate": {},
    "verdict": {"judge": True},
    "halting": {"halting": True},
    "joint": {"joint_size": 128},
}
#: A word that is read with and without the special tokens around it.
PROBE = "A"


def from_masked_lm(
    cls: type[Model],
    /,
    source: Any,
    *,
    tokenizer: Any = None,
    heads: Sequence[str] = ("gate",),
    dtype: Any = None,
    device_map: Any = None,
    freeze: bool = False,
    lora: int = 0,
    **settings: Any,
) -> Model:
    """A refiner whose network is a pretrained masked language model.

    The model keeps its weights, its vocabulary and its own head; rows are texts without the
    special tokens that it expects around them, which are added in every pass. All policies
    without training work at once. The gate is, before it is trained, the model's own
    probability that the token in its place is wrong.

    Args:
        source: A folder or hub name that transformers reads, ``"antiberty"``, or a loaded
            ``PreTrainedModel``: any class with a masked-language-model head, or a decoder,
            which is then read in both directions.
        tokenizer: With a mask token; default the model's own.
        heads: What stands on the model's states: ``gate``, ``verdict`` (which rows are
            right), ``halting``, ``joint`` (draws the blanks of a pass jointly). All but the
            gate are of use only once they are trained.
        dtype: Of the weights of the pretrained model, such as ``torch.bfloat16``.
        device_map: Where its layers go, as in transformers.
        freeze: Train the heads alone.
        lora: Rank of trainable LoRA adapters beside the frozen weights; 0 trains all weights.
        settings: ``revision`` of the hub, and settings of
            :class:`~imadarem.ImplicitRefinementConfig`, such as ``max_refinement_steps``. The
            length of a row is given unless ``length_mode="eos"`` lets the model end it.

    Raises:
        CheckpointError: There is no such model.
        ConfigError: A setting is out of range, or ``trust_remote_code`` is asked for.
        MissingExtraError: transformers, or peft for ``lora``, is not installed.
    """
    parts = _parts(source, tokenizer, heads, dtype, device_map, freeze, lora, settings)
    model = cls(*parts).eval()
    network: Any = model.network
    # The heads go where the pretrained model begins, and where it hands its states out.
    device = next(network.backbone.parameters()).device
    for name, part in network.named_children():
        if name != "backbone":
            part.to(device)
    return model


def _parts(
    source: Any,
    tokenizer: Any,
    heads: Sequence[str],
    dtype: Any,
    device_map: Any,
    freeze: bool,
    lora: int,
    settings: dict[str, Any],
) -> tuple[ImplicitRefinementConfig, Any, MaskedLMBackbone]:
    """Config, tokenizer and backbone of a refiner."""
    if settings.pop("trust_remote_code", False):
        raise ConfigError(
            "trust_remote_code=True is refused: it would run code from the model's repository. "
            "Only classes of the installed transformers are used; build another model yourself "
            "and pass the object."
        )
    revision = settings.pop("revision", None)
    for head in heads:
        checks.one_of("heads", head, HEADS)
    model, tokenizer = _model_and_tokenizer(source, tokenizer, dtype, device_map, revision)
    length_mode = settings.setdefault("length_mode", "drawn")
    size = int(model.config.vocab_size)
    special = fixed_vocabulary_ids(tokenizer, size, ends=length_mode == "eos")
    begin, end = _around_a_row(tokenizer)
    spec = BackboneSpec(
        architecture=type(model).__name__,
        config=described(model),
        pad=special.pad,
        begin=begin,
        end=end,
        frozen=freeze,
        lora=lora,
        **_origin(source, model, revision),
    )
    width, attention_heads = _width_and_heads(model.config)
    decided: dict[str, Any] = {
        "vocab_size": size,
        "backbone": spec.to_dict(),
        "hidden_size": width,
        "num_heads": attention_heads,
        "num_layers": int(getattr(model.config, "num_hidden_layers", 1)),
        "self_conditioning": False,
        "positions": False,
        "gate_bias_init": 0.0,
        "gate_from_likelihood": True,
    }
    most = longest_row(model, len(begin) + len(end))
    _check_settings(settings, decided, most)
    for head in heads:
        decided |= HEADS[head]
    config = ImplicitRefinementConfig.from_dict({"max_seq_len": most, **decided, **settings})
    return config, tokenizer, MaskedLMBackbone(model, spec, config)


def _check_settings(settings: dict[str, Any], decided: dict[str, Any], most: int) -> None:
    """Refuse settings that the pretrained model decides, or that it cannot meet."""
    for name in settings:
        if name in decided:
            raise ConfigError(
                f"{name}={settings[name]!r} cannot be set: the pretrained model decides it. Leave "
                "it out."
            )
    if settings.get("max_seq_len", most) > most:
        raise ConfigError(
            f"max_seq_len={settings['max_seq_len']} is more than the {most} tokens that the "
            "positions of the pretrained model leave for a row."
        )


def _model_and_tokenizer(
    source: Any, tokenizer: Any, dtype: Any, device_map: Any, revision: str | None
) -> tuple[Any, Any]:
    """The loaded model, and the given tokenizer or its own."""
    transformers = import_transformers()
    if isinstance(source, transformers.PreTrainedModel):
        if tokenizer is None:
            raise ConfigError("give tokenizer= beside a model object: it names the mask token.")
        return source if dtype is None else source.to(dtype), tokenizer
    name = str(source)
    if name == "antiberty":
        from imadarem.backbones.antiberty import load_antiberty

        model, own = load_antiberty()
        return model if dtype is None else model.to(dtype), tokenizer or own
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise CheckpointError(f"{name} has no config.json, so it is no model of transformers.")
    how = {"dtype": dtype, "device_map": device_map, "revision": revision}
    given = {key: value for key, value in how.items() if value is not None}
    at = {} if revision is None else {"revision": revision}
    try:
        settings = transformers.AutoConfig.from_pretrained(name, **at)
        loader = _loader(transformers, settings, name)
        model = loader.from_pretrained(name, config=settings, **given)
        return model, tokenizer or transformers.AutoTokenizer.from_pretrained(name, **at)
    except ConfigError:
        raise
    # transformers raises a dozen kinds for what is missing, damaged or unknown to it.
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{name!r} cannot be loaded as a masked language model: {reason}"
        ) from error


def _origin(source: Any, model: Any, revision: str | None) -> dict[str, Any]:
    """Under which name a model was fetched, and its commit where the hub told it."""
    if not isinstance(source, str) or Path(source).exists():
        return {}
    return {"source": source, "revision": getattr(model.config, "_commit_hash", None) or revision}


def _loader(transformers: Any, settings: Any, name: str) -> Any:
    """The Auto class that has a language-model head for this config."""
    for loader in (transformers.AutoModelForMaskedLM, transformers.AutoModelForCausalLM):
        if type(settings) in loader._model_mapping:
            return loader
    raise ConfigError(
        f"{name!r} is of model type {settings.model_type!r}, for which transformers has neither a "
        "masked language model nor a decoder. Name a model with a language-model head."
    )


def _around_a_row(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special ids that a tokenizer puts in front of a row and behind it."""
    if not hasattr(tokenizer, "encode"):
        return (), ()
    bare = list(tokenizer.encode(PROBE, add_special_tokens=False))
    whole = list(tokenizer.encode(PROBE, add_special_tokens=True))
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return tuple(whole[:start]), tuple(whole[start + len(bare) :])
    raise TokenizerError(
        f"this tokenizer reads {PROBE!r} as {bare} and, with special tokens, as {whole}: it cannot "
        "be seen what it puts around a row. Give a tokenizer of transformers."
    )


def _width_and_heads(config: Any) -> tuple[int, int]:
    """The width of the states, and heads of even size for a judge's own block."""
    width = int(config.hidden_size)
    wanted = int(getattr(config, "num_attention_heads", 8))
    if width % 2:
        raise ConfigError(f"hidden_size={width} of this model is odd; heads need an even width.")
    return width, math.gcd(width // 2, wanted)
