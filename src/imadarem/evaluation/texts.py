"""Figures of samples of text: how varied they are, and how likely another model finds them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch

from imadarem.errors import ConfigError, DataError

#: Words before a word among which it counts as repeated.
WINDOW = 16
#: Texts that self-BLEU is measured on: its cost is quadratic.
MOST_COMPARED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReport:
    """Figures of texts; a word is what white space separates.

    Attributes:
        texts: Number of texts.
        words: Mean words of a text.
        distinct_1: Distinct words ÷ words, of all texts together.
        distinct_2: The same of pairs of neighbours; both fall with the number of texts.
        unigram_entropy: Entropy of the words' frequencies, nats.
        repetition: Share of words that stand among the 16 before them in their text (rep-16,
            arXiv:1908.04319).
        self_bleu: Mean BLEU-4 of a text with the others as references, of the first 200
            (arXiv:1802.01886); high where texts are alike. None for a single text.
        perplexity: Of the texts, by another model; None without one.
        mauve: Closeness to the reference texts (arXiv:2102.01454); None where not asked for.
    """

    texts: int
    words: float
    distinct_1: float
    distinct_2: float
    unigram_entropy: float
    repetition: float
    self_bleu: float | None
    perplexity: float | None = None
    mauve: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def evaluate_texts(
    texts: Sequence[str],
    *,
    perplexity: Callable[[Sequence[str]], float] | None = None,
    reference: Sequence[str] | None = None,
    mauve: bool = False,
) -> TextReport:
    """Measure texts.

    Args:
        texts: At least one that has a word.
        perplexity: Gives the perplexity of texts, such as one of :func:`causal_perplexity`.
        reference: Texts of the data, for MAUVE.
        mauve: Also measure MAUVE, which needs the package ``mauve-text``.

    Raises:
        DataError: No text has a word.
        ConfigError: MAUVE cannot be measured.
    """
    rows = [text.split() for text in texts]
    counts = Counter(word for row in rows for word in row)
    total = counts.total()
    if not total:
        raise DataError(
            f"none of the {len(rows)} texts has a word, so there is nothing to measure."
        )
    pairs = [pair for row in rows for pair in zip(row, row[1:], strict=False)]
    shares = [count / total for count in counts.values()]
    repeated = sum(
        word in row[max(i - WINDOW, 0) : i] for row in rows for i, word in enumerate(row)
    )
    return TextReport(
        texts=len(rows),
        words=total / len(rows),
        distinct_1=len(counts) / total,
        distinct_2=len(set(pairs)) / max(len(pairs), 1),
        unigram_entropy=-sum(share * math.log(share) for share in shares),
        repetition=repeated / total,
        self_bleu=self_bleu(rows[:MOST_COMPARED]) if len(rows) > 1 else None,
        perplexity=None if perplexity is None else perplexity(texts),
        mauve=mauve_score(texts, reference or []) if mauve else None,
    )


def self_bleu(rows: Sequence[Sequence[str]], order: int = 4) -> float:
    """Mean BLEU of each text with all others as references, in [0, 1].

    An order in which a text has no match counts as half a match (smoothing of sacreBLEU's
    kind), and an order for which it is too short is left out.
    """
    grams = [[_grams(row, n) for n in range(1, order + 1)] for row in rows]
    # Of each n-gram the two largest counts: that of the other texts is one of them.
    most: list[dict[tuple[str, ...], tuple[int, int]]] = [{} for _ in range(order)]
    for own in grams:
        for n, counts in enumerate(own):
            for gram, count in counts.items():
                first, second = most[n].get(gram, (0, 0))
                pair = (count, first) if count > first else (first, max(count, second))
                most[n][gram] = pair
    lengths = sorted(len(row) for row in rows)
    return fmean(
        _bleu(own, most, len(row), lengths) for row, own in zip(rows, grams, strict=True) if row
    )


def _bleu(
    own: list[Counter[tuple[str, ...]]],
    most: list[dict[tuple[str, ...], tuple[int, int]]],
    length: int,
    lengths: list[int],
) -> float:
    logs = []
    for n, counts in enumerate(own):
        if not counts:
            continue
        matched = 0
        for gram, count in counts.items():
            first, second = most[n][gram]
            matched += min(count, second if count == first else first)
        logs.append(math.log((matched or 0.5) / counts.total()))
    others = list(lengths)
    others.remove(length)
    closest = min(others, key=lambda other: (abs(other - length), other))
    return math.exp(min(0.0, 1.0 - closest / length) + fmean(logs))


def _grams(row: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(row[i : i + n]) for i in range(len(row) - n + 1))


@torch.no_grad()
def causal_perplexity(texts: Sequence[str], model: Any, tokenizer: Any) -> float:
    """Perplexity of texts by a causal language model of Hugging Face: ``exp`` of nats per token.

    Every text begins with the tokenizer's first token (BOS, else EOS) as context, so that its
    own first token counts too.

    Args:
        texts: Those without a token are left out.
        model: Called as ``model(input_ids)``; put it in evaluation mode first.
        tokenizer: Of the model.

    Raises:
        DataError: No text has a token.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    nats, tokens = 0.0, 0
    device = next(model.parameters()).device
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        row = torch.tensor([[*([] if start is None else [start]), *ids]], device=device)
        if row.shape[1] < 2:
            continue
        log_probs = model(row).logits[0, :-1].float().log_softmax(dim=-1)
        nats -= float(log_probs.gather(-1, row[0, 1:, None]).sum())
        tokens += row.shape[1] - 1
    if not tokens:
        raise DataError("no text has a token, so there is no perplexity.")
    return math.exp(nats / tokens)


def mauve_score(texts: Sequence[str], reference: Sequence[str]) -> float:
    """MAUVE by the package ``mauve-text``, with its own features (a GPT-2 from the Hub)."""
    if not reference:
        raise ConfigError("MAUVE compares with texts of the data; give them as the reference.")
    try:
        import mauve
    except ImportError:
        raise ConfigError(
            "MAUVE needs the package mauve-text. Install it with: pip install mauve-text"
        ) from None
    found = mauve.compute_mauve(p_text=list(reference), q_text=list(texts), verbose=False)
    return float(found.mauve)
