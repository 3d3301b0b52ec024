"""What the tests of the server share: a real process on a free port of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx


class Served:
    """A running ``imadarem serve``."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **settings)

    def stop(self) -> int:
        """Ask it to end, as a service manager does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def running(*flags: object, **environment: str) -> Iterator[Served]:
    """A server with these flags, gone at the end whatever happens."""
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
        yield Served(process, line.split(" at ")[1].strip().rstrip("/"))
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def counted(client: httpx.Client, name: str) -> float:
    """The sum of a counter over its labels."""
    lines = client.get("/metrics").text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name
    )


def events(text: str) -> list[tuple[str, str]]:
    """Names and data of server-sent events."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), data.removeprefix("data: ")))
    return found
