"""The task: generated or users' puzzles as episodes, split so that no symmetric copy leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imadarem.checkpoint import load_tensors, save_tensors
from imadarem.config import ImplicitRefinementConfig
from imadarem.data.sudoku.canonical import HELD_OUT_ONE_IN, canonical_keys, held_out
from imadarem.data.sudoku.drawn import (
    DEFAULT_GIVENS,
    Choice,
    Givens,
    PuzzleRows,
    Recipe,
    choices_of,
    generated,
    held_out_rows,
    revealed,
)
from imadarem.data.sudoku.generator import Puzzle
from imadarem.data.sudoku.grid import SIZES, relations, size_of
from imadarem.data.sudoku.puzzle_file import read_puzzles
from imadarem.data.sudoku.symmetry import SudokuSymmetry
from imadarem.data.sudoku.verifier import SudokuVerifier
from imadarem.data.tasks import Episodes, Task
from imadarem.data.wheels import cache_directory
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


#: Puzzles of each size to train on.
DEFAULT_COUNT = 20_000


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
        choices = {size: choices_of(givens, size) for size in wanted}
        folder = Path(cache_dir).expanduser() if cache_dir else cache_directory() / "sudoku"
        settings |= {"givens": {str(size): list(named) for size, named in choices.items()}}
        recipes = {
            size: Recipe(size, counts.get(size) or DEFAULT_COUNT, valid, named, fill_share, seed)
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
    return _episodes(PuzzleRows.of(puzzles, _one_size(puzzles)))


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
    choice = choices_of(givens, size)[:1]
    with Workers(processes) as workers:
        return _episodes(held_out_rows(Recipe(size, 0, count, choice, 0, seed), workers))


def _cached(recipe: Recipe, folder: Path, workers: Workers) -> tuple[Episodes, Episodes]:
    file = folder / f"{recipe.size}x{recipe.size}-{recipe.train}-{recipe.digest}.safetensors"
    if file.is_file():
        try:
            saved = {name: tensor.numpy() for name, tensor in load_tensors(file).items()}
            return (
                _episodes(PuzzleRows(saved["train_clues"], saved["train_solutions"])),
                _episodes(PuzzleRows(saved["valid_clues"], saved["valid_solutions"])),
            )
        except (CheckpointError, KeyError):
            # A cache is no input: what it holds can be made again.
            file.unlink(missing_ok=True)
    train, valid = generated(recipe, workers)
    tensors = {
        "train_clues": train.clues,
        "train_solutions": train.solutions,
        "valid_clues": valid.clues,
        "valid_solutions": valid.solutions,
    }
    save_tensors({name: torch.from_numpy(array) for name, array in tensors.items()}, file)
    return _episodes(train), _episodes(valid)


def _from_file(
    path: str | Path, limit: int | None, fill_share: float, seed: int
) -> dict[int, tuple[Episodes, Episodes]]:
    """Each size that a file has, split by symmetry class."""
    by_size: dict[int, list[Puzzle]] = {}
    for puzzle in read_puzzles(path, limit):
        by_size.setdefault(_one_size([puzzle]), []).append(puzzle)
    parts = {}
    for size, puzzles in sorted(by_size.items()):
        rows = PuzzleRows.of(puzzles, size)
        side = held_out(canonical_keys(rows.clues))
        recipe = Recipe(size, len(rows), 0, (), fill_share, seed)
        parts[size] = (revealed(rows.rows(~side), recipe), rows.rows(side))
    train, valid = (sum(len(pair[side]) for pair in parts.values()) for side in (0, 1))
    if not train or not valid:
        raise DataError(
            f"{path} leaves {train} puzzles to train on and {valid} to validate on. One class of "
            f"symmetric puzzles in {HELD_OUT_ONE_IN} is held out: give 50 different ones or more."
        )
    return {size: (_episodes(pair[0]), _episodes(pair[1])) for size, pair in parts.items()}


def _episodes(rows: PuzzleRows) -> Episodes:
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


def model_sizes(config: ImplicitRefinementConfig, tokenizer: Any) -> tuple[int, ...]:
    """The sizes that fit a model whose tokens are the digits 1 to 9; none for any other model."""
    digits = sudoku_tokenizer()
    if tokenizer is None or not len(tokenizer) == config.vocab_size == len(digits):
        return ()
    every = range(len(digits))
    if list(tokenizer.convert_ids_to_tokens(every)) != digits.convert_ids_to_tokens(every):
        return ()
    layouts = [len(layout[0]) for layout in config.relations or []]
    return tuple(
        size
        for size in SIZES
        if (size * size in layouts if layouts else size * size <= config.max_seq_len)
    )
