"""The web application: its routes, its error handlers, and what starts and stops with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from imadarem import __version__
from imadarem.errors import ImadaremError
from imadarem.serve import answers
from imadarem.serve.api_errors import (
    STATUS_HINTS,
    ApiError,
    from_http_exception,
    from_library_error,
    from_validation_error,
)
from imadarem.serve.catalogue import Catalogue
from imadarem.serve.drawing_process import DrawingProcess
from imadarem.serve.endpoints import Endpoints
from imadarem.serve.job_client import ClientDisconnected, JobClient
from imadarem.serve.limits import Limits
from imadarem.serve.metrics import CONTENT_TYPE, Metrics
from imadarem.serve.request_guard import RequestGuard
from imadarem.serve.worker import Worker

STATIC = Path(__file__).parent / "static"
NO_PAGE = (
    "<!doctype html><meta charset=utf-8><title>Imadarem</title><p>Imadarem is running. "
    "Its interface is described in <a href=/openapi.json>openapi.json</a>."
)


def create_app(
    catalogue: Catalogue,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    hosts: Iterable[str] = (),
) -> FastAPI:
    """The server's application; its worker runs between start-up and shutdown.

    Args:
        catalogue: The models.
        limits: How much requests may ask for.
        token: Required for every request to the API; None requires none.
        hosts: Host names that requests may use beside addresses and ``localhost``.
    """
    limits = limits or Limits()
    metrics = Metrics()
    worker, drawing = Worker(limits, metrics), DrawingProcess()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        # Every client has its answer or was told that its time was up: this wait is short.
        await asyncio.to_thread(worker.stop, limits.seconds)
        await drawing.close()

    app = FastAPI(
        title="Imadarem",
        version=__version__,
        summary="Masked-refinement language models.",
        lifespan=lifespan,
        # The pages of documentation would load scripts from other sites.
        docs_url=None,
        redoc_url=None,
        # A redirect would not be an error in the JSON shape of all others.
        redirect_slashes=False,
        responses=_error_responses(token),
    )
    _add_error_handlers(app)
    _add_api_routes(app, Endpoints(catalogue, JobClient(worker, limits), drawing))
    _add_state_routes(app, catalogue, worker, metrics)
    _add_page(app)
    routes = [route.path for route in app.routes if hasattr(route, "path")]
    app.add_middleware(
        RequestGuard, limits=limits, metrics=metrics, routes=routes, token=token, hosts=hosts
    )
    # Computed once and kept. In the first request it would block the event loop.
    app.openapi()
    for model in catalogue:
        _ = model.description
    return app


def _error_responses(token: str | None) -> dict[int | str, dict[str, Any]]:
    """The errors that any route may answer with, for the OpenAPI description."""
    return {
        status: {"model": answers.ErrorAnswer, "description": f"{code}. {hint}"}
        for status, (code, hint) in STATUS_HINTS.items()
        if status != 401 or token is not None
    }


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(ImadaremError)
    async def library_error(request: Request, error: ImadaremError) -> Response:
        return from_library_error(error).response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return from_validation_error(error).response()

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException) -> Response:
        return from_http_exception(error).response()

    @app.exception_handler(ClientDisconnected)
    async def disconnected(request: Request, error: ClientDisconnected) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return ApiError(500, "the server failed.").response()


def _add_api_routes(app: FastAPI, endpoints: Endpoints) -> None:
    app.post("/v1/sample", response_model=answers.SampleAnswer)(endpoints.sample)
    app.post("/v1/infill", response_model=answers.InfillAnswer)(endpoints.infill)
    app.post(
        "/v1/trace",
        response_model=answers.TraceAnswer,
        responses={200: {"content": {"text/event-stream": {"itemSchema": answers.EVENT}}}},
    )(endpoints.trace)
    app.post("/v1/solve", response_model=answers.SolveAnswer)(endpoints.solve)
    app.post("/v1/judge", response_model=answers.JudgeAnswer)(endpoints.judge)
    app.post("/v1/repair", response_model=answers.RepairAnswer)(endpoints.repair)
    app.post(
        "/v1/draw",
        response_class=Response,
        responses={200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}}},
    )(endpoints.draw)
    app.get("/v1/models", response_model=answers.ModelList)(endpoints.models)


def _add_state_routes(app: FastAPI, catalogue: Catalogue, worker: Worker, metrics: Metrics) -> None:
    @app.get("/healthz", response_model=answers.Health)
    async def healthz() -> Response:
        """Whether requests are accepted."""
        if not worker.alive:
            raise ApiError(503, "the worker does not run.", headers={"Retry-After": "10"})
        names = [model.id for model in catalogue]
        return JSONResponse(
            {"status": "ok", "version": __version__, "models": names, "jobs": worker.jobs}
        )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def prometheus() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        index = STATIC / "index.html"
        return FileResponse(index) if index.is_file() else HTMLResponse(NO_PAGE)

    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC))
