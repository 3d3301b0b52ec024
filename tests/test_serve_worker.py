"""The worker's thread: who is served when, and what one job can do to another."""

from __future__ import annotations

import asyncio

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imadarem.canvas import Canvas, State
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import DataError
from imadarem.model import ImplicitRefinementModel
from imadarem.sampling.noise import row_seeds
from imadarem.serve.canvases import stacked, token_canvas
from imadarem.serve.catalogue import ServedModel
from imadarem.serve.jobs import Job
from imadarem.serve.limits import Limits
from imadarem.serve.meter import Meter
from imadarem.serve.refusals import Refusal
from imadarem.serve.worker import Worker
from imadarem.tokenizers import CharTokenizer


def served(**settings) -> ServedModel:
    tokenizer = CharTokenizer.from_corpus(["abcd"])
    torch.manual_seed(0)
    config = ImplicitRefinementConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_layers=1, num_heads=1, **settings
    )
    return ServedModel("abcd", ImplicitRefinementModel(config, tokenizer=tokenizer).eval())


MODEL = served(max_seq_len=12)


def job(count: int, length: int = 6, model: ServedModel = MODEL, steps: int = 4, **more) -> Job:
    canvas = Canvas.blank([length] * count, model.network.special)
    return Job(
        model=model,
        canvas=canvas,
        seeds=row_seeds(count, 0),
        settings=model.settings(steps=steps, policy="ancestral"),
        **more,
    )


async def rows_of(waiting: Job) -> list[str | None]:
    found: list[str | None] = []
    async for news in waiting.news(30):
        found = [row.text for row in news]
    return found


def test_a_short_job_does_not_wait_for_a_long_one():
    async def ask() -> list[str]:
        worker = Worker(Limits(batch_rows=32), Meter())
        jobs = {"long": job(400), "short": job(2), "other": job(2, steps=3)}
        worker.start()
        for each in jobs.values():
            worker.submit(each)
        ended: list[str] = []

        async def wait(name: str) -> None:
            assert len(await rows_of(jobs[name])) == len(jobs[name].canvas)
            ended.append(name)

        await asyncio.gather(*map(wait, jobs))
        worker.stop(10)
        return ended

    assert asyncio.run(ask())[-1] == "long"


def test_a_job_that_fails_fails_alone():
    """The model knows the relations of 4 positions, and is asked about 5."""
    grid = served(max_seq_len=8, relations=[[[0, 0, 1, 1]]])

    async def ask() -> None:
        worker = Worker(Limits(), Meter())
        worker.start()
        bad, good = job(1, 5, grid), job(1, 4, grid, steps=2)
        worker.submit(bad)
        worker.submit(good)
        with pytest.raises(DataError, match="5 positions"):
            await rows_of(bad)
        assert len(await rows_of(good)) == 1
        worker.stop(10)

    asyncio.run(ask())


def test_clients_that_ask_again_at_once_share_full_batches():
    """Six of them: one half would be refined while the other half is answered."""

    async def ask() -> list[int]:
        worker = Worker(Limits(), Meter())
        sizes: list[int] = []
        ended = worker._rhythm.ended

        def noted(key, answered, begun, now):
            sizes.append(answered)
            # As if it had taken long, so that a busy machine does not end the wait.
            ended(key, answered, now - 60, now)

        worker._rhythm.ended = noted
        worker.start()

        async def client() -> None:
            while len(sizes) < 6 or sizes[-1] < 6:
                asked = job(1)
                worker.submit(asked)
                await rows_of(asked)

        clients = asyncio.gather(*(client() for _ in range(6)))
        await asyncio.wait_for(clients, 50)
        worker.stop(10)
        return sizes

    sizes = asyncio.run(ask())
    # The first to ask found nobody to wait for.
    assert sizes[2:] == [6] * len(sizes[2:])


def test_a_stop_finishes_what_waits_and_takes_nothing_new():
    async def ask() -> None:
        worker = Worker(Limits(batch_rows=4), Meter())
        worker.start()
        waiting = [job(8) for _ in range(3)]
        for each in waiting:
            worker.submit(each)
        await asyncio.to_thread(worker.stop, 10)
        assert worker.jobs == 0
        with pytest.raises(Refusal, match="stopping"):
            worker.submit(job(1))
        assert [len(await rows_of(each)) for each in waiting] == [8, 8, 8]

    asyncio.run(ask())


def test_the_queue_counts_what_waits_and_what_is_cancelled_leaves_it():
    async def ask() -> None:
        meter = Meter()
        worker = Worker(Limits(queue_jobs=3), meter)
        worker.start()
        # The first holds the engine; the others wait behind it.
        waiting = [job(1000, steps=256), job(1000, steps=255), job(1000, steps=254)]
        for each in waiting:
            worker.submit(each)
        with pytest.raises(Refusal) as full:
            worker.submit(job(1))
        assert full.value.status == 429
        worker.cancel(waiting[2])
        worker.submit(job(1))
        for each in waiting[:2]:
            worker.cancel(each)
        worker.stop(10)
        assert "imadarem_cancelled_jobs_total 3.0" in meter.page().decode()

    asyncio.run(ask())


def test_canvases_are_stacked_without_a_change_to_their_rows():
    special = MODEL.network.special
    short, long = Canvas.blank([2], special), Canvas.with_holes([[3, 1, 4, 5]], special)
    both = stacked([short, long])
    assert both.ids.tolist() == [[1, 1, 0, 0], [3, 1, 4, 5]]
    assert both.state.tolist() == [[1, 1, 4, 4], [0, 1, 0, 0]]


tokens = st.lists(st.sampled_from([*"abcd", "[MASK]", "<mask>"]), min_size=1, max_size=12)


@given(tokens, st.data())
@settings(max_examples=50)
def test_a_token_is_given_a_blank_or_the_models_own(written, data):
    flags = [token in "abcd" and data.draw(st.booleans()) for token in written]
    canvas = token_canvas(MODEL, written, flags)
    for token, fixed, number, state in zip(
        written, flags, canvas.ids[0].tolist(), canvas.state[0].tolist(), strict=True
    ):
        blank = token not in "abcd"
        assert number == (1 if blank else 3 + "abcd".index(token))
        assert state == (State.OPEN if blank else State.GIVEN if fixed else State.WRITTEN)
