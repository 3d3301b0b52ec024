"""Correcting English words: a model of letters beside symspellpy and codespell.

    python benchmarks/typos.py --model typos --data runs/typos/data

``--data`` is what ``scripts/typos.py`` wrote: misspellings whose right words are held out of the
training of the judge, and 2,000 words that stand in no training line. Rows of the table:

- the model by its judge alone, at several thresholds; with the words of Debian's ``wamerican`` as
  a checker (``imadarem repair --model typos --check words:/usr/share/dict/words``);
- symspellpy with its dictionary of 82,765 words and their frequencies, at most two edits; the
  same with the words of ``wamerican`` in place of it, all equally frequent;
- codespell, a list of known misspellings: it was collected from the same sources as these
  misspellings, so its share of right ones says how many of them it lists.

Right: the first suggestion is the right word. False alarms: share of correct words that are
changed, ``--words`` of ``wamerican`` and the unseen ones. CPU time is that of one thread.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from imadarem import ImplicitRefinementModel
from imadarem.data.words import WordList
from imadarem.repair.sites import Row, error_nats

WORDS = Path("/usr/share/dict/american-english")
THRESHOLDS = (0.3, 0.5, 0.7, 0.9, 0.95)
#: Words → the same after correction.
Corrector = Callable[[Sequence[str]], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="typos")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--typos", type=int, default=2000, help="held-out misspellings")
    parser.add_argument("--words", type=int, default=10_000, help="correct words")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [line.split("\t") for line in (options.data / "held-out.tsv").read_text().splitlines()]
    pairs = random.Random(0).sample(pairs, min(options.typos, len(pairs)))
    unseen = (options.data / "unseen.txt").read_text().split()
    known = [w for w in WORDS.read_text().split() if w.isascii() and not w.endswith("'s")]
    known = random.Random(0).sample(sorted(set(known) - set(unseen)), options.words)
    print(f"{len(pairs)} misspellings, {len(known)} correct words, {len(unseen)} unseen ones\n")
    print("| corrector | right | false alarms | of unseen words | CPU ms a misspelling |")
    print("|---|---|---|---|---|")
    wrong = [pair[0] for pair in pairs]
    for name, corrector in correctors(ImplicitRefinementModel.from_pretrained(options.model)):
        start = time.process_time()
        found = corrector(wrong)
        ms = 1000 * (time.process_time() - start) / len(pairs)
        right = sum(a == b for a, (_, b) in zip(found, pairs, strict=True)) / len(pairs)
        alarms = [
            sum(a != b for a, b in zip(corrector(words), words, strict=True)) / len(words)
            for words in (known, unseen)
        ]
        print(
            f"| {name} | {right:.1%} | {alarms[0]:.2%} | {alarms[1]:.2%} | {ms:.1f} |", flush=True
        )


def correctors(model: Any) -> list[tuple[str, Corrector]]:
    words = WordList.read(WORDS)
    own: list[tuple[str, Corrector]] = [
        (f"the model, threshold {threshold}", partial(by_judge, model, threshold))
        for threshold in THRESHOLDS
    ]
    return [
        *own,
        ("the model and wamerican", partial(by_words, model, words)),
        ("symspellpy", symspell(None)),
        ("symspellpy with wamerican", symspell(sorted(words.words))),
        ("codespell", codespell()),
    ]


def by_judge(model: Any, threshold: float, words: Sequence[str]) -> list[str]:
    """The words after a repair by the model's judge alone."""
    return [
        text if doubt > threshold else word
        for word, (text, doubt) in zip(words, _searched(model, tuple(words)), strict=True)
    ]


@cache
def _searched(model: Any, words: tuple[str, ...]) -> list[tuple[str, float]]:
    """The words after a repair at the lowest threshold, and the probability of an error.

    One search serves all thresholds: what it changes in a word that looks right is dropped.
    """
    repairs = model.repair(words, threshold=min(THRESHOLDS))
    doubts = [
        -math.expm1(-error_nats(Row(j.tokens, [False] * len(j.tokens)), j))
        for j in model.judge(words)
    ]
    return [(repair.text or "", doubt) for repair, doubt in zip(repairs, doubts, strict=True)]


def by_words(model: Any, checker: WordList, words: Sequence[str]) -> list[str]:
    """The words after a repair with a list of words as the checker."""
    return [repair.text or "" for repair in model.repair(list(words), checker=checker)]


def symspell(words: Sequence[str] | None) -> Corrector:
    """The first suggestion of symspellpy."""
    from symspellpy import SymSpell, Verbosity

    speller = SymSpell(max_dictionary_edit_distance=2)
    if words is None:
        path = files("symspellpy") / "frequency_dictionary_en_82_765.txt"
        speller.load_dictionary(str(path), term_index=0, count_index=1)
    for word in words or ():
        speller.create_dictionary_entry(word, 1)

    def correct(given: Sequence[str]) -> list[str]:
        found = []
        for word in given:
            suggested = speller.lookup(word, Verbosity.TOP, transfer_casing=True)
            found.append(suggested[0].term if suggested else word)
        return found

    return correct


def codespell() -> Corrector:
    """The first suggestion of codespell's list."""
    text = (files("codespell_lib") / "data" / "dictionary.txt").read_text(encoding="utf-8")
    known = dict(line.split("->") for line in text.splitlines() if "->" in line)
    return lambda words: [known.get(word.lower(), word).split(",")[0].strip() for word in words]


if __name__ == "__main__":
    main()
