"""The task: generated or users' puzzles as episodes, split so that no symmetric copy leaks."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imadarem.checkpoint import load_tensors, save_tensors
from imadarem.data.moses import cache_directory
from imadarem.data.sudoku.canonical import HELD_OUT_ONE_IN, canonical_keys, held_out
from imadarem.data.sudoku.generator import Puzzle, generate_kind
from imadarem.data.sudoku.grid import SIZES, geometry, relations, size_of
from imadarem.data.sudoku.puzzle_file import read_puzzles
from imadarem.data.sudoku.symmetry import SudokuSymmetry
from imadarem.data.sudoku.verifier import SudokuVerifier
from imadarem.data.tasks import Episodes, Task
from imadarem.errors import CheckpointError, ConfigError, DataError
from imadarem.tokenizers import CharTokenizer
from imadarem.workers import Progress, Workers

__all__ = [
    "DEFAULT_GIVENS",
    "Givens",
    "encode_puzzles",
    "sudoku_episodes",
    "sudoku_task",
    "sudoku_tokenizer",
]

Choice = int | str
Givens = Choice | Sequence[Choice]
"""A number of givens, ``"minimal"``, or several of these, of which each puzzle draws one."""

# Half of the 9x9 puzzles at 32 givens, the others easier or harder.
DEFAULT_GIVENS: Mapping[int, Givens] = {
    4: "minimal",
    6: "minimal",
    9: (32, 32, 32, 32, 28, 30, 36, 40),
}
DEFAULT_COUNT = 20_000
MINIMAL = "minimal"
FORMAT = 1
# Reveals that are drawn again before a puzzle is left as it is.
REDRAWS = 8
# Puzzles generated without a new held-out one before there are said to be no more.
IN_VAIN = 2_000

Digits = NDArray[np.uint8]


@dataclass(frozen=True)
class _Rows:
    """Puzzles as arrays: ``clues`` and ``solutions``, both ``(n, N²)``, 0 for a blank."""

    clues: Digits
    solutions: Digits

    @classmethod
    def of(cls, puzzles: Sequence[Puzzle], size: int) -> _Rows:
        shape = (len(puzzles), 2, size * size)
        both = np.array(puzzles, dtype=np.uint8).reshape(shape)
        return cls(both[:, 0], both[:, 1])

    def __len__(self) -> int:
        return len(self.clues)

    def rows(self, which: Any) -> _Rows:
        return _Rows(self.clues[which], self.solutions[which])


def sudoku_tokenizer() -> CharTokenizer:
    """One token per digit 1 to 9; the blank is the mask token."""
    return CharTokenizer.from_corpus(["123456789"])


def sudoku_task(
    sizes: Sequence[int] | int = (4, 6, 9),
    n: int | Mapping[int, int] | None = None,
    valid: int = 1_000,
    givens: Givens | Mapping[int, Givens] | None = None,
    seed: int = 0,
    processes: int | None = None,
    cache_dir: str | Path | None = None,
    *,
    fill_share: float = 0.2,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> Task:
    """Sudoku as a task: a grid with blanks in, the solved grid out.

    Generated puzzles have exactly one solution. Which of them are held out is a property of
    a puzzle's symmetry class alone (see :mod:`imadarem.data.sudoku.canonical`), the same in
    every run: no symmetric copy of a held-out puzzle is trained on, whatever the seeds.

    Args:
        sizes: Which of 4, 6 and 9; rows are padded to the longest. Ignored with ``path``.
        n: Training puzzles of each size, or by size (default 20,000); with ``path`` at most
            so many puzzles are read (default: all).
        valid: Held-out puzzles of each size, all different. With ``path`` those that the
            file has, about one in ten.
        givens: For all sizes, or by size; default :data:`DEFAULT_GIVENS`. Held-out puzzles
            have the first of several choices.
        seed: Of the puzzles.
        processes: Worker processes; None generates in this one.
        cache_dir: Where generated puzzles are kept; default
            ``$IMADAREM_CACHE/sudoku`` or ``~/.cache/imadarem/sudoku``.
        fill_share: Share of the training puzzles in which more cells are revealed, down to
            a single blank: the number of blanks left is log-uniform. Without them a model
            sees no nearly solved grid as a question.
        path: A file of puzzles to use instead, see
            :func:`imadarem.data.sudoku.puzzle_file.read_puzzles`.
        progress: Told how many puzzles are generated.

    Raises:
        ConfigError: A size, a count or the givens are out of range.
        DataError: The file cannot be used, or its puzzles cannot be split.
    """
    if not 0 <= fill_share <= 1:
        raise ConfigError(f"fill_share is {fill_share}; it is a share of rows, 0 to 1.")
    counts = n if isinstance(n, Mapping) else {size: n for size in SIZES}
    if any(count is not None and count < 1 for count in counts.values()) or valid < 1:
        raise ConfigError(f"n is {n} and valid is {valid}; both count puzzles, 1 or more.")
    settings: dict[str, Any] = {"seed": seed, "fill_share": fill_share}
    if path is not None:
        if isinstance(n, Mapping):
            raise ConfigError("a file's puzzles have one size: give n as one number with path.")
        parts = _from_file(path, n, fill_share, seed)
        settings |= {"path": str(path)}
    else:
        wanted = sorted({sizes} if isinstance(sizes, int) else set(sizes))
        if not wanted:
            raise ConfigError("sizes is empty; give one or more of 4, 6 and 9.")
        choices = {size: _choices(givens, size) for size in wanted}
        folder = Path(cache_dir).expanduser() if cache_dir else cache_directory() / "sudoku"
        settings |= {"givens": {str(size): list(named) for size, named in choices.items()}}
        recipes = {
            size: _Recipe(size, counts.get(size) or DEFAULT_COUNT, valid, named, fill_share, seed)
            for size, named in choices.items()
        }
        with Workers(processes, progress) as workers:
            parts = {size: _cached(recipe, folder, workers) for size, recipe in recipes.items()}
    tokenizer = sudoku_tokenizer()
    train, held = (_join([pair[side] for pair in parts.values()]) for side in (0, 1))
    held = Episodes(held.inputs, held.labels, held.task_ids + len(train))
    first = tokenizer.encode("1")[0]
    made = {str(size): [len(pair[0]), len(pair[1])] for size, pair in parts.items()}
    return Task(
        name="sudoku",
        tokenizer=tokenizer,
        train=train,
        valid=held,
        relations=[relations(size) for size in parts],
        symmetry=SudokuSymmetry(len(tokenizer), first, tokenizer.pad_token_id),
        verify=SudokuVerifier(first, tokenizer.mask_token_id, tokenizer.pad_token_id),
        settings=settings | {"sizes": list(parts), "counts": made},
    )


def encode_puzzles(puzzles: Sequence[Puzzle]) -> Episodes:
    """Puzzles of one size as episodes; the task ids count from 0."""
    return _episodes(_Rows.of(puzzles, _one_size(puzzles)))


def sudoku_episodes(
    size: int,
    count: int,
    *,
    givens: Choice | None = None,
    seed: int = 0,
    processes: int | None = None,
) -> Episodes:
    """Held-out puzzles of one kind, for a benchmark; never trained on by any task.

    Args:
        size: 4, 6 or 9.
        count: How many, all different.
        givens: A number (N² - 1 leaves one blank) or ``"minimal"``; default the first of
            :data:`DEFAULT_GIVENS`.
        seed: Of the puzzles.
        processes: Worker processes; None generates in this one.

    Raises:
        ConfigError: A setting is out of range, or there are not so many puzzles of the kind.
    """
    choice = _choices(givens, size)[:1]
    with Workers(processes) as workers:
        return _episodes(_held_out(_Recipe(size, 0, count, choice, 0, seed), workers))


# ---------------------------------------------------------------- generated puzzles


@dataclass(frozen=True)
class _Recipe:
    """Everything that the puzzles of one size depend on."""

    size: int
    train: int
    valid: int
    choices: tuple[Choice, ...]
    fill_share: float
    seed: int

    @property
    def digest(self) -> str:
        key = [FORMAT, HELD_OUT_ONE_IN, self.size, self.train, self.valid, self.choices]
        text = json.dumps([*key, self.fill_share, self.seed])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _choices(givens: Givens | Mapping[int, Givens] | None, size: int) -> tuple[Choice, ...]:
    cells = geometry(size).cells
    found = givens.get(size) if isinstance(givens, Mapping) else givens
    found = DEFAULT_GIVENS[size] if found is None else found
    named = (found,) if isinstance(found, int | str) else tuple(found)
    for choice in named:
        if choice != MINIMAL and not (isinstance(choice, int) and 0 < choice < cells):
            raise ConfigError(
                f"givens {choice!r} for {size}x{size}: give 1 to {cells - 1}, or {MINIMAL!r}, or "
                "several of these."
            )
    if not named:
        raise ConfigError(f"givens for {size}x{size} is empty; give a number or {MINIMAL!r}.")
    return named


def _cached(recipe: _Recipe, folder: Path, workers: Workers) -> tuple[Episodes, Episodes]:
    file = folder / f"{recipe.size}x{recipe.size}-{recipe.train}-{recipe.digest}.safetensors"
    if file.is_file():
        try:
            kept = {name: tensor.numpy() for name, tensor in load_tensors(file).items()}
            return (
                _episodes(_Rows(kept["train_clues"], kept["train_solutions"])),
                _episodes(_Rows(kept["valid_clues"], kept["valid_solutions"])),
            )
        except (CheckpointError, KeyError):
            # A cache is no input: what it holds can be made again.
            file.unlink(missing_ok=True)
    train, valid = _generated(recipe, workers)
    tensors = {
        "train_clues": train.clues,
        "train_solutions": train.solutions,
        "valid_clues": valid.clues,
        "valid_solutions": valid.solutions,
    }
    save_tensors({name: torch.from_numpy(array) for name, array in tensors.items()}, file)
    return _episodes(train), _episodes(valid)


def _generated(recipe: _Recipe, workers: Workers) -> tuple[_Rows, _Rows]:
    """Both sides of the split.

    Training puzzles are the first of a stream that are not held out; those held out on the
    way are used too, if they have the givens of the held-out set.
    """
    made, sides = [], np.zeros(0, bool)
    first = np.zeros(0, bool)
    while (~sides).sum() < recipe.train:
        missing = recipe.train - int((~sides).sum())
        span = range(
            len(sides), len(sides) + missing * HELD_OUT_ONE_IN // (HELD_OUT_ONE_IN - 1) + 8
        )
        drawn = [_drawn(recipe, index) for index in span]
        made.append(_make(recipe, drawn, "train", span, workers))
        sides = np.append(sides, held_out(canonical_keys(made[-1].clues)))
        first = np.append(first, [choice == recipe.choices[0] for choice in drawn])
    rows = _stacked(made)
    train = np.flatnonzero(~sides)[: recipe.train]
    ahead = np.flatnonzero(sides & first)
    # Only what lies before the last training puzzle: the rest depends on how we step.
    found = rows.rows(ahead[ahead < train[-1]])
    return _revealed(rows.rows(train), recipe), _held_out(recipe, workers, found)


def _held_out(recipe: _Recipe, workers: Workers, found: _Rows | None = None) -> _Rows:
    """``recipe.valid`` different held-out puzzles, those already ``found`` first."""
    empty = _Rows(*np.zeros((2, 0, recipe.size**2), np.uint8))
    kept = _distinct([empty if found is None else found])
    start = in_vain = 0
    while (missing := recipe.valid - len(kept)) > 0:
        if in_vain >= IN_VAIN:
            raise ConfigError(
                f"{start} generated puzzles of {recipe.size}x{recipe.size} with these givens hold "
                f"only {len(kept)} different held-out ones; {recipe.valid} were asked for. "
                "Ask for fewer, or for other givens."
            )
        span = range(start, start + min(missing * HELD_OUT_ONE_IN + 16, 20_000))
        batch = _make(recipe, [recipe.choices[0]] * len(span), "valid", span, workers)
        more = _distinct([kept, batch.rows(held_out(canonical_keys(batch.clues)))])
        start, in_vain = span.stop, 0 if len(more) > len(kept) else in_vain + len(span)
        kept = more
    return kept.rows(slice(recipe.valid))


def _drawn(recipe: _Recipe, index: int) -> Choice:
    return random.Random(f"givens/{recipe.seed}/{index}").choice(recipe.choices)


def _make(
    recipe: _Recipe, drawn: Sequence[Choice], stream: str, span: range, workers: Workers
) -> _Rows:
    # The two streams of a seed share no puzzle: training counts up from 0, the other down.
    sign = 1 if stream == "train" else -1
    seeds = [(recipe.seed << 32) + sign * (index + (sign < 0)) for index in span]
    stage = f"{stream} {recipe.size}x{recipe.size}"
    counts = [None if isinstance(choice, str) else choice for choice in drawn]
    kinds = list(zip(counts, seeds, strict=True))
    return _Rows.of(workers.map(stage, partial(generate_kind, recipe.size), kinds), recipe.size)


def _revealed(rows: _Rows, recipe: _Recipe) -> _Rows:
    """A share of the puzzles with more cells revealed, none of them of a held-out class."""
    rng = np.random.default_rng([recipe.size, abs(recipe.seed), 1])
    clues = rows.clues.copy()
    waiting = np.flatnonzero(rng.random(len(rows)) < recipe.fill_share)
    for _ in range(REDRAWS):
        if len(waiting) == 0:
            break
        some = rows.rows(waiting)
        most = (some.clues == 0).sum(1)
        blanks = np.exp(rng.random(len(some)) * np.log(np.maximum(most, 1))).round().astype(int)
        easier = _reveal(some, blanks, rng)
        leaks = held_out(canonical_keys(easier))
        clues[waiting[~leaks]] = easier[~leaks]
        waiting = waiting[leaks]
    return _Rows(clues, rows.solutions)


def _reveal(rows: _Rows, blanks: NDArray[np.integer], rng: np.random.Generator) -> Digits:
    """Clues in which ``blanks`` ``(n,)`` of the blanks are left, drawn at random."""
    lot = np.where(rows.clues == 0, rng.random(rows.clues.shape), 2.0)
    rank = lot.argsort(1).argsort(1)
    stays = (rank < blanks[:, None]) & (rows.clues == 0)
    return np.where(stays, np.uint8(0), rows.solutions)


def _stacked(parts: Sequence[_Rows]) -> _Rows:
    return _Rows(
        np.concatenate([part.clues for part in parts]),
        np.concatenate([part.solutions for part in parts]),
    )


def _distinct(parts: Sequence[_Rows]) -> _Rows:
    """The first of each puzzle."""
    rows = _stacked(parts)
    seen = {clues.tobytes(): number for number, clues in reversed(list(enumerate(rows.clues)))}
    return rows.rows(sorted(seen.values()))


# ---------------------------------------------------------------- users' puzzles, tensors


def _from_file(
    path: str | Path, limit: int | None, fill_share: float, seed: int
) -> dict[int, tuple[Episodes, Episodes]]:
    """Each size that a file has, split by symmetry class."""
    by_size: dict[int, list[Puzzle]] = {}
    for puzzle in read_puzzles(path, limit):
        by_size.setdefault(_one_size([puzzle]), []).append(puzzle)
    parts = {}
    for size, puzzles in sorted(by_size.items()):
        rows = _Rows.of(puzzles, size)
        side = held_out(canonical_keys(rows.clues))
        recipe = _Recipe(size, len(rows), 0, (), fill_share, seed)
        parts[size] = (_revealed(rows.rows(~side), recipe), rows.rows(side))
    train, valid = (sum(len(pair[side]) for pair in parts.values()) for side in (0, 1))
    if not train or not valid:
        raise DataError(
            f"{path} leaves {train} puzzles to train on and {valid} to validate on. One class of "
            f"symmetric puzzles in {HELD_OUT_ONE_IN} is held out: give 50 different ones or more."
        )
    return {size: (_episodes(pair[0]), _episodes(pair[1])) for size, pair in parts.items()}


def _episodes(rows: _Rows) -> Episodes:
    tokenizer = sudoku_tokenizer()
    before = tokenizer.encode("1")[0] - 1
    clues, labels = (torch.from_numpy(a.astype(np.int64)) for a in (rows.clues, rows.solutions))
    inputs = torch.where(clues == 0, tokenizer.mask_token_id, clues + before)
    return Episodes(inputs, labels + before, torch.arange(len(rows)))


def _join(parts: list[Episodes]) -> Episodes:
    """All sizes in one, each episode with a number of its own."""
    whole = Episodes.join(parts, sudoku_tokenizer().pad_token_id)
    return Episodes(whole.inputs, whole.labels, torch.arange(len(whole)))


def _one_size(puzzles: Sequence[Puzzle]) -> int:
    sizes = {len(puzzle.clues) for puzzle in puzzles}
    if len(sizes) != 1:
        raise DataError(f"puzzles of {sorted(sizes) or 'no'} cells; give some, all of one size.")
    return size_of(range(sizes.pop()))
