"""Models of the same size with random weights, ours and others, each with its own sampling loop.

Speed does not depend on the weights, and nothing here says anything about quality.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from scripted import ScriptedGate
from torch import Tensor, nn

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.sampling.policies import LeftToRight, Policy

PAD, MASK, EOS = 0, 1, 2
SPECIAL = SimpleNamespace(mask_token_id=MASK, pad_token_id=PAD, eos_token_id=EOS)


@dataclass(frozen=True, kw_only=True)
class Size:
    """What the models have in common.

    Attributes:
        width: Of the refiner; the others get the width that has as many parameters.
        vocab: Token ids.
        layers: Layers of a transformer.
        heads: Attention heads.
        length: Tokens that each row gets.
        passes: Passes of those that refine.
    """

    width: int
    vocab: int
    layers: int
    heads: int
    length: int
    passes: int


@dataclass(frozen=True)
class Row:
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


# ---------------------------------------------------------------- ours


def refiner(size: Size, **settings: Any) -> ImplicitRefinementModel:
    """The architecture of the shipped molecule models; rows end by the policy alone."""
    given = {"conv_kernel_size": 5, "self_conditioning": False, "length_mode": "drawn"}
    config = ImplicitRefinementConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        num_layers=size.layers,
        num_heads=size.heads,
        max_seq_len=size.length + 2,
        max_refinement_steps=size.passes,
        stop_threshold=1.0,
        **{**given, **settings},
    )
    return ImplicitRefinementModel(config, SPECIAL).eval()


def refined(name: str, model: ImplicitRefinementModel, size: Size, policy: Policy) -> Row:
    """A refiner whose ``sample`` takes the policy."""
    # Other rows every time: when a row ends is a matter of its seed.
    seeds = count()

    def sample(rows: int) -> Tensor:
        asked = {"length": size.length, "steps": size.passes, "batch_size": rows}
        drawn = model.sample(rows, policy=policy, seed=next(seeds), **asked)
        return torch.stack([row.ids for row in drawn.rows])

    return Row(name, parameters(model), sample)


def dense(size: Size) -> Row:
    """Every token drawn anew in every pass, and no row ends early."""
    return refined("refiner, dense", refiner(size), size, _everything(size))


def scripted(size: Size) -> Row:
    """Shares and ends as :class:`~scripted.ScriptedGate` has them."""
    return refined("refiner, scripted gate", refiner(size), size, ScriptedGate())


def joint(size: Size) -> Row:
    """As dense, drawn by a joint head of twice the width."""
    model = refiner(size, joint_size=2 * size.width)
    return refined("refiner, joint head", model, size, _everything(size))


def joint_left(size: Size) -> Row:
    """Blocks of equal size from the left, one in each pass."""
    model = refiner(size, joint_size=2 * size.width)
    return refined("refiner, joint head, left to right", model, size, LeftToRight())


def joint_one(size: Size) -> Row:
    """The joint head draws every token after a single pass."""
    once = Size(**{**vars(size), "passes": 1})
    model = refiner(once, joint_size=2 * size.width)
    return refined("refiner, joint head, one pass", model, once, LeftToRight())


def _everything(size: Size) -> ScriptedGate:
    return ScriptedGate(active=(1.0,), ends=(size.passes, size.passes))


# ---------------------------------------------------------------- others


def gpt2_model(size: Size, **settings: Any) -> Any:
    """``GPT2LMHeadModel`` of transformers; ``settings`` go to its ``GPT2Config``."""

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


def gpt2(size: Size) -> Row:
    """``GPT2LMHeadModel.generate`` of transformers, with its cache of keys and values."""
    model = gpt2_model(size)

    def sample(rows: int) -> Tensor:
        prompt = torch.full((rows, 1), EOS)
        asked = {"min_new_tokens": size.length, "max_new_tokens": size.length}
        mask = torch.ones_like(prompt)
        ids = model.generate(prompt, attention_mask=mask, do_sample=True, top_k=0, **asked)
        return ids[:, 1:]

    return Row("GPT-2, KV cache", parameters(model), sample)


def gpt2_loop(size: Size) -> Row:
    """The same model and cache by a loop that does nothing but forward and draw."""
    model = gpt2_model(size)

    @torch.no_grad()
    def sample(rows: int) -> Tensor:
        token, cache, written = torch.full((rows, 1), EOS), None, []
        for _ in range(size.length):
            output = model(token, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            token = torch.multinomial(output.logits[:, -1].softmax(-1), 1)
            written.append(token)
        return torch.cat(written, dim=1)

    return Row("GPT-2, KV cache, bare loop", parameters(model), sample)


def bert_model(size: Size, **settings: Any) -> Any:
    """``BertForMaskedLM`` of transformers; ``settings`` go to its ``BertConfig``."""

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


def bert(size: Size) -> Row:
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

    return Row("BERT, mask-predict", parameters(model), sample)


def x_transformers(size: Size) -> Row:
    """``NonAutoregressiveWrapper`` of x-transformers, as it stands."""
    with warnings.catch_warnings():
        # It compiles parts of itself in a way that torch gives up.
        warnings.simplefilter("ignore", DeprecationWarning)
        import x_transformers as package

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
    return Row(
        "x-transformers, NonAutoregressiveWrapper",
        parameters(model),
        lambda rows: model.generate(batch_size=rows),
    )


def char_rnn(size: Size) -> Row:
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

    return Row("LSTM, CharRNN", parameters(model), sample)


def _sized(build: Callable[[int], Any], size: Size) -> Any:
    """The model whose width brings it nearest to the refiner's number of parameters."""
    with torch.device("meta"):
        wanted = parameters(refiner(size))

    def missed(width: int) -> int:
        # Shapes alone: none of these is kept.
        with torch.device("meta"):
            return abs(parameters(build(width)) - wanted)

    grain = 2 * size.heads
    width = grain
    while missed(width + grain) <= missed(width):
        width += grain
    return build(width).eval()


OURS: dict[str, Callable[[Size], Row]] = {
    "dense": dense,
    "scripted": scripted,
    "joint": joint,
    "joint-left": joint_left,
    "joint-one": joint_one,
}
OTHERS: dict[str, Callable[[Size], Row]] = {
    "gpt2": gpt2,
    "gpt2-loop": gpt2_loop,
    "bert": bert,
    "x-transformers": x_transformers,
    "char-rnn": char_rnn,
}
#: Every row of the table by the name that ``--only`` takes, in the order of the table.
ROWS = {**OURS, **OTHERS}
