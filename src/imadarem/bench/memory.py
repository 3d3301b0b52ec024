"""The most memory that sampling takes, each reading in a process of its own.

A process's high-water mark never falls, so that one process tells of its dearest call alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from imadarem.bench.rivals import Size
from imadarem.bench.table import build

__all__ = ["high_water", "peak_memory"]

# What the allocator keeps of a first call is there for the second: more calls take no more.
CALLS = 2


def peak_memory(name: str, size: Size, width: int, batch: int) -> int | None:
    """Bytes resident at most in a process that samples a batch by one row of the table, twice.

    Everything counts: the interpreter, torch, the weights. None where the system does not tell.
    """
    told = json.dumps({"name": name, "size": asdict(size), "width": width, "batch": batch})
    command = [sys.executable, "-m", "imadarem.bench.memory", told]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=alone)
    found: int | None = json.loads(done.stdout)
    return found


def high_water() -> int | None:
    """This process's largest resident memory so far, bytes."""
    try:
        # Linux counts the memory of the process that started this one into ru_maxrss.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return None
    # Bytes on macOS, kilobytes elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _sample(name: str, size: Size, width: int, batch: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, _ = build(size, width, [name])
    for _ in range(CALLS):
        rows[name].sample(batch)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    _sample(**{**asked, "size": Size(**asked["size"])})
    sys.stdout.write(json.dumps(high_water()))
