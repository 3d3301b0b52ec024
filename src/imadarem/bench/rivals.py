"""Models of the same size that write as many tokens, each with random weights and its own loop.

Speed does not depend on the weights, and nothing here says anything about quality.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from imadarem.errors import MissingExtraError

__all__ = ["RIVALS", "Rival", "Size", "bert_model", "gpt2_model", "parameters"]

PAD, MASK, EOS = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Size:
    """What the models have in common.

    Attributes:
        vocab: Token ids.
        layers: Layers of a transformer.
        heads: Attention heads.
        length: Tokens that each row gets.
        passes: Passes of those that refine.
        parameters: Parameters to come close to.
    """

    vocab: int
    layers: int
    heads: int
    length: int
    passes: int
    parameters: int


@dataclass(frozen=True)
class Rival:
    """A model and how it samples.

    Attributes:
        name: As it is printed.
        parameters: How many it has.
        sample: Rows → ids ``(rows, length)``.
    """

    name: str
    parameters: int
    sample: Callable[[int], Tensor]


def parameters(model: nn.Module) -> int:
    """Numbers that are learned, a shared one once."""
    return sum(p.numel() for p in model.parameters())


def gpt2_model(size: Size, **settings: Any) -> Any:
    """``GPT2LMHeadModel`` of transformers; ``settings`` go to its ``GPT2Config``."""
    transformers = _transformers()

    def build(width: int) -> Any:
        config = transformers.GPT2Config(
            vocab_size=size.vocab,
            n_embd=width,
            n_layer=size.layers,
            n_head=size.heads,
            n_positions=size.length + 2,
            bos_token_id=EOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
            **settings,
        )
        return transformers.GPT2LMHeadModel(config)

    return _sized(build, size)


def gpt2(size: Size) -> Rival:
    """``GPT2LMHeadModel.generate`` of transformers, with its cache of keys and values."""
    model = gpt2_model(size)

    def sample(rows: int) -> Tensor:
        prompt = torch.full((rows, 1), EOS)
        count = {"min_new_tokens": size.length, "max_new_tokens": size.length}
        mask = torch.ones_like(prompt)
        ids = model.generate(prompt, attention_mask=mask, do_sample=True, top_k=0, **count)
        return ids[:, 1:]

    return Rival("GPT-2, KV cache", parameters(model), sample)


def bert_model(size: Size, **settings: Any) -> Any:
    """``BertForMaskedLM`` of transformers; ``settings`` go to its ``BertConfig``."""
    transformers = _transformers()

    def build(width: int) -> Any:
        config = transformers.BertConfig(
            vocab_size=size.vocab,
            hidden_size=width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=4 * width,
            max_position_embeddings=size.length + 2,
            pad_token_id=PAD,
            **settings,
        )
        return transformers.BertForMaskedLM(config)

    return _sized(build, size)


def bert(size: Size) -> Rival:
    """``BertForMaskedLM`` by mask-predict (arXiv:1904.09324)."""
    model = bert_model(size)

    @torch.no_grad()
    def sample(rows: int) -> Tensor:
        ids = torch.full((rows, size.length), MASK)
        for step in range(1, size.passes + 1):
            logits = model(ids, attention_mask=torch.ones_like(ids)).logits
            logits[..., MASK] = float("-inf")
            probs = logits.softmax(-1)
            drawn = torch.multinomial(probs.flatten(0, 1), 1).view_as(ids)
            ids = torch.where(ids == MASK, drawn, ids)
            again = size.length * (size.passes - step) // size.passes
            standing = probs.gather(-1, ids[..., None]).squeeze(-1)
            ids = ids.scatter(1, standing.topk(again, largest=False).indices, MASK)
        return ids

    return Rival("BERT, mask-predict", parameters(model), sample)


def x_transformers(size: Size) -> Rival:
    """``NonAutoregressiveWrapper`` of x-transformers, as it stands."""
    package = _package("x_transformers", "bench")

    def build(width: int) -> Any:
        layers = package.Encoder(
            dim=width, depth=size.layers, heads=size.heads, attn_dim_head=width // size.heads
        )
        # The wrapper's mask is one id more than the vocabulary.
        net = package.TransformerWrapper(
            num_tokens=size.vocab + 1, max_seq_len=size.length, attn_layers=layers
        )
        return package.NonAutoregressiveWrapper(net, mask_id=size.vocab, steps=size.passes)

    model = _sized(build, size)
    return Rival(
        "x-transformers, NonAutoregressiveWrapper",
        parameters(model),
        lambda rows: model.generate(batch_size=rows),
    )


def char_rnn(size: Size) -> Rival:
    """Three LSTM layers, as in MOSES' CharRNN (arXiv:1811.12823), one token a step."""

    class CharRnn(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.tokens = nn.Embedding(size.vocab, width)
            self.recurrence = nn.LSTM(width, width, num_layers=3, batch_first=True)
            self.to_logits = nn.Linear(width, size.vocab)

    model = _sized(CharRnn, size)

    @torch.no_grad()
    def sample(rows: int) -> Tensor:
        token, state, written = torch.full((rows, 1), EOS), None, []
        for _ in range(size.length):
            hidden, state = model.recurrence(model.tokens(token), state)
            token = torch.multinomial(model.to_logits(hidden[:, -1]).softmax(-1), 1)
            written.append(token)
        return torch.cat(written, dim=1)

    return Rival("LSTM, CharRNN", parameters(model), sample)


RIVALS: dict[str, Callable[[Size], Rival]] = {
    "gpt2": gpt2,
    "bert": bert,
    "x-transformers": x_transformers,
    "char-rnn": char_rnn,
}


def _sized(build: Callable[[int], Any], size: Size) -> Any:
    """The model whose width brings it nearest to the wanted number of parameters."""

    def missed(width: int) -> int:
        # Shapes alone: none of these is kept.
        with torch.device("meta"):
            return abs(parameters(build(width)) - size.parameters)

    grain = 2 * size.heads
    width = grain
    while missed(width + grain) <= missed(width):
        width += grain
    return build(width).eval()


def _transformers() -> Any:
    package = _package("transformers", "hf")
    package.logging.set_verbosity_error()
    return package


def _package(name: str, extra: str) -> Any:
    try:
        with warnings.catch_warnings():
            # x-transformers compiles parts of itself in a way that torch gives up.
            warnings.simplefilter("ignore", DeprecationWarning)
            return import_module(name)
    except ImportError:
        raise MissingExtraError(name.replace("_", "-"), extra) from None
