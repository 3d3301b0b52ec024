"""Continuations scored and texts continued, as evaluation harnesses ask for it."""

from __future__ import annotations

import pytest
import torch
from fakes import shaken

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, DataError
from imadarem.evaluation.continuations import Continuations
from imadarem.model import ImplicitRefinementModel
from imadarem.tokenizers import CharTokenizer


@pytest.fixture(scope="module")
def model():
    tokenizer = CharTokenizer.from_corpus(["abcde fgh."])
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 20}
    torch.manual_seed(0)
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer), length_mode="drawn", self_conditioning=False, **sizes
    )
    return shaken(ImplicitRefinementModel(config, tokenizer=tokenizer))


def by_hand(model, given: str, answer: str) -> float:
    """``Σ log p(answer_i | given, answer before i, blanks behind)``, a pass for each letter."""
    ids, start = model.tokenizer.encode(given + answer), len(given)
    total = 0.0
    for place in range(start, len(ids)):
        canvas = torch.tensor([ids[:place] + [model.special.mask] * (len(ids) - place)])
        with torch.no_grad():
            logits = model(canvas).logits[0, place]
        never = [*model.special.banned, model.special.eos]
        logits[[token for token in never if token is not None]] = -torch.inf
        total += logits.log_softmax(-1)[ids[place]].item()
    return total


def test_the_exact_score_of_a_continuation_is_the_sum_of_its_conditionals(model):
    exact = Continuations(model=model, likelihood="left-to-right")
    pairs = [("abc", "de"), ("ab", " cdef"), ("", "hgf")]
    found = exact.log_likelihoods(pairs)
    assert found == pytest.approx([by_hand(model, *pair) for pair in pairs], abs=1e-4)
    # A space between the two belongs to the word behind it.
    assert exact.log_likelihoods([("ab ", "cdef")]) == pytest.approx(found[1:2], abs=1e-4)
    # A single token has one order only, and its bound is exact.
    bound = Continuations(model=model, canvases=1)
    (one,) = bound.log_likelihoods([("abcd", "e")])
    assert one == pytest.approx(by_hand(model, "abcd", "e"), abs=1e-4)
    assert bound.log_likelihoods([]) == []


def test_long_contexts_lose_their_start_and_long_texts_go_in_pieces(model):
    exact = Continuations(model=model, likelihood="left-to-right")
    context = "abcdefgh" * 4
    # 20 positions: the continuation of 2, and the last 18 of the context.
    assert exact.log_likelihoods([(context, "ab")]) == exact.log_likelihoods(
        [(context[-18:], "ab")]
    )
    text = "abcdefgh" * 3
    parts = [by_hand(model, "", text[:20]), by_hand(model, "", text[20:])]
    assert exact.rolling([text, "ab"])[0] == pytest.approx(sum(parts), abs=1e-4)


def test_the_most_probable_continuation_is_greedy_and_another_is_not(model):
    exact = Continuations(model=model)
    (best,) = exact.generate(["abc"], max_tokens=3)
    greedy = model.infill("abc<mask><mask><mask>", policy="left-to-right", steps=3, temperature=0.0)
    best = greedy.texts[0][3:]
    other = "h" if best[0] != "h" else "g"
    assert exact.are_greedy([("abc", best), ("abc", other + best[1:])]) == [True, False]


def test_a_text_is_continued_up_to_what_ends_it(model):
    whole, other = Continuations(model=model).generate(["abc", "h"], max_tokens=12)
    assert len(whole) == len(other) == 12
    end = whole[4]
    (cut,) = Continuations(model=model).generate(["abc"], max_tokens=12, until=["xyz", end])
    assert cut == whole[: whole.index(end)]
    # Guidance by the prompt is a setting of the same call.
    (guided,) = Continuations(model=model, guidance=30.0).generate(["abc"], max_tokens=12)
    assert guided != whole


def test_what_cannot_be_scored_is_refused(model):
    with pytest.raises(ConfigError, match="likelihood='exact'"):
        Continuations(model=model, likelihood="exact")
    with pytest.raises(DataError, match="has 0 tokens"):
        Continuations(model=model).log_likelihoods([("abc", "")])
    with pytest.raises(DataError, match="has 21 tokens"):
        Continuations(model=model).log_likelihoods([("", "a" * 21)])
