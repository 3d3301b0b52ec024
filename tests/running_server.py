"""A running server for tests: in this process, or as the command `imadarem serve`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from imadarem.serve.app import create_app
from imadarem.serve.catalogue import load_catalogue
from imadarem.serve.limits import Limits
from imadarem.serve.server import Server, bind


class ServerAddress:
    """Where a server answers."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **settings)


class ServerProcess(ServerAddress):
    """A running ``imadarem serve``."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        super().__init__(url)
        self.process = process

    def stop(self) -> int:
        """Ask it to end, as a service manager does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def server_thread(*models: str, token: str | None = None, **limits: Any) -> Iterator[ServerAddress]:
    """A server on a thread of this process, so that nothing is imported a second time."""
    ready = threading.Event()
    chosen = Limits(**limits)
    app = create_app(load_catalogue(models, "cpu"), chosen, token=token)
    with bind("127.0.0.1", 0) as listening:
        address = ServerAddress(f"http://127.0.0.1:{listening.getsockname()[1]}")
        server = Server(app, listening, chosen, ready.set)
        thread = threading.Thread(target=server.run_until_signal)
        thread.start()
        try:
            assert ready.wait(60)
            yield address
        finally:
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


@contextmanager
def server_process(*flags: object, **environment: str) -> Iterator[ServerProcess]:
    """A process with these flags, killed at the end whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "imadarem", "serve", "--port", "0", *map(str, flags)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://" in line, "the server said why on stderr"
        yield ServerProcess(process, line.split(" at ")[1].strip().rstrip("/"))
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def metric(client: httpx.Client, name: str) -> float:
    """The sum of a counter over its labels."""
    lines = client.get("/metrics").text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name
    )


def sse_events(text: str) -> list[tuple[str, str]]:
    """Names and data of server-sent events."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), data.removeprefix("data: ")))
    return found
