"""Tiny masked language models of the families that transformers has, with random weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers

from imadarem.backbones.antiberty import amino_acid_tokenizer
from imadarem.config import ImplicitRefinementConfig
from imadarem.model import ImplicitRefinementModel

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENDS = {"bos_token_id": 2, "eos_token_id": 3}
#: Architecture → the settings of its config.
FAMILIES: dict[str, dict[str, Any]] = {
    "BertForMaskedLM": {**SIZES, **PLAIN},
    "RobertaForMaskedLM": {**SIZES, **PLAIN, **ENDS},
    "DistilBertForMaskedLM": {
        **{"vocab_size": len(VOCABULARY), "dim": 32, "n_layers": 2, "n_heads": 2},
        **{"hidden_dim": 48, "max_position_embeddings": 66, "pad_token_id": 0},
        **{"dropout": 0.0, "attention_dropout": 0.0},
    },
    # Attention to 4 neighbours on either side in every second block.
    "ModernBertForMaskedLM": {
        **SIZES,
        **ENDS,
        **{"cls_token_id": 2, "sep_token_id": 3},
        **{"global_attn_every_n_layers": 2, "local_attention": 8},
    },
    # Scales what is given by the share of blanks, as ESM-2 does.
    "EsmForMaskedLM": {
        **SIZES,
        **PLAIN,
        **{"mask_token_id": 4, "position_embedding_type": "rotary", "token_dropout": True},
    },
    "LlamaForCausalLM": {**SIZES, **ENDS, "num_key_value_heads": 2},
}


@cache
def tokenizer() -> Any:
    return amino_acid_tokenizer(VOCABULARY)


def plain_model(family: str) -> Any:
    """A model of transformers whose every weight is random, its zeros and ones too."""
    torch.manual_seed(0)
    name = family.removesuffix("ForMaskedLM").removesuffix("ForCausalLM")
    model = getattr(transformers, family)(
        getattr(transformers, f"{name}Config")(**FAMILIES[family])
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def own_refiner() -> ImplicitRefinementModel:
    """The project's own network, with random weights, over the same tokens."""
    torch.manual_seed(0)
    config = ImplicitRefinementConfig(
        **{"vocab_size": len(VOCABULARY), "hidden_size": 32, "num_layers": 2, "num_heads": 2},
        **{"max_seq_len": 64, "dropout": 0.0, "self_conditioning": False},
        **{"length_mode": "drawn", "gate_from_likelihood": True, "gate_bias_init": 0.0},
    )
    ending = amino_acid_tokenizer(VOCABULARY)
    ending.eos_token = "[SEP]"
    model = ImplicitRefinementModel(config, tokenizer=ending)
    with torch.no_grad():
        for weight in model.network.backbone.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()


def refiner(family: str = "BertForMaskedLM", **given: Any) -> ImplicitRefinementModel:
    if family == "own":
        return own_refiner()
    return ImplicitRefinementModel.from_masked_lm(
        plain_model(family), tokenizer=tokenizer(), **given
    )
