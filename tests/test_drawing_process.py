"""Molecules drawn by another process: what happens when it is slow or dies."""

from __future__ import annotations

import asyncio

import pytest

from imadarem.serve import drawing_process
from imadarem.serve.api_errors import ApiError
from imadarem.serve.drawing_process import DrawingProcess


@pytest.mark.slow
def test_a_slow_drawing_and_a_crash_do_not_harm_the_next_one(monkeypatch):
    async def draw() -> None:
        drawing = DrawingProcess()
        try:
            ethanol = await drawing.draw("CCO")
            assert ethanol.startswith("<?xml") and "</svg>" in ethanol
            with pytest.raises(ApiError, match="not a molecule") as wrong:
                await drawing.draw("C((")
            assert wrong.value.status == 422
            # Many at once are drawn one after the other, and nobody gets another's picture.
            both = await asyncio.gather(drawing.draw("c1ccccc1"), drawing.draw("CCO"))
            assert both[1] == ethanol != both[0]
            drawing._process.kill()
            await drawing._process.wait()
            assert await drawing.draw("CCO") == ethanol
            with monkeypatch.context() as patch:
                patch.setattr(drawing_process, "DRAWING_SECONDS", 0.0001)
                with pytest.raises(ApiError) as slow:
                    await drawing.draw("C" * 400)
            assert slow.value.status == 504
            assert await drawing.draw("CCO") == ethanol
        finally:
            await drawing.close()

    asyncio.run(draw())


def test_more_drawings_than_can_wait_are_429(monkeypatch):
    monkeypatch.setattr(drawing_process, "MAX_WAITING", 0)
    with pytest.raises(ApiError) as full:
        asyncio.run(DrawingProcess().draw("C"))
    assert full.value.status == 429
