"""The worker's thread: the order of jobs, and that no job harms another."""

from __future__ import annotations

import asyncio

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.canvas import Canvas, State
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import DataError
from imadarem.model import ImplicitRefinementModel
from imadarem.sampling.noise import row_seeds
from imadarem.serve.api_errors import ApiError
from imadarem.serve.canvases import stack_canvases, token_canvas
from imadarem.serve.catalogue import ServedModel
from imadarem.serve.jobs import Job
from imadarem.serve.limits import Limits
from imadarem.serve.metrics import Metrics
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
    async for event in waiting.events(30):
        found = [row.text for row in event]
    return found


def test_a_short_job_does_not_wait_for_a_long_one():
    async def ask() -> list[str]:
        worker = Worker(Limits(batch_rows=32), Metrics())
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


# 64 tokens of 256 steps are 16,384 of the 65,536 token passes of a batch, so 4 rows. With
# 8 steps 128 rows would be affordable, and --batch-size is the limit. One row always fits.
@pytest.mark.parametrize(
    ("length", "steps", "rows"), [(64, 256, 4), (64, 8, 32), (128, 256, 2), (4096, 256, 1)]
)
def test_a_batch_has_fewer_rows_the_longer_they_are_and_the_more_steps_they_take(
    length, steps, rows
):
    async def capacity() -> int:
        waiting = [job(40, 8, steps=steps), job(40, length, steps=steps)]
        return Worker(Limits(batch_rows=32), Metrics())._capacity(waiting)

    assert asyncio.run(capacity()) == rows


def test_a_job_that_fails_fails_alone():
    """The model has relations for 4 positions, and the canvas has 5."""
    grid = served(max_seq_len=8, relations=[[[0, 0, 1, 1]]])

    async def ask() -> None:
        worker = Worker(Limits(), Metrics())
        worker.start()
        bad, good = job(1, 5, grid), job(1, 4, grid, steps=2)
        worker.submit(bad)
        worker.submit(good)
        with pytest.raises(DataError, match="5 positions"):
            await rows_of(bad)
        assert len(await rows_of(good)) == 1
        worker.stop(10)

    asyncio.run(ask())


def test_clients_that_send_the_next_request_at_once_share_full_batches():
    """Six of them: else one half would be refined while the other half is answered."""

    async def ask() -> list[int]:
        worker = Worker(Limits(), Metrics())
        sizes: list[int] = []
        ended = worker._delay.batch_ended

        def noted(key, answered, began, now):
            sizes.append(answered)
            # As if the batch had taken a minute, so that a busy machine does not end the wait.
            ended(key, answered, now - 60, now)

        worker._delay.batch_ended = noted
        worker.start()

        async def client() -> None:
            while len(sizes) < 6 or sizes[-1] < 6:
                next_job = job(1)
                worker.submit(next_job)
                await rows_of(next_job)

        clients = asyncio.gather(*(client() for _ in range(6)))
        await asyncio.wait_for(clients, 50)
        worker.stop(10)
        return sizes

    sizes = asyncio.run(ask())
    # The first job had nothing to wait for.
    assert sizes[2:] == [6] * len(sizes[2:])


def test_a_stop_finishes_waiting_jobs_and_accepts_no_new_ones():
    async def ask() -> None:
        worker = Worker(Limits(batch_rows=4), Metrics())
        worker.start()
        waiting = [job(8) for _ in range(3)]
        for each in waiting:
            worker.submit(each)
        await asyncio.to_thread(worker.stop, 10)
        assert worker.jobs == 0
        with pytest.raises(ApiError, match="stopping"):
            worker.submit(job(1))
        assert [len(await rows_of(each)) for each in waiting] == [8, 8, 8]

    asyncio.run(ask())


def test_the_queue_has_a_limit_and_cancelled_jobs_leave_it():
    async def ask() -> None:
        metrics = Metrics()
        worker = Worker(Limits(queue_jobs=3), metrics)
        worker.start()
        # The first one runs; the others wait.
        waiting = [job(1000, steps=256), job(1000, steps=255), job(1000, steps=254)]
        for each in waiting:
            worker.submit(each)
        with pytest.raises(ApiError) as full:
            worker.submit(job(1))
        assert full.value.status == 429
        worker.cancel(waiting[2])
        worker.submit(job(1))
        for each in waiting[:2]:
            worker.cancel(each)
        worker.stop(10)
        assert "imadarem_cancelled_jobs_total 3.0" in metrics.render().decode()

    asyncio.run(ask())


def test_canvases_are_stack_canvases_without_a_change_to_their_rows():
    special = MODEL.network.special
    short, long = Canvas.blank([2], special), Canvas.with_holes([[3, 1, 4, 5]], special)
    both = stack_canvases([short, long])
    assert both.ids.tolist() == [[1, 1, 0, 0], [3, 1, 4, 5]]
    assert both.state.tolist() == [[1, 1, 4, 4], [0, 1, 0, 0]]


tokens = st.lists(st.sampled_from([*"abcd", "[MASK]", "<mask>"]), min_size=1, max_size=12)


@given(tokens, st.data())
def test_a_token_is_given_or_blank_or_may_change(written, data):
    flags = [token in "abcd" and data.draw(st.booleans()) for token in written]
    canvas = token_canvas(MODEL, written, flags)
    for token, fixed, number, state in zip(
        written, flags, canvas.ids[0].tolist(), canvas.state[0].tolist(), strict=True
    ):
        blank = token not in "abcd"
        assert number == (1 if blank else 3 + "abcd".index(token))
        assert state == (State.OPEN if blank else State.GIVEN if fixed else State.WRITTEN)
