"""What the routes below ``/v1/`` do: from a request to a job, and from its rows to an answer."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.data.sudoku.grid import Grid, broken_cells, parse_grid, size_of
from imadarem.errors import DataError
from imadarem.repair.settings import RepairSettings, check_judge
from imadarem.repair.sites import protection_flags
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.settings import SamplingSettings
from imadarem.sampling.trajectory import SCHEMA
from imadarem.serve import schemas
from imadarem.serve.canvases import blank_canvas, prompt_canvas, puzzle_canvas, token_canvas
from imadarem.serve.catalogue import MOLECULES, SUDOKU, Catalogue, ServedModel
from imadarem.serve.drawing_process import DrawingProcess
from imadarem.serve.job_client import JobClient, merge
from imadarem.serve.jobs import Job, JobEvent, Review, Row
from imadarem.serve.limits import MAX_SAMPLES, MAX_SEED, MAX_SMILES_CHARS
from imadarem.serve.reviews import CHECKERS, readable_rows

#: Canvases of more samples are made on a thread; for few the change of threads takes longer.
FEW_SAMPLES = 64


class Endpoints:
    """The handlers of the routes; no computation on the event loop takes long.

    Args:
        catalogue: The models.
        client: Has the jobs done.
        drawing: Draws molecules.
    """

    def __init__(self, catalogue: Catalogue, client: JobClient, drawing: DrawingProcess) -> None:
        self._catalogue, self._client, self._drawing = catalogue, client, drawing

    async def sample(self, request: Request, body: schemas.SampleRequest) -> Response:
        """Draw samples from blank canvases."""
        self._client.check_queue()
        model, seed = self._catalogue.find(body.model), _seed(body.seed)
        seeds = row_seeds(body.count, seed)
        settings = _settings(model, body, length_given=body.length is not None)
        if body.count > FEW_SAMPLES:
            canvas = await asyncio.to_thread(blank_canvas, model, seeds, body.length, settings)
        else:
            canvas = blank_canvas(model, seeds, body.length, settings)
        job = Job(model=model, canvas=canvas, seeds=seeds, settings=settings)
        rows = await self._client.rows(request, job)
        samples = [row.to_dict() for row in rows]
        return JSONResponse({"model": model.id, "seed": seed, "samples": samples})

    async def infill(self, request: Request, body: schemas.InfillRequest) -> Response:
        """Fill the blanks of texts; all other tokens stay as they are."""
        self._client.check_queue()
        model, seed = self._catalogue.find(body.model), _seed(body.seed)
        if len(body.prompts) * body.count > MAX_SAMPLES:
            raise DataError(
                f"{len(body.prompts)} prompts with {body.count} samples each are more than the "
                f"{MAX_SAMPLES} samples that a request may ask for. Split it."
            )
        settings = _settings(model, body, filling=True)
        canvas = await asyncio.to_thread(prompt_canvas, model, body.prompts, body.count)
        seeds = row_seeds(len(canvas), seed)
        job = Job(model=model, canvas=canvas, seeds=seeds, settings=settings)
        rows = await self._client.rows(request, job)
        samples = [{"prompt": n // body.count, **row.to_dict()} for n, row in enumerate(rows)]
        return JSONResponse({"model": model.id, "seed": seed, "samples": samples})

    async def trace(self, request: Request, body: schemas.TraceRequest) -> Response:
        """Refine one canvas and report every step.

        As server-sent events: `start` (the canvas), a `step` each (a record of the schema
        imadarem.trajectory/1, with the text so far), and `end`, or `error` with the JSON of
        all errors. With `stream: false` the whole trajectory in one JSON answer.
        """
        self._client.check_queue()
        model, seed = self._catalogue.find(body.model), _seed(body.seed)
        seeds = row_seeds(1, seed)
        free = body.text is None and body.tokens is None and body.length is None
        settings = _settings(model, body, length_given=not free, filling=not free)
        canvas = await asyncio.to_thread(_traced_canvas, model, body, seeds, settings)
        job = Job(model=model, canvas=canvas, seeds=seeds, settings=settings, traced=True)
        head = {
            "schema": SCHEMA,
            "model": model.id,
            "kind": model.kind,
            "policy": body.policy or next(iter(model.policies)),
            "seed": seed,
        }
        if body.stream:
            return self._client.stream(job, head)
        text = _trace_json(head, await self._client.events(request, job))
        return Response(text, media_type="application/json")

    async def solve(self, request: Request, body: schemas.SolveRequest) -> Response:
        """Solve a sudoku, and verify the answer."""
        self._client.check_queue()
        model = self._catalogue.find(body.model, SUDOKU)
        if model.kind != SUDOKU:
            raise DataError(
                f"{model.id!r} is not a sudoku model (its vocabulary lacks the digits 1–9). "
                "Leave model out."
            )
        clues = parse_grid(body.puzzle)
        job = Job(
            model=model,
            canvas=puzzle_canvas(model, [clues]),
            seeds=row_seeds(1, 0),
            settings=model.settings(steps=body.steps),
        )
        (row,) = await self._client.rows(request, job)
        return JSONResponse(_solution(model, clues, row))

    async def judge(self, request: Request, body: schemas.JudgeRequest) -> Response:
        """Say which tokens of finished rows look wrong, and where some are missing."""
        self._client.check_queue()
        model = self._catalogue.find(body.model)
        rows = await asyncio.to_thread(
            readable_rows, model, body.rows, alternatives=body.alternatives
        )
        job = Review(
            model=model,
            texts=body.rows,
            rows=rows,
            protected=[[] for _ in rows],
            seeds=row_seeds(len(rows), 0),
            alternatives=body.alternatives,
        )
        return await self._review(request, job)

    async def repair(self, request: Request, body: schemas.RepairRequest) -> Response:
        """Predict again what looks wrong in rows, and leave everything else as it is."""
        self._client.check_queue()
        model = self._catalogue.find(body.model)
        rows = await asyncio.to_thread(readable_rows, model, body.rows, check=body.check)
        settings = RepairSettings(
            rounds=body.rounds,
            threshold=body.threshold,
            checker=CHECKERS[body.check],
            budget=body.budget,
            flagged_too=body.flagged_too,
        )
        check_judge(model.network, settings)
        protection_flags(rows, body.protected)
        job = Review(
            model=model,
            texts=body.rows,
            rows=rows,
            protected=body.protected or [[] for _ in rows],
            seeds=row_seeds(len(rows), body.seed),
            repair=settings,
        )
        return await self._review(request, job)

    async def _review(self, request: Request, job: Review) -> Response:
        rows = await self._client.rows(request, job)
        return JSONResponse({"model": job.model.id, "rows": rows})

    async def draw(self, body: schemas.DrawRequest) -> Response:
        """Draw a molecule as SVG."""
        smiles = await asyncio.to_thread(_smiles, self._catalogue, body)
        return Response(await self._drawing.draw(smiles), media_type="image/svg+xml")

    async def models(self) -> Response:
        """The models, their vocabularies, policies and defaults."""
        return JSONResponse({"models": [model.description for model in self._catalogue]})


def _seed(given: int | None) -> int:
    return secrets.randbelow(MAX_SEED) if given is None else given


def _settings(
    model: ServedModel,
    body: schemas.Sampling,
    *,
    length_given: bool = True,
    filling: bool = False,
) -> SamplingSettings:
    if body.temperature == 0 and (body.top_k is not None or body.top_p is not None):
        raise DataError(
            "temperature 0 takes the most likely token, so top_k and top_p have no effect. "
            "Leave them out, or raise the temperature."
        )
    return model.settings(length_given=length_given, filling=filling, **body.settings())


def _traced_canvas(
    model: ServedModel, body: schemas.TraceRequest, seeds: Tensor, settings: SamplingSettings
) -> Canvas:
    fields = [name for name in ("text", "tokens", "length") if getattr(body, name) is not None]
    if len(fields) > 1:
        raise DataError(f"{' and '.join(fields)} were sent, and each is a canvas. Choose one.")
    if body.given is not None and body.tokens is None:
        raise DataError("given has one flag for each of tokens, and there are no tokens.")
    if body.text is not None:
        return prompt_canvas(model, [body.text])
    if body.tokens is not None:
        return token_canvas(model, body.tokens, body.given)
    return blank_canvas(model, seeds, body.length, settings)


def _trace_json(head: dict[str, Any], events: list[JobEvent]) -> str:
    """The JSON of a trajectory with one row; its steps are JSON already, and may be long."""
    start, *steps = (event for event in events if isinstance(event, str))
    (row,) = (event[0] for event in events if isinstance(event, list))
    result = {"text": row.text, "stopping_reason": row.refined.reason.label}
    fields = merge(result, start)
    return f'{json.dumps(head)[:-1]}, "rows": [{fields[:-1]}, "steps": [{", ".join(steps)}]}}]}}'


def _solution(model: ServedModel, clues: Grid, row: Row) -> dict[str, Any]:
    first = model.ids["1"]
    digits = [number - first + 1 for number in row.refined.ids.tolist()]
    answer = tuple(digit if 1 <= digit <= 9 else 0 for digit in digits)
    broken = broken_cells(answer)
    fields = row.to_dict()
    del fields["text"]
    return {
        "model": model.id,
        "size": size_of(clues),
        "puzzle": "".join(str(digit or ".") for digit in clues),
        "answer": "".join(str(digit or "?") for digit in answer),
        "verified": not broken,
        "broken": broken,
        "halting_confidence": row.refined.halt,
        **fields,
    }


def _smiles(catalogue: Catalogue, body: schemas.DrawRequest) -> str:
    if (body.smiles is None) == (body.tokens is None):
        raise DataError("send either smiles or tokens to draw.")
    if body.smiles is not None:
        return body.smiles
    model = catalogue.find(body.model, MOLECULES)
    if model.kind != MOLECULES:
        raise DataError(f"{model.id!r} is not a model of molecules. Leave model out.")
    canvas = token_canvas(model, body.tokens or [])
    text = model.text([n for n in canvas.sequences()[0].tolist() if n != canvas.special.mask])
    if not text or len(text) > MAX_SMILES_CHARS:
        raise DataError("these tokens are not a molecule that can be drawn.")
    return text
