"""Words, running text and typing errors to train a corrector of English spelling on.

    apt-get install wamerican wamerican-small wordnet-base bible-kjv bible-kjv-text
    python scripts/typos.py --typos typos.tsv --out runs/typos/data

Writes ``lines.txt``, what a model of letters is trained on: words of Debian's two lists, the
shorter one twice as often, and windows of running text (the definitions and examples of WordNet,
the King James Bible); ``train.tsv`` and ``held-out.tsv``, the misspellings of ``--typos``
(``wrong<TAB>right``) split by the right word; and ``unseen.txt``, 2,000 words of the longer list
that stand in no line. :class:`TypingErrors` makes the errors that ``scripts/train_judge.py``
trains a judge on.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

WORD_LISTS = Path("/usr/share/dict")
WORDNET = Path("/usr/share/wordnet")
#: Words of the held-out half, of a hundred; and words of the longer list that stay unseen.
HELD_OUT_SHARE, UNSEEN = 50, 2_000
#: Times that a word of the shorter list, of the longer one, and a right word of ``train.tsv``
#: stand in the lines; and windows of text for each hundred of these.
SMALL, LARGE, RIGHT, WINDOWS = 2, 1, 2, 40
LONGEST_WINDOW = 100
ALPHABET = re.compile(r"[A-Za-z0-9 '\"(),.;:?!&-]+")
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--typos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(options.typos)
    for name, held in (("train.tsv", False), ("held-out.tsv", True)):
        some = [pair for pair in pairs if is_held_out(pair[1]) == held]
        (options.out / name).write_text("".join(f"{a}\t{b}\n" for a, b in some))
    large, small = words_of("american-english"), words_of("american-english-small")
    unseen = set(sorted(set(large) - {right for _, right in pairs}, key=stable_hash)[:UNSEEN])
    lines = SMALL * small + LARGE * large
    lines += RIGHT * sorted({right for _, right in pairs if not is_held_out(right)})
    sentences = [*wordnet(), *bible()]
    lines += [
        window(rng.choice(sentences).split(), rng) for _ in range(len(lines) * WINDOWS // 100)
    ]
    lines = [line for line in lines if not unseen & set(re.findall(r"[A-Za-z']+", line))]
    rng.shuffle(lines)
    (options.out / "lines.txt").write_text("\n".join(lines) + "\n")
    (options.out / "unseen.txt").write_text("\n".join(sorted(unseen)) + "\n")
    print(f"{len(lines):,} lines, {sum(map(len, lines)):,} characters")


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Misspelt and right words of a file of ``wrong<TAB>right`` that the alphabet can write."""
    pairs = [line.split("\t") for line in path.read_text().splitlines() if "\t" in line]
    return [(a, b) for a, b in pairs if ALPHABET.fullmatch(a) and ALPHABET.fullmatch(b)]


def stable_hash(word: str) -> int:
    return int(hashlib.sha256(word.encode()).hexdigest()[:15], 16)


def is_held_out(right: str) -> bool:
    return stable_hash(right) % 100 < HELD_OUT_SHARE


def words_of(name: str) -> list[str]:
    """The words of a list of Debian's, without possessives."""
    words = (WORD_LISTS / name).read_text().split()
    return [w for w in words if ALPHABET.fullmatch(w) and not w.endswith("'s") and len(w) > 1]


