"""Figures of texts, worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from cli_parts import WORDS, records, saved_model

from imadarem.errors import DataError
from imadarem.evaluation.texts import causal_perplexity, evaluate_texts, self_bleu
from imadarem.tokenizers import CharTokenizer


def test_figures_of_two_texts() -> None:
    report = evaluate_texts(["the cat the cat", "a dog"])
    # Six words, four distinct: the 2, cat 2, a, dog. Pairs: the cat, cat the, the cat, a dog.
    assert (report.texts, report.words) == (2, 3.0)
    assert report.distinct_1 == pytest.approx(4 / 6)
    assert report.distinct_2 == pytest.approx(3 / 4)
    # Two words with 1/3 each and two with 1/6.
    entropy = 2 / 3 * math.log(3) + 1 / 3 * math.log(6)
    assert report.unigram_entropy == pytest.approx(entropy)
    # The second "the" and the second "cat".
    assert report.repetition == pytest.approx(2 / 6)
    assert evaluate_texts(["one"]).self_bleu is None
    with pytest.raises(DataError, match="none of the 2 texts"):
        evaluate_texts(["", " "])


def test_self_bleu_is_one_for_copies_and_small_for_strangers() -> None:
    copies = [list("abcde")] * 3
    assert self_bleu(copies) == pytest.approx(1.0)
    # No match in orders 1 to 4 of four words: half a match of 4, 3, 2 and 1 n-grams.
    strangers = [list("abcd"), list("efgh")]
    assert self_bleu(strangers) == pytest.approx((1 / 8 * 1 / 6 * 1 / 4 * 1 / 2) ** 0.25)
    # "ab" within "abcd": matches in full, and is shorter: exp(1 - 4/2).
    assert self_bleu([list("ab"), list("abcd")]) > math.exp(-1) / 2


def test_perplexity_of_a_uniform_model_is_its_vocabulary() -> None:
    class Uniform(torch.nn.Linear):
        def forward(self, ids: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.zeros(*ids.shape, 11))

    tokenizer = SimpleNamespace(
        bos_token_id=0, eos_token_id=None, encode=lambda text, add_special_tokens: [1, 2, 3]
    )
    assert causal_perplexity(["x", "y"], Uniform(1, 1), tokenizer) == pytest.approx(11.0)


@pytest.mark.usefixtures("elsewhere")
def test_samples_of_a_text_model_stand_beside_texts_of_the_data(said, tmp_path) -> None:
    folder = saved_model(tmp_path / "words", CharTokenizer.from_corpus(WORDS), WORDS)
    (tmp_path / "real.txt").write_text("\n".join(WORDS * 3) + "\n")
    count = ["-n", "5", "--reference", "real.txt", "--json"]
    code, out, err = said("evaluate", "--model", folder, *count)
    assert code == 0, err
    ours, real = records(out)
    assert (ours["texts"], real["texts"]) == (5, 5)
    assert 0 < ours["distinct_2"] <= 1 and ours["forward_passes"] > 0
    code, out, _ = said("evaluate", "real.txt", "--text")
    assert code == 0 and "distinct pairs" in out
