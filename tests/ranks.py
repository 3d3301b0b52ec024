"""A command in several processes, as torchrun starts it: the libraries are loaded once for all.

python tests/ranks.py 3 sample --model folder -n 100 --out file.csv
"""

from __future__ import annotations

import os
import signal
import socket
import sys


def main(count: int, *command: str) -> int:
    """Fork ``count`` processes; when one fails, the others are stopped. The first exit code."""
    # Loaded here, not in each process.
    import accelerate  # noqa: F401
    import torch._dynamo  # noqa: F401
    import torch.distributed  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import imadarem.cli.app
    import imadarem.orchestrator.orchestrator  # noqa: F401
    import imadarem.training.trainer  # noqa: F401

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = set()
    for rank in range(count):
        process = os.fork()
        if process == 0:
            os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
            code = imadarem.cli.app.run(list(command))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        running.add(process)
    code = 0
    while running:
        ended, status = os.wait()
        running.discard(ended)
        if status and not code:
            code = os.waitstatus_to_exitcode(status)
            for process in running:
                os.kill(process, signal.SIGTERM)
    return abs(code)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), *sys.argv[2:]))
