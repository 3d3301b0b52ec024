"""From a named data set or a user's file to token sequences: read, split, encode, cache.

What is kept out is reported with its line and the reason, never dropped in silence.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imadarem.data import moses
from imadarem.data.corpus import TokenCorpus
from imadarem.data.molecule_files import FEATURES, RejectedLine, feature_counts, read_smiles
from imadarem.data.molecules import ToNotation
from imadarem.data.molecules import split as split_molecules
from imadarem.data.standardize import standardize_all
from imadarem.data.streamed import stream_lines
from imadarem.data.text import iter_lines
from imadarem.data.wheels import cache_directory
from imadarem.errors import BusyError, ConfigError, DataError
from imadarem.files import load_json, save_json
from imadarem.locks import exclusive
from imadarem.tokenizers import (
    MOLECULE_NOTATIONS,
    CorpusTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_class,
)
from imadarem.workers import Progress, Workers

#: Rows held out of a named data set for validation.
HELD_OUT = 2_000


@dataclass(frozen=True)
class Texts:
    """Texts of a data set, split, and what was kept out.

    Attributes:
        train: Training texts.
        valid: Held-out texts; no molecule stands on both sides.
        rejected: Lines that were kept out, with the reason.
        notes: Counts of what a chemist should know (salts, isotopes, charges, stereo,
            duplicates).
    """

    train: list[str]
    valid: list[str]
    rejected: list[RejectedLine] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedData:
    """Token sequences ready for training.

    Attributes:
        tokenizer: The tokenizer that made them.
        train: Training rows.
        valid: Held-out rows.
        rejected: What was kept out while reading and encoding.
        notes: See :class:`Texts`.
    """

    tokenizer: Any
    train: TokenCorpus
    valid: TokenCorpus
    rejected: list[RejectedLine]
    notes: dict[str, int]


def read_texts(
    source: str | Path,
    *,
    column: str | None = None,
    molecules: bool = True,
    standardize: bool = False,
    rows: int | None = None,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Texts:
    """Read a data set.

    Args:
        source: ``"moses"`` (the full training set), ``"moses-sample"`` (shipped, 15,000
            molecules), or a file.
        column: The column of a table that holds the texts.
        molecules: Check each line of a file as a molecule; False takes lines as they are.
        standardize: Take the largest fragment of each molecule of a file, neutralised, and each
            once; ``notes`` counts what that changed.
        rows: Keep at most so many texts, drawn with ``seed``; None keeps all.
        valid_fraction: Share of a user's file that is held out.
        seed: Of the split and of ``rows``.

    Raises:
        DataError: The file cannot be read, or too few texts are left to split.
        ConfigError: ``standardize`` was asked for, and this is not a file of molecules.
    """
    if standardize and (source in ("moses", "moses-sample") or not molecules):
        raise ConfigError(
            f"standardize (--standardize) is for a file of molecules; it has no effect on {source}."
        )
    if source in ("moses", "moses-sample"):
        return _named_texts(str(source), rows, seed)
    if molecules:
        result = _molecules(source, column, standardize, rows, valid_fraction, seed)
    else:
        result = _lines(source, rows, valid_fraction, seed)
    if not result.train or not result.valid:
        raise DataError(
            f"{source} leaves {len(result.train)} texts to train on and {len(result.valid)} to "
            "validate on. At least 1 of each is needed; a useful model needs hundreds."
        )
    return result


def _named_texts(source: str, rows: int | None, seed: int) -> Texts:
    if source == "moses":
        texts = moses.load_split(moses.fetch_moses(), "train")
    else:
        texts = moses.load_moses_sample("train")
    random.Random(seed).shuffle(texts)
    # The data set has no duplicates, so any cut is clean.
    held_out = min(HELD_OUT, len(texts) // 10)
    return Texts(train=texts[held_out:][:rows], valid=texts[:held_out])


def _molecules(
    source: str | Path,
    column: str | None,
    standardize: bool,
    rows: int | None,
    valid_fraction: float,
    seed: int,
) -> Texts:
    # A file larger than what is wanted of it is not held whole.
    most = None if rows is None else math.ceil(1.05 * rows / max(1 - valid_fraction, 0.01)) + 100
    found = read_smiles(source, column=column, most=most, seed=seed)
    notes, smiles = Counter(found.notes), found.smiles
    if standardize:
        smiles, changes = standardize_all(smiles, Workers())
        other = Counter({name: n for name, n in notes.items() if name not in FEATURES})
        notes = other + feature_counts(smiles) + Counter(changes)
    parts = split_molecules(smiles, seed=seed, valid_fraction=valid_fraction, notes=notes)
    return Texts(parts.train[:rows], parts.valid, found.rejected, dict(notes))


def _lines(source: str | Path, rows: int | None, valid_fraction: float, seed: int) -> Texts:
    lines = [line for _, line in iter_lines(source) if line]
    distinct = sorted(set(lines))
    random.Random(seed).shuffle(distinct)
    held = set(distinct[: int(valid_fraction * len(distinct))])
    train = [line for line in lines if line not in held][:rows]
    return Texts(train, [line for line in lines if line in held])


def encode_texts(
    texts: Sequence[str], tokenizer: Tokenizer, workers: Workers, stage: str = "encode"
) -> tuple[TokenCorpus, list[RejectedLine]]:
    """Encode texts; those that cannot be are returned with the reason (and line 0).

    Raises:
        DataError: Not one text could be encoded.
    """
    encoded = workers.map(stage, _Encoder(tokenizer), texts)
    rows, rejected = [], []
    for text, result in zip(texts, encoded, strict=True):
        if isinstance(result, str):
            rejected.append(RejectedLine(0, text, result))
        elif not result:
            rejected.append(RejectedLine(0, text, "it has no token"))
        else:
            rows.append(result)
    if not rows:
        first = f" The first reason: {rejected[0].reason}" if rejected else ""
        raise DataError(f"none of the {len(texts)} texts could be encoded.{first}")
    return TokenCorpus.from_rows(rows, 1 + max(map(max, rows))), rejected


def prepare(
    source: str | Path,
    *,
    tokenizer: str | Tokenizer = "selfies",
    column: str | None = None,
    rows: int | None = None,
    valid_fraction: float = 0.1,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress | None = None,
    extend: bool = False,
    standardize: bool = False,
) -> PreparedData:
    """Read, split, encode; the result for MOSES is cached on disk.

    Args:
        source: See :func:`read_texts`.
        tokenizer: ``selfies``, ``smiles``, ``safe`` or ``char``, learned from the texts; a folder
            with a saved tokenizer; or a tokenizer object.
        column: The column of a table that holds the texts.
        rows: Use at most so many training texts.
        valid_fraction: Share of a user's file that is held out.
        seed: Of the split and of ``rows``.
        processes: Worker processes for the encoding; None works in this one.
        progress: Told how far reading and encoding are.
        extend: Add tokens that a given tokenizer of one of the named notations does not know,
            in place of leaving out the texts that have them. ``notes`` counts them as
            ``new_tokens``.
        standardize: See :func:`read_texts`.

    Raises:
        ConfigError: See :func:`read_texts`.
        DataError: See :func:`read_texts` and :func:`encode_texts`.
    """
    cache = None if standardize else _cache_folder(source, tokenizer, rows, seed)
    cached = None if standardize else _cached(source, tokenizer, rows, seed)
    if cached is not None:
        return cached
    named = isinstance(tokenizer, str) and not Path(tokenizer).is_dir()
    notation = tokenizer if named else getattr(tokenizer, "notation", "text")
    learns = named or (extend and isinstance(tokenizer, CorpusTokenizer))
    if (
        not learns
        and source not in ("moses", "moses-sample")
        and notation not in MOLECULE_NOTATIONS
    ):
        built = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        if getattr(built, "notation", "text") not in MOLECULE_NOTATIONS:
            with Workers(processes, progress) as workers:
                split: dict[str, Any] = {
                    "rows": rows,
                    "valid_fraction": valid_fraction,
                    "seed": seed,
                }
                parts = stream_lines(source, built, _Encoder(built), workers, **split)
            return PreparedData(built, *parts, {})
    texts = read_texts(
        source,
        column=column,
        molecules=notation in MOLECULE_NOTATIONS,
        standardize=standardize,
        rows=rows,
        valid_fraction=valid_fraction,
        seed=seed,
    )
    with Workers(processes, progress) as workers:
        data = _encoded(texts, tokenizer, named, extend, workers)
    if cache is not None:
        _save(data, cache)
    return data


def _encoded(
    texts: Texts, tokenizer: str | Tokenizer, named: bool, extend: bool, workers: Workers
) -> PreparedData:
    """Texts as token ids of a notation that is ``named``, or of a tokenizer that is there."""
    if named:
        return _learn(tokenizer_class(str(tokenizer)), texts, workers)
    built = load_tokenizer(str(tokenizer)) if isinstance(tokenizer, str) else tokenizer
    if extend and isinstance(built, CorpusTokenizer):
        return _learn(type(built), texts, workers, built)
    train, lost = encode_texts(texts.train, built, workers)
    valid, more = encode_texts(texts.valid, built, workers, "encode held-out")
    return PreparedData(built, train, valid, [*texts.rejected, *lost, *more], texts.notes)


@dataclass(frozen=True)
class _Encoder:
    """Encodes one text, or says why not; it travels to worker processes."""

    tokenizer: Tokenizer

    def __call__(self, text: str) -> list[int] | str:
        try:
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        except DataError as error:
            return str(error)


def _learn(
    kind: type[CorpusTokenizer],
    texts: Texts,
    workers: Workers,
    known: CorpusTokenizer | None = None,
) -> PreparedData:
    """Convert once, learn the vocabulary of all, behind what is known, and encode."""
    parts: list[list[str]] = []
    rejected = list(texts.rejected)
    for part, stage in ((texts.train, f"to {kind.notation}"), (texts.valid, "held-out")):
        converted = workers.map(stage, ToNotation(kind), part)
        good = [notation for notation, _ in converted if notation]
        rejected += [
            RejectedLine(0, text, reason or "it has no token")
            for text, (notation, reason) in zip(part, converted, strict=True)
            if not notation
        ]
        parts.append(good)
    tokenizer, notes = kind.from_corpus([*parts[0], *parts[1]], notated=True), dict(texts.notes)
    if known is not None:
        tokenizer = known.extended(tokenizer.tokens)
        if len(tokenizer) > len(known):
            notes["new_tokens"] = len(tokenizer) - len(known)
    train, valid = (
        TokenCorpus.from_rows((tokenizer.encode_notation(n) for n in part), len(tokenizer))
        for part in parts
    )
    return PreparedData(tokenizer, train, valid, rejected, notes)


def _cached(source: str | Path, tokenizer: Any, rows: int | None, seed: int) -> PreparedData | None:
    """The data set from the cache, if it was made with this vocabulary."""
    folder = _cache_folder(source, tokenizer, rows, seed)
    if folder is not None and (folder / "prepared.json").is_file():
        return _load(folder)
    if not isinstance(tokenizer, CorpusTokenizer):
        return None
    data = _cached(source, tokenizer.notation, rows, seed)
    return None if data is None or data.tokenizer.tokens != tokenizer.tokens else data


def _cache_folder(source: str | Path, tokenizer: Any, rows: int | None, seed: int) -> Path | None:
    """Where a prepared data set is kept; None where reading it again is cheap or unsafe."""
    given = isinstance(tokenizer, CorpusTokenizer)
    if (
        source != "moses"
        or not given
        and (not isinstance(tokenizer, str) or Path(tokenizer).is_dir())
    ):
        return None
    name = tokenizer.notation if given else tokenizer
    known = [name, *tokenizer.tokens] if given else name
    key = json.dumps(["moses", moses.WHEEL_SHA256, known, rows, seed, HELD_OUT])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cache_directory() / "tokens" / f"moses-{name}-{rows or 'all'}-{digest}"


def _save(data: PreparedData, folder: Path) -> None:
    """Write the cache, unless another process is writing the same one."""
    with suppress(BusyError), exclusive(folder.with_name(f"{folder.name}.saving")):
        aside = folder.with_name(f".{folder.name}")
        # What a killed run left.
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        data.tokenizer.save_pretrained(aside / "tokenizer")
        data.train.save(aside / "train")
        data.valid.save(aside / "valid")
        rejected = [[r.line, r.text, r.reason] for r in data.rejected]
        save_json({"rejected": rejected, "notes": data.notes}, aside / "prepared.json")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)


def _load(folder: Path) -> PreparedData:
    record = load_json(folder / "prepared.json")
    return PreparedData(
        load_tokenizer(folder / "tokenizer"),
        TokenCorpus.load(folder / "train"),
        TokenCorpus.load(folder / "valid"),
        [RejectedLine(*entry) for entry in record["rejected"]],
        record["notes"],
    )
