"""``imadarem serve``: the models over HTTP, and a page to watch them."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from imadarem.cli.console import err, note, out
from imadarem.cli.models import Switch, device_named
from imadarem.cli.numbers import Positive, real, whole
from imadarem.errors import MissingExtraError

if TYPE_CHECKING:
    from socket import socket

    from imadarem.serve.catalogue import Catalogue
    from imadarem.serve.limits import Limits

Token = Annotated[str | None, Parameter(env_var="IMADAREM_TOKEN")]
Hosts = Annotated[
    tuple[str, ...], Parameter(negative="", consume_multiple=False, show_default=False)
]
Port = Annotated[int, whole(0, 65_535)]
Seconds = Annotated[float, real(0.001, 86_400)]
Queue = Annotated[int, whole(1, 1_000_000)]
Connections = Annotated[int, whole(1, 65_536)]
BodyBytes = Annotated[int, whole(1, 2**30)]
Models = Annotated[
    tuple[str, ...],
    Parameter(negative="", consume_multiple=False, show_default="smiles, druglike and sudoku"),
]


@Parameter(name="*", group=Group("Limits", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class LimitFlags:
    """How much clients may ask for.

    Attributes:
        seconds: Maximum time for an answer.
        queue: Maximum number of requests that wait or run.
        body_bytes: Maximum length of a request's body.
        connections: Maximum number of open connections; one client address may have half of
            them.
        batch_size: Maximum number of rows refined together; changes the speed, not the
            answers.
    """

    seconds: Seconds = 60.0
    queue: Queue = 256
    body_bytes: BodyBytes = 262_144
    connections: Connections = 512
    batch_size: Positive = 64

    def limits(self) -> Limits:
        """The same for the server."""
        from imadarem.serve.limits import Limits

        return Limits(
            body_bytes=self.body_bytes,
            queue_jobs=self.queue,
            seconds=self.seconds,
            batch_rows=self.batch_size,
            connections=self.connections,
        )


LIMITS = LimitFlags()


def serve(
    *,
    model: Models = ("smiles", "druglike", "sudoku"),
    host: str = "127.0.0.1",
    port: Port = 8000,
    token: Token = None,
    without_token: Switch = False,
    allow_host: Hosts = (),
    device: str | None = None,
    limits: LimitFlags = LIMITS,
) -> None:
    """Serve models over HTTP, with a page in the browser that repairs and shows refinements.

    **Examples**

    ```
    imadarem serve
    imadarem serve --model mine=runs/mine/model --port 9000
    IMADAREM_TOKEN=secret imadarem serve --host 0.0.0.0
    curl localhost:8000/v1/sample -H 'Content-Type: application/json' -d '{"count": 4}'
    ```

    Ctrl-C finishes running requests and stops. docs/reference/http.md describes the API.

    Args:
        model: A model of the package, a folder, or ID=FOLDER; can be repeated. Requests that
            name no model use the first.
        host: Address to listen on; by default other machines cannot reach it.
        port: Port to listen on; 0 takes a free one.
        token: Required in every request to the API. Set it as IMADAREM_TOKEN: others on the
            machine can read a command line.
        without_token: Listen on an address that other machines reach, without a token.
        allow_host: Host name that requests may use, such as the name of a proxy; can be
            repeated; "*" allows all. Addresses and this machine's name are always legal.
        device: cpu or cuda; default: cuda if available.
    """
    _check_installed()
    from imadarem.serve.server import bind, check_exposure, host_names

    check_exposure(host, token, without_token=without_token)
    with bind(host, port) as listening:
        with err().status("loading the models"):
            from imadarem.serve.catalogue import load_catalogue

            catalogue = load_catalogue(model, device_named(device))
        _run(catalogue, listening, host, limits.limits(), token, host_names(host, allow_host))
    note("stopped")


def _check_installed() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from None


def _run(
    catalogue: Catalogue,
    listening: socket,
    host: str,
    limits: Limits,
    token: str | None,
    hosts: frozenset[str],
) -> None:
    """Serve until a signal ends it; the address is printed when the server answers."""
    from imadarem.serve.app import create_app
    from imadarem.serve.server import Server

    app = create_app(catalogue, limits, token=token, hosts=hosts)
    names = ", ".join(served.id for served in catalogue)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}/"

    def print_address() -> None:
        console = out()
        console.print(f"serving {names} at {address}", markup=False)
        console.file.flush()

    # The garbage collector need not look through what lives as long as the process.
    gc.collect()
    gc.freeze()
    Server(app, listening, limits, print_address).run_until_signal()
