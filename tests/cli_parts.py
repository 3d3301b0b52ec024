"""What the tests of the command line share: saved models, and JSON Lines read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from imadarem.config import ImplicitRefinementConfig
from imadarem.data.corpus import TokenCorpus
from imadarem.data.moses import load_moses_sample
from imadarem.model import ImplicitRefinementModel
from imadarem.tokenizers import CorpusTokenizer

SIXTY = load_moses_sample("train")[:60]
WORDS = ["the cat sat", "a dog ran"]


def saved_model(folder: Path, tokenizer: CorpusTokenizer, texts: list[str], **settings: Any) -> str:
    """The folder of a model with random weights, its canvases as long as ``texts``."""
    counts = TokenCorpus.from_rows(map(tokenizer.encode, texts), len(tokenizer)).length_counts()
    given: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "length_mode": "drawn",
        "length_counts": counts,
        "max_seq_len": len(counts) - 1,
    }
    torch.manual_seed(0)
    config = ImplicitRefinementConfig(**{**given, **settings})
    ImplicitRefinementModel(config, tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


def records(text: str) -> list[Any]:
    """The objects of JSON Lines; fails on a line that is none."""
    return [json.loads(line) for line in text.splitlines()]


def never(text: str) -> bool:
    """A check that accepts nothing."""
    return False
