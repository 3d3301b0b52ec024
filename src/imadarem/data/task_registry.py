"""Every task by its name, and a loader that knows the names of their settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from imadarem.data.arc import arc_task
from imadarem.data.arithmetic import addition_task
from imadarem.data.molecule_task import molecule_task
from imadarem.data.residues import modular_task
from imadarem.data.tasks import Task
from imadarem.data.text_task import text_task
from imadarem.errors import ConfigError, nearest

__all__ = ["TASKS", "load_task", "task_settings"]


def _sudoku() -> Callable[..., Task]:
    from imadarem.data.sudoku import sudoku_task

    return sudoku_task


TASKS: dict[str, Callable[..., Task]] = {
    "sudoku": lambda **settings: _sudoku()(**settings),
    "arc": arc_task,
    "modular": modular_task,
    "addition": addition_task,
    "text": text_task,
    "molecules": molecule_task,
}
"""What :func:`load_task` loads; each is called with settings by keyword."""


def load_task(name: str, **settings: Any) -> Task:
    """A task by its name.

    >>> load_task("modular", p=7, operation="*").train.inputs.shape[1]
    5

    Args:
        name: A key of :data:`TASKS`.
        settings: Of that task; :func:`task_settings` lists them.

    Raises:
        ConfigError: The task, or a setting of it, is unknown (the nearest is named); a
            required setting is missing; or its value is out of range.
        DataError: Its data cannot be read.
        MissingExtraError: It needs a package that is not installed.
    """
    known = task_settings(name)
    for given in settings:
        if given not in known:
            raise ConfigError(
                f"the task {name!r} has no setting {given!r}{nearest(given, known)}. "
                f"Legal: {', '.join(known)}."
            )
    missing = [key for key, default in known.items() if default is inspect.Parameter.empty]
    for required in missing:
        if required not in settings:
            raise ConfigError(
                f"the task {name!r} needs the setting {required!r}: "
                f"load_task({name!r}, {required}=...)."
            )
    return TASKS[name](**settings)


def task_settings(name: str) -> dict[str, Any]:
    """Each setting of a task and its default, ``inspect.Parameter.empty`` where required.

    Raises:
        ConfigError: There is no task of that name; the nearest is named.
    """
    if name not in TASKS:
        raise ConfigError(
            f"unknown task {name!r}{nearest(str(name), TASKS)}. Choose one of {', '.join(TASKS)}."
        )
    build = _sudoku() if name == "sudoku" else TASKS[name]
    return {key: value.default for key, value in inspect.signature(build).parameters.items()}
