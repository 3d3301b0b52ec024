"""``imadarem serve``: the models over HTTP, and a page to watch them."""

from __future__ import annotations

import gc
from typing import Annotated

from cyclopts import Parameter

from imadarem.cli.console import err, note, out
from imadarem.cli.models import Switch, device_named
from imadarem.cli.numbers import Positive, real, whole
from imadarem.errors import MissingExtraError

__all__ = ["serve"]

Token = Annotated[str | None, Parameter(env_var="IMADAREM_TOKEN")]
Hosts = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)]
Port = Annotated[int, whole(0, 65_535)]
Seconds = Annotated[float, real(0.001, 86_400)]
Queue = Annotated[int, whole(1, 1_000_000)]
Connections = Annotated[int, whole(1, 65_536)]
BodyBytes = Annotated[int, whole(1, 2**30)]
Models = Annotated[
    tuple[str, ...],
    Parameter(negative="", consume_multiple=False, show_default="default and sudoku"),
]


def serve(
    *,
    model: Models = ("default", "sudoku"),
    host: str = "127.0.0.1",
    port: Port = 8000,
    token: Token = None,
    without_token: Switch = False,
    allow_host: Hosts = (),
    device: str | None = None,
    seconds: Seconds = 60.0,
    queue: Queue = 256,
    body_bytes: BodyBytes = 262_144,
    connections: Connections = 512,
    batch_size: Positive = 64,
) -> None:
    """Serve models over HTTP, with a page to watch them refine.

    **Examples**

    ```
    imadarem serve
    imadarem serve --model mine=runs/mine/model --port 9000
    IMADAREM_TOKEN=secret imadarem serve --host 0.0.0.0
    curl localhost:8000/v1/sample -H 'Content-Type: application/json' -d '{"count": 4}'
    ```

    Ctrl-C finishes running requests and stops. docs/serve.md describes the API.

    Args:
        model: "default", "sudoku", a folder, or ID=FOLDER; repeat it to serve several. The
            first is the default of requests.
        host: Address to listen on; by default other machines cannot reach it.
        port: 0 takes a free one.
        token: Required in every request to the API. Set it as IMADAREM_TOKEN: others on the
            machine can read a command line.
        without_token: Listen on an address that other machines reach, without a token.
        allow_host: Host name that requests may use, such as the name of a proxy; repeat it
            for several, "*" allows all. Addresses and this machine's name are always legal.
        device: cpu or cuda; default is cuda if available.
        seconds: Longest time for an answer.
        queue: Most requests that wait or run.
        body_bytes: Longest body of a request.
        connections: Most open connections; one client address may have half of them.
        batch_size: Most rows refined together; changes the speed, never an answer.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from None
    from imadarem.serve.limits import Limits
    from imadarem.serve.server import Server, bind, check_exposure, host_names

    limits = Limits(
        body_bytes=body_bytes,
        queue_jobs=queue,
        seconds=seconds,
        batch_rows=batch_size,
        connections=connections,
    )
    check_exposure(host, token, without_token=without_token)
    with bind(host, port) as listening:
        with err().status("loading the models"):
            from imadarem.serve.app import create_app
            from imadarem.serve.catalogue import load_catalogue

            catalogue = load_catalogue(model, device_named(device))
            hosts = host_names(host, allow_host)
            app = create_app(catalogue, limits, token=token, hosts=hosts)

        def print_address() -> None:
            name = f"[{host}]" if ":" in host else host
            names = ", ".join(served.id for served in catalogue)
            console = out()
            console.print(
                f"serving {names} at http://{name}:{listening.getsockname()[1]}/", markup=False
            )
            console.file.flush()

        # The garbage collector need not look through what lives as long as the process.
        gc.collect()
        gc.freeze()
        Server(app, listening, limits, print_address).run_until_signal()
    note("stopped")
