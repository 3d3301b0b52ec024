"""A running server for tests: in this process, or as the command `imadarem serve`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
from processes import start_command, wait_until

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
def server_process(*flags: object, output: Path) -> Iterator[tuple[BaseProcess, ServerAddress]]:
    """A process ``imadarem serve`` with these flags, killed at the end whatever happens."""
    process = start_command("serve", "--port", 0, *flags, output=output)
    try:
        wait_until(lambda: " at http://" in output.read_text(), process, output=output)
        url = output.read_text().split(" at ")[1].splitlines()[0].strip().rstrip("/")
        yield process, ServerAddress(url)
    finally:
        process.kill()
        process.join(10)


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
