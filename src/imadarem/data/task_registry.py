"""Every task by its name or its place, and a loader that knows the names of their settings."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from imadarem.data.arc import arc_task
from imadarem.data.arithmetic import addition_task
from imadarem.data.molecule_task import molecule_task
from imadarem.data.reasoning import reasoning_task
from imadarem.data.residues import modular_task
from imadarem.data.tasks import Task
from imadarem.data.text_task import text_task
from imadarem.errors import ConfigError, DataError, nearest


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
    "reasoning": reasoning_task,
}
"""What :func:`load_task` loads; each is called with settings by keyword."""


def load_task(name: str, **settings: Any) -> Task:
    """Load a task by its name.

    >>> load_task("modular", p=7, operation="*").train.inputs.shape[1]
    5

    Args:
        name: A key of :data:`TASKS`; or a function of yours that returns a :class:`Task`, as
            ``my_module:make_task`` or ``folder/my_file.py:make_task``.
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
    task = _builder(name)(**settings)
    if not isinstance(task, Task):
        raise ConfigError(f"{name} returned {type(task).__name__}; it must return a Task.")
    return task


def task_settings(name: str) -> dict[str, Any]:
    """Each setting of a task and its default, ``inspect.Parameter.empty`` where required.

    Raises:
        ConfigError: There is no task of that name; the nearest is named.
        DataError: There is no such module, file or function.
    """
    build = _sudoku() if name == "sudoku" else _builder(name)
    return {key: value.default for key, value in inspect.signature(build).parameters.items()}


def _builder(name: str) -> Callable[..., Task]:
    if name in TASKS:
        return TASKS[name]
    place, colon, function = name.rpartition(":")
    if not colon:
        raise ConfigError(
            f"unknown task {name!r}{nearest(str(name), TASKS)}. Choose one of {', '.join(TASKS)}, "
            "or name a function of yours as module:function or file.py:function."
        )
    module = _file(place) if place.endswith(".py") else _module(place)
    build = getattr(module, function, None)
    if not callable(build):
        near = nearest(function, dir(module))
        raise DataError(f"{place} has no function {function!r}{near}. It must return a Task.")
    found: Callable[..., Task] = build
    return found


def _module(name: str) -> ModuleType:
    # A command of a package does not look into the folder that it is called in.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise DataError(f"there is no module {name!r} here. Give a file: {name}.py:…") from None


def _file(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise DataError(f"there is no file {path}. Tasks are given as file.py:function.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules.setdefault(spec.name, module)
    spec.loader.exec_module(module)
    return module
