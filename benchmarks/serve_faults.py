"""``imadarem serve`` under attack, while honest clients work.

    OMP_NUM_THREADS=1 python benchmarks/serve_faults.py            about six minutes
    OMP_NUM_THREADS=1 python benchmarks/serve_faults.py --quick    about one

A real process that may open 1,024 files, real sockets. For each attack, 16 honest clients send
samples, fillings, sudokus and drawings, one after the other, half of them on new connections,
and one more asks /healthz on a new connection every 20 ms. Two processes attack; as the worst case,
they have the same address as the honest clients. Reported for each attack: the answers, how many
were lost or 5xx, the waiting times of /healthz, and the memory of the server after a rest.

Waiting times are given by the wall clock and by the server's own CPU clock (what it computed
between the question and the answer), which means something on a machine that does other
things too.

An attack is passed if all honest requests were answered 200, the 99th percentile of /healthz
by one of the clocks is at most 0.2 s, and the memory afterwards is at most 10 % above that before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import aiohttp
import psutil

CLIENTS = 16
FILES = 1_024
HEALTH_SECONDS = 0.02
HEALTH_P99 = 0.2
MEMORY_GROWTH = 1.1
REST_SECONDS = 15
HONEST = [
    ("/v1/sample", {"count": 2, "seed": 1}),
    ("/v1/infill", {"prompts": ["[C][C]<mask><mask><mask>[O]"], "seed": 1}),
    ("/v1/solve", {"puzzle": "1...4..2..3..4.."}),
    ("/v1/draw", {"smiles": "CC(=O)Oc1ccccc1C(=O)O"}),
]
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/infill HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


# --- attacks: each runs in a process of its own until it is killed


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def repeat(attempt: Callable[[int], None], port: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            attempt(port)


def send_and_read(port: int, request: bytes) -> None:
    with connect(port) as client:
        client.sendall(request)
        while client.recv(65_536):
            pass


def long_header(port: int) -> None:
    send_and_read(port, HEAD + b"Long: " + b"x" * 60_000_000 + b"\r\n\r\n")


def many_headers(port: int) -> None:
    send_and_read(port, HEAD + b"A: b\r\n" * 2_000_000 + b"\r\n")


def silent_connections(port: int) -> None:
    """1,100 connections, and then 100 new ones a second in the place of the oldest."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    silent: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            silent.append(connect(port))
        if len(silent) > 1_100:
            silent.pop(0).close()
            time.sleep(0.01)


def slow_requests(port: int) -> None:
    """200 requests that arrive byte by byte."""
    drops = HEAD + b"Slow: " + b"x" * 10_000
    clients = [connect(port) for _ in range(200)]
    for n in range(len(drops)):
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(drops[n : n + 1])
        time.sleep(0.2)


def copies_of_a_long_prompt(port: int) -> None:
    body = json.dumps({"prompts": ["[C]" * 6660 + "<mask>"], "count": 1000, "model": "selfies"})
    head = POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    send_and_read(port, head + body.encode())


def endless_body(port: int) -> None:
    with connect(port) as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            client.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")


def answers_not_taken(port: int) -> None:
    with connect(port) as client:
        while True:
            client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")


def unknown_fields(port: int) -> None:
    body = json.dumps({str(n): 1 for n in range(24_000)}).encode()
    head = POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    send_and_read(port, head + body)


def long_drawings(port: int) -> None:
    body = json.dumps({"smiles": "c1ccccc1" * 50}).encode()
    head = POST.replace(b"infill", b"draw") + b"Content-Length: %d\r\n" % len(body)
    send_and_read(port, head + b"Connection: close\r\n\r\n" + body)


ATTACKS: dict[str, Callable[[int], None] | None] = {
    "none": None,
    "a header of 60 MB": long_header,
    "2 million headers": many_headers,
    "1,100 silent connections": silent_connections,
    "200 requests byte by byte": slow_requests,
    "a long prompt 1,000 times": copies_of_a_long_prompt,
    "a body without end": endless_body,
    "answers that are not taken": answers_not_taken,
    "24,000 unknown fields": unknown_fields,
    "drawings of 400 atoms": long_drawings,
}


# --- honest clients


class Wait(NamedTuple):
    """How long an answer took, and what the server computed meanwhile, in seconds."""

    seconds: float
    server_cpu: float


