"""Masked language models of Hugging Face transformers as backbones of a refiner.

The model is used as it is: its own embeddings, blocks and language-model head. The adapter
adds the special tokens that the model expects around a row (``[CLS]`` and ``[SEP]``, or a
beginning of sequence), which the rest of the library never sees, and hands out the last hidden
layer and the logits of the row's positions.
"""

from __future__ import annotations

import json
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem import checks
from imadarem.backbone_spec import BackboneSpec
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import CheckpointError, ConfigError, MissingExtraError
from imadarem.nn.transformer import BackboneOutput

#: Positions that go through the model are a multiple of it, as for the project's own network:
#: see :mod:`imadarem.sampling.batching`.
GROUP = 16
LORA_TARGETS = "all-linear"


class MaskedLMBackbone(nn.Module):
    """A pretrained language model: canvas in, states and token logits out.

    Time, beliefs and carry are of the project's own network: time and beliefs are ignored.

    Args:
        model: A ``PreTrainedModel`` with a language-model head that reads in both directions.
        spec: How it is used.
        config: Of the refiner.

    Attributes:
        model: The model itself; ``.save_pretrained`` of it writes a folder for transformers.
    """

    def __init__(self, model: Any, spec: BackboneSpec, config: ImplicitRefinementConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.most = positions_of(model)
        _read_both_ways(model)
        if spec.frozen or spec.lora:
            model.requires_grad_(False)
        if spec.lora:
            _add_lora(model, spec)
        self.model = model
        if config.gradient_checkpointing:
            self.gradient_checkpointing_enable()

    def gradient_checkpointing_enable(self) -> None:
        """Recompute the blocks in the backward pass to save memory."""
        # Named so from transformers 5.20 on.
        newer = getattr(self.model, "activation_checkpointing_enable", None)
        enable = newer or self.model.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def train(self, mode: bool = True) -> Self:
        """As in torch; a frozen model stays in evaluation mode."""
        return super().train(mode and not self.spec.frozen)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        time: Tensor | None = None,
        prev_probs: Tensor | None = None,
        carry: Tensor | None = None,
        memory: Any = None,
    ) -> BackboneOutput:
        """One pass over a canvas ``(B, L)``, the rows padded on the right."""
        if carry is not None or memory is not None:
            raise ConfigError("a pretrained masked language model has no carry and no memory.")
        length, start = input_ids.shape[1], len(self.spec.begin)
        checks.canvas_length(length, self.config.max_seq_len)
        ids, attended = self._with_ends(input_ids, attention_mask)
        read = self.model(input_ids=ids, attention_mask=attended, output_hidden_states=True)
        states, logits = read.hidden_states[-1], read.logits
        row = slice(start, start + length)
        # Heads and policies compute in float32, whatever the model does.
        return BackboneOutput(states[:, row].float(), logits[:, row].float())

    def _with_ends(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ids and attended positions with what the model expects around a row, both ``(B, L')``."""
        start, spec = len(self.spec.begin), self.spec
        length = input_ids.shape[1]
        inside = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        whole = start + length + len(spec.end)
        behind = max(min(-(-whole // GROUP) * GROUP, self.most), whole) - start - length
        ids = input_ids.masked_fill(inside == 0, spec.pad)
        ids = F.pad(ids, (start, behind), value=spec.pad)
        attended = F.pad(inside, (start, behind))
        for position, token in enumerate(spec.begin):
            ids[:, position], attended[:, position] = token, 1
        places = torch.arange(1, length + 1, device=ids.device)
        ends = start + (places * inside).amax(dim=1, keepdim=True)
        for offset, token in enumerate(spec.end):
            ids.scatter_(1, ends + offset, token)
            attended.scatter_(1, ends + offset, 1)
        return ids, attended


def build_backbone(config: ImplicitRefinementConfig) -> MaskedLMBackbone:
    """The backbone that a refiner's config describes, with random weights.

    Only a class of the installed package transformers is built; no code from a folder runs.

    Raises:
        CheckpointError: The installed transformers has no such class or cannot build it.
        MissingExtraError: transformers is not installed.
    """
    assert config.backbone is not None
    spec = BackboneSpec.from_dict(config.backbone)
    transformers = import_transformers()
    known = transformers.CONFIG_MAPPING
    kind = spec.config.get("model_type")
    cls = getattr(transformers, spec.architecture, None)
    if cls is None or kind not in known:
        raise CheckpointError(
            f"the installed transformers {transformers.__version__} has no {spec.architecture} "
            f"of model type {kind!r}. Install the version that the model was saved with."
        )
    model = cls(known[kind].from_dict(dict(spec.config)))
    dtype = getattr(torch, str(spec.config.get("dtype")), None)
    if isinstance(dtype, torch.dtype):
        model = model.to(dtype)
    return MaskedLMBackbone(model, spec, config)


def described(model: Any) -> dict[str, Any]:
    """The settings of a ``PreTrainedModel`` as JSON values."""
    settings: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=True))
    for name in ("_name_or_path", "architectures", "auto_map", "transformers_version"):
        settings.pop(name, None)
    dtype = str(model.dtype).removeprefix("torch.")
    return {"model_type": model.config.model_type, **settings, "dtype": dtype}


def positions_of(model: Any) -> int:
    """Positions that a model can number, special tokens included."""
    for part in model.modules():
        table = getattr(part, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            # RoBERTa and its kin start to count behind the padding index.
            skipped = 0 if table.padding_idx is None else table.padding_idx + 1
            return table.num_embeddings - skipped
    most = getattr(model.config, "max_position_embeddings", None)
    if most is None:
        raise ConfigError(
            f"the config of {type(model).__name__} does not say how many positions it takes "
            "(max_position_embeddings). Set it on model.config."
        )
    return int(most)


def longest_row(model: Any, specials: int) -> int:
    """Tokens of the longest row, beside so many special tokens."""
    return positions_of(model) - specials


def import_transformers() -> Any:
    """The package transformers."""
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "hf") from None
    return transformers


def _read_both_ways(model: Any) -> None:
    """Let a decoder read in both directions, and no model keep what it has read."""
    model.config.use_cache = False
    if type(model).__name__.endswith("ForMaskedLM"):
        return
    model.config.is_causal = False
    for part in model.modules():
        if hasattr(part, "is_causal"):
            part.is_causal = False
    if next(model.parameters()).device.type == "meta":
        return
    training = model.training
    with torch.no_grad():
        device = next(model.parameters()).device
        one = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=device)
        read = model.eval()(input_ids=one, attention_mask=torch.ones_like(one)).logits[:, 0]
    model.train(training)
    if torch.equal(read[0], read[1]):
        raise ConfigError(
            f"{type(model).__name__} reads from left to right alone: a blank would not see what "
            "stands behind it. Take a masked language model, or a decoder that can attend in both "
            "directions (config.is_causal=False)."
        )


def _add_lora(model: Any, spec: BackboneSpec) -> None:
    """Put trainable low-rank adapters beside the linear layers."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingExtraError("peft", "lora") from None
    alpha = 2 * spec.lora if spec.lora_alpha is None else spec.lora_alpha
    how = LoraConfig(r=spec.lora, lora_alpha=alpha, target_modules=LORA_TARGETS)
    inject_adapter_in_model(how, model)
    for weight in model.parameters():
        if weight.requires_grad:
            # What is trained is trained in float32, whatever the frozen weights are.
            weight.data = weight.data.float()
