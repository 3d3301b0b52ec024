"""Processes for tests, forked from one that has loaded the libraries when the first starts.

The functions that run in them are those of a module. They start in the working directory and with
the environment of this process.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

LIBRARIES = [
    "accelerate", "torch._dynamo", "torch.distributed.run", "torch.utils.tensorboard",
    "imadarem.cli.app", "imadarem.loading", "imadarem.evaluation.chemistry",
    "imadarem.orchestrator.orchestrator", "imadarem.training.masked", "imadarem.training.trainer",
]  # fmt: skip
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(LIBRARIES)


def start(
    function: Callable[..., object], *arguments: object, output: Path, **variables: str
) -> BaseProcess:
    """Call a function in a process of its own; an integer that it returns is the exit code.

    Args:
        function: Of a module.
        arguments: Of the function; they are pickled.
        output: What it prints is added to this file, stderr to ``output`` with ``.err``.
        variables: Of its environment, besides those of this process.
    """
    environment = {**os.environ, **variables}
    given = (function, arguments, Path.cwd(), output, environment)
    output.touch()
    output.with_suffix(".err").touch()
    process: BaseProcess = SERVER.Process(target=_call, args=given, daemon=True)
    process.start()
    return process


def start_command(*tokens: object, output: Path, **variables: str) -> BaseProcess:
    """Start ``imadarem`` with these tokens."""
    return start(_imadarem, [str(token) for token in tokens], output=output, **variables)


def start_ranks(
    count: int, function: Callable[..., object], *arguments: object, output: Path
) -> list[BaseProcess]:
    """Call a function in several processes with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(function, *arguments, output=output, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(count)
    ]


def start_command_ranks(count: int, *tokens: object, output: Path) -> list[BaseProcess]:
    """Start ``imadarem`` with these tokens in several processes."""
    return start_ranks(count, _imadarem, [str(token) for token in tokens], output=output)


def finish(*processes: BaseProcess) -> int:
    """Wait for all; when one fails, the others are stopped. The first exit code that is not 0."""
    running = {process.sentinel: process for process in processes}
    code = 0
    while running:
        ended = wait(running, timeout=120)
        assert ended, "no process ended within two minutes"
        for sentinel in ended:
            process = running.pop(sentinel)
            process.join()
            if process.exitcode and not code:
                code = process.exitcode
                for other in running.values():
                    other.terminate()
    return code


def wait_until(done: Callable[[], object], *processes: BaseProcess, output: Path) -> None:
    """Poll ``done()`` as long as all the processes run."""
    deadline = time.monotonic() + 120
    while not done():
        assert all(process.is_alive() for process in processes), errors(output)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def errors(output: Path) -> str:
    """What processes with this output wrote to stderr."""
    return output.with_suffix(".err").read_text()


def _imadarem(tokens: list[str]) -> int:
    from imadarem.cli.app import run

    return run(tokens)


def _call(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    place: Path,
    output: Path,
    environment: dict[str, str],
) -> None:
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in ((1, output), (2, output.with_suffix(".err"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    code = function(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once, as the threads of a run that was asked to stop may still wait.
    os._exit(code if isinstance(code, int) else 0)