def wordnet() -> Iterator[str]:
    """Definitions and examples of WordNet."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{part}").read_text(errors="replace").splitlines():
            gloss = line.partition(" | ")[2]
            for sentence in re.split(r'; "|"; |" |"$', gloss):
                if ALPHABET.fullmatch(sentence := sentence.strip()):
                    yield sentence


def bible() -> Iterator[str]:
    """The verses of the King James Bible."""
    text = subprocess.run(
        ["bible", "-f", "gen1:1-rev22:21"], check=True, capture_output=True, text=True
    ).stdout
    for line in text.splitlines():
        verse = re.sub(r"^\S+\s+", "", line).strip()
        if ALPHABET.fullmatch(verse):
            yield verse


def window(words: Sequence[str], rng: random.Random) -> str:
    """One to so many words of a sentence that follow each other, short windows more often."""
    count = min(len(words), 1 + int(rng.expovariate(1 / 4)))
    start = rng.randrange(len(words) - count + 1)
    while len(text := " ".join(words[start : start + count])) > LONGEST_WINDOW:
        count -= 1
    return text


class TypingErrors:
    """Errors that people make, in rows of a tokenizer of letters.

    One word of a row is misspelt, of longer rows sometimes two: by a known misspelling of it,
    by a change that such misspellings show in other words ("ie" becomes "ei"), or by a slip on
    the keyboard (a neighbouring key, two letters swapped, one doubled, one left out).

    Args:
        tokenizer: Encodes and decodes rows.
        pairs: Misspelt and right words.
    """

    def __init__(self, tokenizer: Any, pairs: Iterable[tuple[str, str]]) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, list[str]] = defaultdict(list)
        changes: Counter[tuple[str, str]] = Counter()
        for wrong, right in pairs:
            self.known[right].append(wrong)
            changes.update([change_between(wrong, right)])
        self.changes: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for (before, after), count in changes.items():
            if len(before) <= 4 and len(after) <= 4:
                self.changes[before].append((after, count))
        self.letters = set("".join(tokenizer.tokens[3:])) & set("abcdefghijklmnopqrstuvwxyz")
        self.near = neighbouring_keys()

    def __call__(self, row: Sequence[int] | np.ndarray, rng: np.random.Generator) -> list[int]:
        """A row with an error; the same row where it has no word."""
        parts = re.split(r"([A-Za-z']+)", self.tokenizer.decode([int(token) for token in row]))
        places = [at for at in range(1, len(parts), 2) if len(parts[at]) > 1]
        count = 1 + (len(places) > 3 and rng.random() < 0.3)
        for at in rng.permutation(places)[:count]:
            parts[at] = self.misspelt(parts[at], rng)
        text = "".join(parts)
        return self.tokenizer.encode(text) if text else [int(token) for token in row]

    def misspelt(self, word: str, rng: np.random.Generator) -> str:
        known, kind = self.known.get(word), rng.random()
        if known and kind < 0.6:
            return known[rng.integers(len(known))]
        for _ in range(1 + (rng.random() < 0.2)):
            changed = self.by_change(word, rng) if kind < 0.8 else None
            word = changed or self.by_slip(word, rng)
        return word

    def by_change(self, word: str, rng: np.random.Generator) -> str | None:
        """A change seen in other words, as often as it was seen; None where none fits."""
        framed = f"^{word}$"
        found, counts = [], []
        for start in range(len(framed)):
            for end in range(start + 1, min(start + 5, len(framed) + 1)):
                for after, count in self.changes.get(framed[start:end], ()):
                    found.append(framed[:start] + after + framed[end:])
                    counts.append(count)
        if not found:
            return None
        share = np.cumsum(counts)
        text = found[int(np.searchsorted(share, rng.random() * share[-1], side="right"))]
        return text.replace("^", "").replace("$", "") or None

    def by_slip(self, word: str, rng: np.random.Generator) -> str:
        """A slip on the keyboard."""
        at, kind = int(rng.integers(len(word))), int(rng.integers(5))
        near = self.near.get(word[at].lower(), word[at])
        key = near[rng.integers(len(near))]
        if kind == 0:
            return word[:at] + key + word[at + 1 :]
        if kind == 1:
            return word[:at] + key + word[at:]
        if kind == 2 and at + 1 < len(word):
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        if kind == 3 and len(word) > 2:
            return word[:at] + word[at + 1 :]
        return word[: at + 1] + word[at:]


def change_between(wrong: str, right: str) -> tuple[str, str]:
    """What stands in the right word and what in its place, one letter to the left with it."""
    wrong, right = f"^{wrong}$", f"^{right}$"
    edits = Levenshtein.editops(right, wrong)
    if not edits:
        return right, wrong
    start = max(min(edit.src_pos for edit in edits) - 1, 0)
    tail = 0
    most = min(len(wrong), len(right)) - start - 1
    while tail < most and right[-1 - tail] == wrong[-1 - tail]:
        tail += 1
    return right[start : len(right) - tail], wrong[start : len(wrong) - tail]


def neighbouring_keys() -> dict[str, str]:
    """The letters beside each letter of a keyboard."""
    at = {
        letter: (row, column + row / 2)
        for row, letters in enumerate(KEYS)
        for column, letter in enumerate(letters)
    }
    return {
        letter: "".join(
            other
            for other, (r, c) in at.items()
            if other != letter and abs(r - row) <= 1 and abs(c - column) <= 1
        )
        for letter, (row, column) in at.items()
    }


if __name__ == "__main__":
    main()
