"""Text with holes as a task: windows of a file, some of their tokens blank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from imadarem import checks
from imadarem.data.holes import Holes
from imadarem.data.splits import held_out
from imadarem.data.tasks import Task
from imadarem.data.text import read_lines
from imadarem.errors import ConfigError, DataError
from imadarem.tokenizers import (
    CharTokenizer,
    SpecialIds,
    Tokenizer,
    load_tokenizer,
    special_ids,
)

UNITS = ("paragraph", "line")


def text_task(
    source: str | Path | Sequence[str],
    tokenizer: str | Path | Tokenizer = "char",
    *,
    length: int = 64,
    hole_share: float | tuple[float, float] = 0.3,
    hole_span: float = 3.0,
    versions: int = 1,
    unit: str = "paragraph",
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Task:
    """Text with holes; the label is the text.

    Texts are split first, whole paragraphs to a side, equal ones (up to case and white
    space) to the same; then each is cut into windows of ``length`` tokens that do not
    overlap. The rest of a text is a shorter window, left out below 2 tokens. A training
    window that is, token by token, a held-out one is left out too and counted in
    ``settings``. There is neither a symmetry nor a verifier.

    Args:
        source: A UTF-8 text file, plain or gzipped; or a list of texts.
        tokenizer: ``char`` (learned from the text), a folder with a saved tokenizer, or a
            tokenizer, such as any of Hugging Face's with a mask token.
        length: Tokens of a window.
        hole_share: Share of a window's tokens that are blank; see
            :class:`~imadarem.data.holes.Holes`.
        hole_span: Mean length of a hole in tokens.
        versions: Episodes made of each training window, with different holes.
        unit: What a file is split by: ``paragraph`` (between blank lines) or ``line``.
        valid_fraction: Share of the texts that is held out.
        seed: Of the split and the holes.

    Raises:
        ConfigError: A setting is out of range.
        TokenizerError: The tokenizer has no mask token.
        DataError: The file cannot be read, or is too short to split.
    """
    if length < 2:
        raise ConfigError(f"length={length} must be at least 2 tokens: one blank, one given.")
    checks.one_of("unit", unit, UNITS)
    holes = Holes(share=hole_share, span=hole_span, versions=versions, seed=seed)
    texts = _texts(source, unit)
    built = _tokenizer(tokenizer, texts)
    special = special_ids(built, len(cast(Sized, built)))
    train, valid = _split(texts, valid_fraction, seed, unit)
    learned, skipped = _windows(train, built, special, length)
    held, held_skipped = _windows(valid, built, special, length)
    copies = set(held)
    remaining = [window for window in learned if window not in copies]
    if not remaining or not held:
        raise DataError(
            f"{len(texts)} texts leave {len(remaining)} windows to train on and {len(held)} to "
            "validate on. At least 1 of each is needed; give more text or a shorter length."
        )
    settings: dict[str, Any] = {
        "source": str(source) if isinstance(source, str | Path) else f"{len(texts)} texts",
        "tokenizer": str(tokenizer) if isinstance(tokenizer, str | Path) else repr(tokenizer),
        "length": length,
        "hole_share": hole_share,
        "hole_span": hole_span,
        "versions": versions,
        "unit": unit,
        "valid_fraction": valid_fraction,
        "seed": seed,
        "train_windows": len(remaining),
        "valid_windows": len(held),
        "train_copies_of_valid": len(learned) - len(remaining),
        "windows_with_special_tokens": skipped + held_skipped,
    }
    return Task(
        name="text",
        tokenizer=built,
        train=holes.episodes(remaining, special, length),
        valid=replace(holes, versions=1).episodes(held, special, length),
        open_ended=True,
        settings=settings,
    )


def _texts(source: str | Path | Sequence[str], unit: str) -> list[str]:
    """The texts that are split: those given, or the paragraphs or lines of a file."""
    if not isinstance(source, str | Path):
        return [text for text in source if text.strip()]
    if isinstance(source, str) and "\n" in source:
        raise DataError(
            "a text with line breaks was given where the path of a file is expected. Give "
            'texts as a list, such as text.split("\\n\\n").'
        )
    if unit == "line":
        return read_lines(source)
    return list(_paragraphs(read_lines(source, keep_blank=True)))


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        if not blank:
            yield "\n".join(group)


def _tokenizer(tokenizer: str | Path | Tokenizer, texts: Sequence[str]) -> Tokenizer:
    if tokenizer == "char":
        return CharTokenizer.from_corpus(texts)
    return load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer


def _split(
    texts: Sequence[str], fraction: float, seed: int, unit: str
) -> tuple[list[str], list[str]]:
    forms = [" ".join(text.split()).casefold() for text in texts]
    if len(set(forms)) < 2:
        hint = 'unit="line"' if unit == "paragraph" else "a longer file"
        raise DataError(
            f"the source has {len(set(forms))} different texts, and a split needs at least 2. "
            f"Paragraphs end at blank lines; where a file has none, try {hint}."
        )
    held = held_out(forms, fraction, seed)
    sides: tuple[list[str], list[str]] = ([], [])
    for text, form in zip(texts, forms, strict=True):
        sides[form in held].append(text)
    return sides


def _windows(
    texts: Iterable[str], tokenizer: Tokenizer, special: SpecialIds, length: int
) -> tuple[list[tuple[int, ...]], int]:
    """The windows, and how many were left out since a special token stands in them.

    A tokenizer's *unknown* is such a token: nothing could be learned from writing it.
    """
    windows, skipped = [], 0
    unwanted = {*special.banned, special.eos}
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        for start in range(0, len(ids) - 1, length):
            window = tuple(ids[start : start + length])
            if unwanted.isdisjoint(window):
                windows.append(window)
            else:
                skipped += 1
    return windows, skipped
