"""The application: routes, what they take and answer, and what stands around them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from torch import Tensor

from imadarem import __version__
from imadarem.canvas import Canvas
from imadarem.data.sudoku.grid import broken_cells, parse_grid, size_of
from imadarem.errors import DataError, ImadaremError
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.trajectory import SCHEMA
from imadarem.serve import schemas
from imadarem.serve.canvases import blank_canvas, prompt_canvas, puzzle_canvas, token_canvas
from imadarem.serve.catalogue import MOLECULES, SUDOKU, Catalogue, ServedModel
from imadarem.serve.desk import ClientGone, Desk
from imadarem.serve.gatekeeper import Gatekeeper
from imadarem.serve.jobs import Job, Row
from imadarem.serve.limits import BIGGEST_SEED, LONGEST_SMILES, MOST_SAMPLES, Limits
from imadarem.serve.meter import CONTENT_TYPE, Meter
from imadarem.serve.refusals import (
    HINTS,
    Refusal,
    from_framework,
    from_library,
    from_validation,
)
from imadarem.serve.worker import Worker
from imadarem.viz.molecules import molecule_grid_svg

__all__ = ["create_app"]

STATIC = Path(__file__).parent / "static"
#: What the page may load: its own files, pictures that it draws, styles inside those.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
NO_PAGE = (
    "<!doctype html><meta charset=utf-8><title>Imadarem</title><p>Imadarem is running. "
    "Its interface is described in <a href=/openapi.json>openapi.json</a>."
)
DRAWN = 512


def create_app(
    catalogue: Catalogue,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    local: bool = True,
) -> FastAPI:
    """The server's application; its worker runs between start-up and shutdown.

    Args:
        catalogue: The models.
        limits: How much may be asked for.
        token: Asked of every request to the interface; None asks nobody.
        local: Answer only to names of this machine, such as localhost.
    """
    limits = limits or Limits()
    meter = Meter()
    worker = Worker(limits, meter)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        # Whoever waited for an answer has it, or its time was up: nothing is left to wait for.
        await asyncio.to_thread(worker.stop, limits.seconds)

    app = FastAPI(
        title="Imadarem",
        version=__version__,
        summary="Masked-refinement language models.",
        lifespan=lifespan,
        # The pages of documentation would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        responses=_refusals(token),
    )
    _add_error_handlers(app)
    _add_routes(app, catalogue, Desk(worker, limits))
    _add_state(app, catalogue, worker, meter)
    _add_page(app)
    routes = [route.path for route in app.routes if hasattr(route, "path")]
    app.add_middleware(
        Gatekeeper, limits=limits, meter=meter, routes=routes, token=token, local=local
    )
    return app


def _refusals(token: str | None) -> dict[int | str, dict[str, Any]]:
    """The errors that any route may answer with, for the OpenAPI description."""
    return {
        status: {"model": schemas.ErrorAnswer, "description": f"{code}. {hint}"}
        for status, (code, hint) in HINTS.items()
        if status != 401 or token is not None
    }


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return error.response()

    @app.exception_handler(ImadaremError)
    async def refused_by_the_library(request: Request, error: ImadaremError) -> Response:
        return from_library(error).response()

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        return from_validation(error).response()

    @app.exception_handler(HTTPException)
    async def not_routed(request: Request, error: HTTPException) -> Response:
        return from_framework(error).response()

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return Refusal(500, "the server failed.").response()


def _add_routes(app: FastAPI, catalogue: Catalogue, desk: Desk) -> None:
    @app.post("/v1/sample", response_model=schemas.SampleAnswer)
    async def sample(request: Request, asked: schemas.SampleRequest) -> Response:
        """Draw samples from blank canvases."""
        model, seed = catalogue.find(asked.model), _seed(asked.seed)
        seeds = row_seeds(asked.count, seed)
        canvas = blank_canvas(model, seeds, asked.length)
        rows = await desk.rows(request, _job(model, canvas, seeds, asked))
        samples = [row.to_dict() for row in rows]
        return JSONResponse({"model": model.id, "seed": seed, "samples": samples})

    @app.post("/v1/infill", response_model=schemas.InfillAnswer)
    async def infill(request: Request, asked: schemas.InfillRequest) -> Response:
        """Fill the holes of texts; what is given never changes."""
        model, seed = catalogue.find(asked.model), _seed(asked.seed)
        if len(asked.prompts) * asked.count > MOST_SAMPLES:
            raise DataError(
                f"{len(asked.prompts)} prompts of {asked.count} fillings are more than the "
                f"{MOST_SAMPLES} that are taken. Ask for fewer at once."
            )
        numbers = [n for n in range(len(asked.prompts)) for _ in range(asked.count)]
        canvas = prompt_canvas(model, [asked.prompts[n] for n in numbers])
        seeds = row_seeds(len(canvas), seed)
        rows = await desk.rows(request, _job(model, canvas, seeds, asked))
        samples = [{"prompt": n, **row.to_dict()} for n, row in zip(numbers, rows, strict=True)]
        return JSONResponse({"model": model.id, "seed": seed, "samples": samples})

    @app.post(
        "/v1/trace",
        response_model=schemas.TraceAnswer,
        responses={200: {"content": {"text/event-stream": {"itemSchema": schemas.EVENT}}}},
    )
    async def trace(request: Request, asked: schemas.TraceRequest) -> Response:
        """Refine one canvas and tell every step.

        As server-sent events: `start` (the canvas), a `step` each (a record of the schema
        imadarem.trajectory/1, with the text so far), and `end`, or `error` in the shape of
        all errors. With `stream: false` the whole trajectory in one JSON answer.
        """
        model, seed = catalogue.find(asked.model), _seed(asked.seed)
        seeds = row_seeds(1, seed)
        job = _job(model, _traced_canvas(model, asked, seeds), seeds, asked, traced=True)
        policy = asked.policy or next(iter(model.policies))
        head = {
            "schema": SCHEMA,
            "model": model.id,
            "kind": model.kind,
            "policy": policy,
            "seed": seed,
        }
        if asked.stream:
            return desk.stream(job, head)
        start, *steps, (row,) = await desk.news(request, job)
        told = {"text": row.text, "stopping_reason": row.refined.reason.label, "steps": steps}
        return JSONResponse({**head, "rows": [{**start, **told}]})

    @app.post("/v1/solve", response_model=schemas.SolveAnswer)
    async def solve(request: Request, asked: schemas.SolveRequest) -> Response:
        """Solve a sudoku, and say whether the answer is right."""
        model = catalogue.find(asked.model, SUDOKU)
        if model.kind != SUDOKU:
            raise DataError(f"the model {model.id!r} is none of sudokus. Leave model out.")
        clues = parse_grid(asked.puzzle)
        canvas = puzzle_canvas(model, [clues])
        job = Job(
            model=model,
            canvas=canvas,
            seeds=row_seeds(1, 0),
            settings=model.settings(steps=asked.steps),
        )
        (row,) = await desk.rows(request, job)
        return JSONResponse(_solved(model, clues, row))

    @app.post(
        "/v1/draw",
        response_class=Response,
        responses={200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}}},
    )
    async def draw(asked: schemas.DrawRequest) -> Response:
        """Draw a molecule as SVG."""
        picture = await asyncio.to_thread(_drawn, _smiles(catalogue, asked))
        return Response(picture, media_type="image/svg+xml")

    @app.get("/v1/models", response_model=schemas.ModelList)
    async def models() -> Response:
        """The models, what they know, and how they may be asked."""
        return JSONResponse({"models": [model.describe() for model in catalogue]})


def _add_state(app: FastAPI, catalogue: Catalogue, worker: Worker, meter: Meter) -> None:
    @app.get("/healthz", response_model=schemas.Health)
    async def healthz() -> Response:
        """Whether requests are taken."""
        if not worker.alive:
            raise Refusal(503, "the worker does not run.")
        names = [model.id for model in catalogue]
        return JSONResponse(
            {"status": "ok", "version": __version__, "models": names, "jobs": worker.jobs}
        )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(meter.page(), headers={"Content-Type": CONTENT_TYPE})


def _add_page(app: FastAPI) -> None:
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        index = STATIC / "index.html"
        if index.is_file():
            return FileResponse(index, headers=headers)
        return HTMLResponse(NO_PAGE, headers=headers)

    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC))


# --- from requests to jobs, and back


def _seed(given: int | None) -> int:
    return secrets.randbelow(BIGGEST_SEED) if given is None else given


def _job(
    model: ServedModel,
    canvas: Canvas,
    seeds: Tensor,
    asked: schemas.Sampling,
    *,
    traced: bool = False,
) -> Job:
    if asked.temperature == 0 and (asked.top_k is not None or asked.top_p is not None):
        raise DataError(
            "temperature 0 takes the likeliest token, so top_k and top_p have no effect. "
            "Leave them out, or raise the temperature."
        )
    settings = model.settings(**asked.settings())
    return Job(model=model, canvas=canvas, seeds=seeds, settings=settings, traced=traced)


def _traced_canvas(model: ServedModel, asked: schemas.TraceRequest, seeds: Tensor) -> Canvas:
    ways = [name for name in ("text", "tokens", "length") if getattr(asked, name) is not None]
    if len(ways) > 1:
        raise DataError(f"{' and '.join(ways)} were given, and each is a canvas. Choose one.")
    if asked.given is not None and asked.tokens is None:
        raise DataError("given tells which of the tokens are, and there are no tokens.")
    if asked.text is not None:
        return prompt_canvas(model, [asked.text])
    if asked.tokens is not None:
        return token_canvas(model, asked.tokens, asked.given)
    return blank_canvas(model, seeds, asked.length)


def _solved(model: ServedModel, clues: tuple[int, ...], row: Row) -> dict[str, Any]:
    first = model.ids["1"]
    digits = [number - first + 1 for number in row.refined.ids.tolist()]
    answer = tuple(digit if 1 <= digit <= 9 else 0 for digit in digits)
    broken = broken_cells(answer)
    written = row.to_dict()
    del written["text"]
    return {
        "model": model.id,
        "size": size_of(clues),
        "puzzle": "".join(str(digit or ".") for digit in clues),
        "answer": "".join(str(digit or "?") for digit in answer),
        "verified": not broken,
        "broken": broken,
        "halting_confidence": row.refined.halt,
        **written,
    }


def _smiles(catalogue: Catalogue, asked: schemas.DrawRequest) -> str:
    if (asked.smiles is None) == (asked.tokens is None):
        raise DataError("give either smiles or tokens to draw.")
    if asked.smiles is not None:
        return asked.smiles
    model = catalogue.find(asked.model, MOLECULES)
    if model.kind != MOLECULES:
        raise DataError(f"the model {model.id!r} is none of molecules. Leave model out.")
    canvas = token_canvas(model, asked.tokens or [])
    text = model.text([n for n in canvas.sequences()[0].tolist() if n != canvas.special.mask])
    if not text or len(text) > LONGEST_SMILES:
        raise DataError("these tokens are no molecule that can be drawn.")
    return text


@lru_cache(DRAWN)
def _drawn(smiles: str) -> str:
    return molecule_grid_svg([smiles], columns=1)
