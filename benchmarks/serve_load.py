"""``imadarem serve`` under load: 64 clients at once, good requests and bad ones.

    OMP_NUM_THREADS=1 python benchmarks/serve_load.py            about three minutes
    OMP_NUM_THREADS=1 python benchmarks/serve_load.py --quick    under a minute

A real process on a free port of this machine, real HTTP. Three readings:

- *mixed*: samples of equal work, fillings, sudokus, traces and a quarter of requests that
  must be refused. Counted: answers other than expected, 5xx, requests without any answer.
- *equal*: samples of equal work alone. Rate, and the time that a client waits.
- *bare*: the same rows through ``refine_all`` as ``model.sample`` calls it, in batches as
  large as the server's, before and after, in this process.

Rates and waiting times are given by the wall clock and by the server's own CPU clock (what
it computed between a question and its answer). The latter means something on a machine that
does other things too. The clients run in this process and take CPU time of their own, which
is nobody's here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import psutil
import torch

from imadarem import ImplicitRefinementModel
from imadarem.canvas import Canvas
from imadarem.sampling.batching import Widths, refine_all
from imadarem.sampling.noise import row_seeds

CLIENTS = 64
BATCH = 64
LENGTH = 36
PUZZLE = "..15.6......126...........26.....43."
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Asked:
    """A request and the status that it should get."""

    kind: str
    path: str
    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = tuple(JSON.items())


@dataclass(frozen=True)
class Answer:
    """What came back, after how long by the wall and by the server; status 0 if nothing did."""

    asked: Asked
    status: int
    seconds: float
    worked: float
    body: bytes


def of(kind: str, path: str, body: dict[str, Any], status: int = 200) -> Asked:
    return Asked(kind, f"/v1/{path}", json.dumps(body).encode(), status)


def equal(seed: int) -> Asked:
    return of("sample", "sample", {"length": LENGTH, "seed": seed})


BAD = [
    Asked("not JSON", "/v1/sample", b"{", 400),
    Asked("no JSON type", "/v1/sample", b"{}", 415, (("Content-Type", "text/plain"),)),
    Asked("too long", "/v1/infill", b" " * 300_000, 413),
    of("unknown model", "sample", {"model": "nobody"}, 404),
    of("unknown address", "nothing", {}, 404),
    of("too many", "sample", {"count": 100_000}, 422),
    of("wrong type", "sample", {"seed": "1"}, 422),
    of("unknown field", "sample", {"temprature": 1}, 422),
    of("unknown policy", "trace", {"policy": "best"}, 422),
    of("no blank", "infill", {"prompts": ["[C][O]"]}, 422),
    of("unknown token", "infill", {"prompts": ["[Xx]<mask>"]}, 422),
    of("no sudoku", "solve", {"puzzle": "1" * 16}, 422),
]


def mixture(count: int) -> list[Asked]:
    """Half equal samples, a quarter other good requests, a quarter bad ones, interleaved."""
    others = [
        of("infill", "infill", {"prompts": ["[C][C]<mask><mask><mask>[O]"], "seed": 1}),
        of("solve", "solve", {"puzzle": PUZZLE}),
        of("trace", "trace", {"length": 24, "seed": 1}),
        of("draw", "draw", {"smiles": "CC(=O)Oc1ccccc1C(=O)O"}),
    ]
    made = []
    for n in range(count):
        turn = n // 4
        asked = {0: BAD[turn % len(BAD)], 1: others[turn % len(others)]}.get(n % 4, equal(n))
        made.append(asked)
    return made


async def load(
    process: psutil.Process, url: str, requests: Sequence[Asked]
) -> tuple[list[Answer], float]:
    """All requests, ``CLIENTS`` at a time, each client asking as soon as it was answered.

    Returns the answers and the seconds from the first question to the last answer.
    """
    waiting = iter(requests)
    answers: list[Answer] = []

    async def client(http: aiohttp.ClientSession) -> None:
        for asked in waiting:
            begun, spent = time.perf_counter(), cpu(process)
            try:
                async with http.post(
                    asked.path, data=asked.body, headers=dict(asked.headers)
                ) as told:
                    status, body = told.status, await told.read()
            except (aiohttp.ClientError, TimeoutError):
                status, body = 0, b""
            wall, worked = time.perf_counter() - begun, cpu(process) - spent
            answers.append(Answer(asked, status, wall, worked, body))

    # Not httpx: its 2 ms of CPU a request would be most of what is measured here.
    async with aiohttp.ClientSession(
        url, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(120)
    ) as http:
        first = time.perf_counter()
        await asyncio.gather(*[client(http) for _ in range(CLIENTS)])
    return answers, time.perf_counter() - first


@contextmanager
def server():
    """A running server: its process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "imadarem", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    url = process.stdout.readline().split(" at ")[1].strip().rstrip("/")
    try:
        yield psutil.Process(process.pid), url
    finally:
        process.terminate()
        process.wait(60)


