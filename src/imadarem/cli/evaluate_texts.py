"""``imadarem evaluate`` for texts: samples of a text model, or lines of a file."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cyclopts import Group, Parameter

from imadarem.cli.console import err, grid, json_line, out
from imadarem.cli.models import Switch
from imadarem.cli.results import share
from imadarem.errors import ConfigError, MissingExtraError

TITLES = {
    "words": "words per text",
    "distinct_1": "distinct words",
    "distinct_2": "distinct pairs",
    "unigram_entropy": "entropy of the words (nats)",
    "repetition": "repeated within 16 words",
    "self_bleu": "self-BLEU",
    "perplexity": "perplexity",
    "mauve": "MAUVE",
    "forward_passes": "forward passes per sample",
}
SHARES = ("distinct_1", "distinct_2", "repetition")


@Parameter(name="*", group=Group("Texts", sort_key=5))
@dataclass(frozen=True, kw_only=True)
class TextFlags:
    """How to measure texts; --reference FILE gives texts of the data beside them.

    Attributes:
        text: FILE holds lines of text, not molecules.
        perplexity_by: A causal language model, a folder or a name on the Hugging Face Hub, by
            which perplexity is measured.
        mauve: Measure MAUVE against --reference, with the package mauve-text.
    """

    text: Switch = False
    perplexity_by: str | None = None
    mauve: Switch = False


TEXTS = TextFlags()


def show_texts(
    name: str,
    texts: Sequence[str],
    flags: TextFlags,
    *,
    reference: str | None,
    seed: int,
    how: dict[str, Any],
    json: bool,
) -> None:
    """Print the figures of texts, beside those of as many texts of the reference file."""
    from imadarem.data.text import read_lines
    from imadarem.evaluation.texts import evaluate_texts

    if flags.mauve and reference is None:
        raise ConfigError("--mauve compares with texts of the data: add --reference FILE.")
    real = None if reference is None else read_lines(Path(reference))
    if real is not None and len(real) > len(texts):
        real = random.Random(seed).sample(real, len(texts))
    score = None if flags.perplexity_by is None else _perplexity(flags.perplexity_by)
    with err().status("measuring"):
        ours = evaluate_texts(texts, perplexity=score, reference=real, mauve=flags.mauve)
        theirs = None if real is None else evaluate_texts(real, perplexity=score)
    if json:
        json_line({"kind": "samples", "name": name, **ours.to_dict(), **how})
        if theirs is not None:
            json_line({"kind": "real", "name": reference, **theirs.to_dict()})
        return
    columns = [{**ours.to_dict(), **how}, *([] if theirs is None else [theirs.to_dict()])]
    rows: list[tuple[object, ...]] = [("texts", *(column["texts"] for column in columns))]
    for key, title in TITLES.items():
        if any(column.get(key) is not None for column in columns):
            rows.append((title, *(_cell(key, column.get(key)) for column in columns)))
    heads = ("", name) if reference is None else ("", name, f"real ({reference})")
    out().print(grid(heads, rows))


def _perplexity(name: str) -> Callable[[Sequence[str]], float]:
    """A causal language model of Hugging Face as a function of texts."""
    from imadarem.evaluation.texts import causal_perplexity

    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "hf") from None
    with err().status(f"loading {name}"):
        model = AutoModelForCausalLM.from_pretrained(name).eval()
        tokenizer = AutoTokenizer.from_pretrained(name)
    return partial(causal_perplexity, model=model, tokenizer=tokenizer)


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return share(value) if key in SHARES else f"{value:.2f}"
