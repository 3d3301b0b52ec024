"""The refiner as a ``PreTrainedModel``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from imadarem.checkpoint import load_tensors
from imadarem.errors import ConfigError
from imadarem.hf.config import ImadaremConfig
from imadarem.hf.generation import CanvasGeneration
from imadarem.hf.outputs import ImadaremMaskedLMOutput
from imadarem.model import ImplicitRefinementModel
from imadarem.model_folder import TEACHER_PREFIX, WEIGHTS, check_finite, converted, no_fit
from imadarem.pretrained import HUB_KEYS
from imadarem.tokenizers import load_tokenizer, special_ids

#: Label that the loss leaves out, as everywhere in transformers.
IGNORED = -100


class ImadaremForMaskedLM(CanvasGeneration, PreTrainedModel):
    """A refiner as a ``PreTrainedModel``; ``.refiner`` is the core's model.

    Args:
        config: Must name ``mask_token_id`` where no tokenizer does.
        tokenizer: Names the special ids, and which tokens never stand in an output.
        with_teacher: Make room for the weights of an EMA teacher.
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
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        prev_probs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImadaremMaskedLMOutput | tuple[Tensor, ...]:
        """One pass over a canvas; with labels, the masked-LM loss.

        The loss is the plain cross-entropy that transformers' own trainer minimises. It
        trains no gate: for that there is :class:`imadarem.Trainer`.

        Args:
            input_ids: ``(B, L)`` token ids, blanks as the mask id.
            attention_mask: ``(B, L)``, nonzero where a token is real.
            labels: ``(B, L)`` token ids; -100 at positions that do not count.
            prev_probs: ``(B, L, V)``, the last pass's probabilities (self-conditioning).
            token_type_ids: Ignored; tokenizers of the BERT family send it along.
            inputs_embeds: Refused: which positions are blank is read off the ids.
            output_hidden_states: Also return ``(B, L, D)`` states: the embeddings, and what each
                block gives. Default as in the config.
            output_attentions: Refused: the attention never forms its matrix.
            return_dict: False returns a tuple without the entries that are None.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ConfigError(
                "a refiner reads input_ids: it sees by them which positions are blank. Give "
                "input_ids, with the mask id at each blank, and no inputs_embeds."
            )
        if self.config.output_attentions if output_attentions is None else output_attentions:
            raise ConfigError(
                "output_attentions=True is not possible: the attention is computed without forming "
                "its matrix. Leave it out."
            )
        wants_states = output_hidden_states
        if wants_states is None:
            wants_states = self.config.output_hidden_states
        with self._recorded_states() if wants_states else nullcontext() as states:
            output = self.refiner(input_ids, attention_mask, prev_probs=prev_probs)
        loss = None
        if labels is not None:
            flat = output.logits.flatten(0, 1).float()
            loss = F.cross_entropy(flat, labels.to(flat.device).flatten(), ignore_index=IGNORED)
        result = ImadaremMaskedLMOutput(
            loss=loss,
            logits=output.logits,
            hidden_states=None if states is None else tuple(states),
            gate_logits=output.gate_logits,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return result if as_dict else result.to_tuple()

    @contextmanager
    def _recorded_states(self) -> Iterator[list[Tensor]]:
        """What enters the first block and leaves each one, ``(B, L, D)``, while this is open."""
        states: list[Tensor] = []

        def enters(block: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not states:
                states.append(inputs[0])

        def leaves(block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            states.append(output)

        blocks = list(self._blocks())
        handles = [blocks[0].register_forward_pre_hook(enters)]
        handles += [block.register_forward_hook(leaves) for block in blocks]
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()

    def _blocks(self) -> nn.ModuleList:
        blocks: Any = self.refiner.network.backbone.get_submodule("blocks")
        return blocks

    # Saving and loading

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a folder or hub repository that the core, or this class, has written.

        Takes what ``PreTrainedModel.from_pretrained`` takes, and ``tokenizer`` instead of
        the one saved with the model. Strict: no weight may be missing or left over.
        """
        folder = _folder(str(pretrained_model_name_or_path), kwargs)
        config, header = ImplicitRefinementModel.check_folder(folder)
        if config.backbone is not None:
            raise ConfigError(
                f"the network in {folder} is a {config.backbone['architecture']}, and the Auto "
                "classes read the project's own. Use ImplicitRefinementModel.from_pretrained; the "
                "model of transformers is its network.backbone.model."
            )
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

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Module:
        """Make room for tokens added to the tokenizer; do it before an optimiser is made.

        A new token starts as the mean of the known ones and is hardly ever drawn. The EMA
        teacher is left behind, and the tokenizer that was saved with the model, which does not
        know the tokens: save your own beside the model.

        Args:
            new_num_tokens: ``len(tokenizer)``; None changes nothing.
            args: Have no effect, as ``kwargs``.
        """
        known = self.config.vocab_size
        if new_num_tokens is None or new_num_tokens == known:
            return self.get_input_embeddings()
        if new_num_tokens < known:
            raise ConfigError(
                f"new_num_tokens={new_num_tokens} is less than the vocabulary of {known} tokens. A "
                "vocabulary can only grow; train a new model for a smaller one."
            )
        where = next(self.refiner.parameters())
        grown = self.refiner.with_vocabulary(vocab_size=new_num_tokens)
        self.refiner = grown.to(where.device, where.dtype).train(self.training)
        self.config.vocab_size = new_num_tokens
        return self.get_input_embeddings()

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Any = None, **kwargs: Any
    ) -> None:
        """Recompute the blocks in the backward pass to save memory.

        Args:
            gradient_checkpointing_kwargs: Have no effect, as ``kwargs``; checkpoints are never
                re-entrant.
        """
        self._checkpoint_gradients(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep the activations of the blocks again."""
        self._checkpoint_gradients(False)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether the blocks are recomputed in the backward pass."""
        return bool(self.config.gradient_checkpointing)

    def _checkpoint_gradients(self, on: bool) -> None:
        self.config.gradient_checkpointing = on
        self.refiner.config = self.config.core()


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
        raise no_fit(folder / WEIGHTS, ", ".join(found))
