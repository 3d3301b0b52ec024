"""Molecules drawn in a process of their own.

RDKit holds Python's global lock while it draws, up to a second for a long legal SMILES. In the
server's own process nothing else would be answered in that time, and a crash would end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process

from imadarem.serve.api_errors import ApiError

#: Longest time to start the process, and to draw one molecule.
START_SECONDS, DRAWING_SECONDS = 60.0, 10.0
MAX_WAITING = 64
#: Longest answer of the process: an SVG of the longest SMILES has a tenth of that.
MAX_ANSWER_BYTES = 4_194_304


class DrawingProcess:
    """Draws one molecule after the other; the process starts with the first.

    A drawing that takes longer than :data:`DRAWING_SECONDS` ends the process, and the next
    drawing starts another one.
    """

    def __init__(self) -> None:
        self._process: Process | None = None
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def draw(self, smiles: str) -> str:
        """The molecule as the text of an SVG file."""
        if self._waiting >= MAX_WAITING:
            raise ApiError(
                429, f"{self._waiting} drawings wait already.", headers={"Retry-After": "1"}
            )
        self._waiting += 1
        try:
            async with self._lock:
                answer = await self._ask(smiles)
        finally:
            self._waiting -= 1
        if "svg" in answer:
            return str(answer["svg"])
        raise ApiError(int(answer["status"]), str(answer["message"]))

    async def close(self) -> None:
        """End the process."""
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()

    async def _ask(self, smiles: str) -> dict[str, str | int]:
        try:
            process = await self._running()
            assert process.stdin is not None and process.stdout is not None
            async with asyncio.timeout(DRAWING_SECONDS):
                process.stdin.write(json.dumps(smiles).encode() + b"\n")
                answer: dict[str, str | int] = json.loads(await process.stdout.readline())
        except TimeoutError:
            await self.close()
            raise ApiError(
                504,
                f"the drawing was not done after {DRAWING_SECONDS:g} seconds.",
                hint="Draw a smaller molecule.",
            ) from None
        except (OSError, ValueError):
            await self.close()
            raise ApiError(500, "the process that draws molecules ended.") from None
        except BaseException:
            # The next request must not read this answer.
            await self.close()
            raise
        return answer

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "imadarem.serve.drawing_worker"),
                stdin=PIPE,
                stdout=PIPE,
                limit=MAX_ANSWER_BYTES,
            )
            assert self._process.stdout is not None
            async with asyncio.timeout(START_SECONDS):
                # It writes one line once it is ready.
                await self._process.stdout.readline()
        return self._process