async def work(url: str, number: int, end: float, answers: Counter[str]) -> None:
    """One request after the other; odd clients open a connection for each."""
    keep = None if number % 2 else await aiohttp.ClientSession(url).__aenter__()
    try:
        turn = number
        while time.monotonic() < end:
            path, body = HONEST[turn % len(HONEST)]
            session = keep or aiohttp.ClientSession(url)
            try:
                async with session.post(path, json=body) as answer:
                    await answer.read()
                    answers[str(answer.status)] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                answers[f"lost: {type(error).__name__}"] += 1
            finally:
                if keep is None:
                    await session.close()
            turn += 1
    finally:
        if keep is not None:
            await keep.close()


async def ask_health(
    process: psutil.Process, url: str, end: float, waited: list[Wait], answers: Counter[str]
) -> None:
    while time.monotonic() < end:
        began, spent = time.monotonic(), cpu(process)
        try:
            async with aiohttp.ClientSession(url) as session, session.get("/healthz") as answer:
                await answer.read()
                answers[str(answer.status)] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            answers[f"lost: {type(error).__name__}"] += 1
        waited.append(Wait(time.monotonic() - began, cpu(process) - spent))
        await asyncio.sleep(HEALTH_SECONDS)


async def honest_clients(
    process: psutil.Process, url: str, seconds: float
) -> tuple[Counter[str], list[Wait]]:
    answers: Counter[str] = Counter()
    waited: list[Wait] = []
    end = time.monotonic() + seconds
    await asyncio.gather(
        ask_health(process, url, end, waited, answers),
        *(work(url, number, end, answers) for number in range(CLIENTS)),
    )
    return answers, waited


# --- the server


@contextlib.contextmanager
def server() -> Iterator[tuple[psutil.Process, str]]:
    """A running server that may open :data:`FILES` files: its process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "imadarem", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    watched = psutil.Process(process.pid)
    watched.rlimit(psutil.RLIMIT_NOFILE, (FILES, FILES))
    url = process.stdout.readline().split(" at ")[1].strip().rstrip("/")
    try:
        yield watched, url
    finally:
        process.terminate()
        process.wait(120)


@contextlib.contextmanager
def attackers(attack: Callable[[int], None] | None, port: int) -> Iterator[None]:
    """Two processes that attack until the block ends."""
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=repeat, args=(attack, port)) for _ in range(2) if attack]
    for each in running:
        each.start()
    try:
        if running:
            time.sleep(2)
        yield
    finally:
        for each in running:
            each.kill()
            each.join()


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """Median, 99th percentile and largest."""
    p99 = statistics.quantiles(values, n=100, method="inclusive")[98]
    return round(statistics.median(values), 3), round(p99, 3), round(max(values), 3)


def memory(process: psutil.Process) -> float:
    """10⁶ bytes of the process and those that it started."""
    family = [process, *process.children(recursive=True)]
    return sum(each.memory_info().rss for each in family) / 1e6


def measure(process: psutil.Process, url: str, name: str, seconds: float) -> dict[str, Any]:
    before = memory(process)
    with attackers(ATTACKS[name], int(url.rsplit(":", 1)[1])):
        answers, waited = asyncio.run(honest_clients(process, url, seconds))
        during = memory(process)
    end = time.monotonic() + REST_SECONDS
    while memory(process) > before and time.monotonic() < end:
        time.sleep(0.5)
    wall = quantiles([wait.seconds for wait in waited])
    spent = quantiles([wait.server_cpu for wait in waited])
    quick = min(wall[1], spent[1]) <= HEALTH_P99
    after = memory(process)
    return {
        "attack": name,
        "answers": dict(answers),
        "lost": sum(n for status, n in answers.items() if status.startswith("lost")),
        "5xx": sum(n for status, n in answers.items() if status.startswith("5")),
        "healthz p50 / p99 / max, wall s": wall,
        "healthz p50 / p99 / max, server CPU s": spent,
        "resident before / during / after, MB": [round(v) for v in (before, during, after)],
        "passed": set(answers) == {"200"} and quick and after <= MEMORY_GROWTH * before,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="5 seconds for each attack, not 30")
    parser.add_argument("--only", choices=ATTACKS, help="one attack")
    chosen = parser.parse_args()
    seconds = 5.0 if chosen.quick else 30.0
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    sys.stdout.write(json.dumps({"machine": machine, "load before": os.getloadavg()[0]}) + "\n")
    passed = True
    with server() as (process, url):
        # Everything that is loaded once is there, and the allocator has its size.
        asyncio.run(honest_clients(process, url, seconds))
        for name in [chosen.only] if chosen.only else ATTACKS:
            result = measure(process, url, name, seconds)
            passed = passed and result["passed"]
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