def cold_start() -> tuple[float, float]:
    """Wall and CPU seconds from the start of the command to its first sample."""
    begun = time.perf_counter()
    with server() as (process, url):
        assert httpx.post(f"{url}/v1/sample", json={}, timeout=60).status_code == 200
        return time.perf_counter() - begun, cpu(process)


def bare(
    model: ImplicitRefinementModel, seeds: Sequence[int]
) -> tuple[tuple[float, float], list[str]]:
    """Wall and CPU seconds of the engine alone, and the texts, for the rows of :func:`equal`."""
    canvas = Canvas.blank([LENGTH] * len(seeds), model.special)
    rows = torch.cat([row_seeds(1, seed) for seed in seeds])
    begun, spent = time.perf_counter(), time.process_time()
    settings, widths = model.sampling_settings(), Widths.of(model.config)
    found = refine_all(model, canvas, rows, settings, batch_size=BATCH, widths=widths)
    seconds = time.perf_counter() - begun, time.process_time() - spent
    return seconds, [model.tokenizer.decode(row.ids.tolist()) for row in found]


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def resident(process: psutil.Process) -> float:
    """10⁶ bytes."""
    return process.memory_info().rss / 1e6


def quantiles(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """How long the clients of equal samples waited, by both clocks."""
    same = [a for a in answers if a.asked.kind == "sample" and a.status == 200]
    clocks = {"wall s": [a.seconds for a in same], "server CPU s": [a.worked for a in same]}
    told = {}
    for name, waited in clocks.items():
        cuts = statistics.quantiles(waited, n=100, method="inclusive")
        p50, p95, p99 = cuts[49], cuts[94], cuts[98]
        told[name] = {"p50": p50, "p95": p95, "p99": p99, "p95/p50": p95 / p50}
    return told


def batches(url: str) -> tuple[float, float]:
    """Batches and rows so far."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("imadarem_batch_rows_"))
    return float(found["imadarem_batch_rows_count"]), float(found["imadarem_batch_rows_sum"])


def mixed(process: psutil.Process, url: str, count: int) -> dict[str, Any]:
    asyncio.run(load(process, url, mixture(count // 4)))
    before = resident(process)
    answers, _ = asyncio.run(load(process, url, mixture(count)))
    wrong = Counter(
        f"{a.asked.kind}: {a.status}, not {a.asked.status}"
        for a in answers
        if a.status != a.asked.status
    )
    return {
        "requests": len(answers),
        "answers": dict(sorted(Counter(a.status for a in answers).items())),
        "5xx": sum(a.status >= 500 for a in answers),
        "lost": count - len(answers) + sum(a.status == 0 for a in answers),
        "other than expected": dict(wrong),
        "waiting": quantiles(answers),
        "resident before, MB": before,
        "resident after, MB": resident(process),
    }


def equal_work(
    process: psutil.Process, url: str, model: ImplicitRefinementModel, count: int
) -> dict[str, Any]:
    seeds = range(count)
    first, texts = bare(model, seeds)
    count_before, rows_before = batches(url)
    spent = cpu(process)
    answers, wall = asyncio.run(load(process, url, [equal(seed) for seed in seeds]))
    spent = cpu(process) - spent
    count_after, rows_after = batches(url)
    clocks = zip(first, bare(model, seeds)[0], strict=True)
    engine_wall, engine = map(statistics.mean, clocks)
    by_seed = {
        json.loads(a.asked.body)["seed"]: json.loads(a.body)["samples"][0]["text"]
        for a in answers
        if a.status == 200
    }
    return {
        "requests": len(answers),
        "answered": len(by_seed),
        "texts other than the engine's": sum(by_seed.get(n) != texts[n] for n in seeds),
        "waiting": quantiles(answers),
        "rows per batch": (rows_after - rows_before) / (count_after - count_before),
        "per wall second": {
            "server": count / wall,
            "engine": count / engine_wall,
            "server / engine": engine_wall / wall,
        },
        "per CPU second": {
            "server": count / spent,
            "engine": count / engine,
            "server / engine": engine / spent,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the requests")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    model = ImplicitRefinementModel.from_pretrained("selfies")
    bare(model, range(BATCH))
    wall, spent = cold_start()
    figures: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "load average before": os.getloadavg()[0],
        "cold start to first sample": {"wall s": wall, "CPU s": spent},
    }
    with server() as (process, url):
        figures["mixed"] = mixed(process, url, 500 if quick else 2_000)
        figures["equal"] = equal_work(process, url, model, 500 if quick else 2_000)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
