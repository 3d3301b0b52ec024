"""Every exception that Imadarem raises on purpose.

::

    ImadaremError
    ├── ConfigError(ValueError)        a setting is unknown, missing or out of range
    │   └── TokenizerError             a tokenizer breaks the contract of special ids
    ├── DataError(ValueError)          a file, column, molecule or canvas cannot be used
    ├── CheckpointError(OSError)       a directory is no checkpoint, or is damaged
    ├── BusyError(OSError)             another process is writing the file or folder
    ├── NonFiniteError(ArithmeticError)  the network gave NaN while it sampled
    ├── TrainingError(RuntimeError)    training cannot go on (loss stayed non-finite)
    ├── MissingExtraError(ImportError) an optional dependency is not installed
    └── MissingLibraryError(ImportError)  a shared library of the system is not installed

A message says what was given, what is legal and what to do next. The command line
prints it on one line without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class ImadaremError(Exception):
    """Base of all errors that a user can cause and correct."""


class ConfigError(ImadaremError, ValueError):
    """A setting is unknown, missing or out of range."""


class TokenizerError(ConfigError):
    """A tokenizer breaks the contract: a mask token must exist, special ids must differ."""


class DataError(ImadaremError, ValueError):
    """A file, a column, a molecule or a canvas cannot be used as given."""


class CheckpointError(ImadaremError, OSError):
    """A directory is not a checkpoint, or its contents are damaged."""


class BusyError(ImadaremError, OSError):
    """Another process is writing the file or folder.

    Attributes:
        path: The file or folder.
        pid: Id of the process that is writing it, or None if unknown.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path, self.pid = path, pid
        writer = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{path} is being written by {writer}; wait for it, stop it, or write elsewhere."
        )


class NonFiniteError(ImadaremError, ArithmeticError):
    """The network gave NaN while sampling, so no token can be drawn.

    Attributes:
        row: Number of the row, from 0.
        step: Refinement step, from 1.
    """

    def __init__(self, row: int, step: int) -> None:
        self.row, self.step = row, step
        super().__init__(
            f"the network gave NaN for row {row} in step {step}: its weights are damaged, or too "
            "large for the number format. Load the model again, or use float32."
        )


class TrainingError(ImadaremError, RuntimeError):
    """Training cannot go on."""


class MissingExtraError(ImadaremError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "imadarem[{extra}]"'
        )


class MissingLibraryError(ImadaremError, ImportError):
    """A package is installed, but not a shared library of the system that it loads."""


def nearest(given: str, legal: Iterable[str]) -> str:
    """``' (did you mean "x"?)'`` for the legal name closest to ``given``, or ``''``."""
    close = get_close_matches(given, list(legal), n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""
