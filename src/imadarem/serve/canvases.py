"""Canvases from the fields of requests, checked; reasons why a request cannot be a canvas.

These functions may take a tenth of a second: call them on a thread, not on the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.data.sudoku.grid import Grid, parse_grid, size_of
from imadarem.errors import DataError
from imadarem.sampling.settings import SamplingSettings, lengths_of
from imadarem.serve.catalogue import SUDOKU, ServedModel
from imadarem.tokenizers import MASK
from imadarem.tokenizers.prompts import gap_tokens

#: How the records of a trajectory write a blank, an end, and a position after the end.
BLANK, END, AFTER_END = "[MASK]", "[EOS]", ""


def blank_canvas(
    model: ServedModel, seeds: Tensor, length: int | None, settings: SamplingSettings
) -> Canvas:
    """A row of blanks for each of the row seeds, as ``model.sample`` makes it."""
    if model.kind == SUDOKU:
        raise DataError(
            f"the model {model.id!r} solves sudokus and generates no samples. Send a puzzle to "
            "/v1/solve or /v1/trace."
        )
    network = model.network
    lengths = lengths_of(network.config, len(seeds), length, seeds, settings)
    return Canvas.blank(lengths, network.special)


def prompt_canvas(model: ServedModel, prompts: Sequence[str], count: int = 1) -> Canvas:
    """``count`` rows for each text with blanks, or for each sudoku, in their order."""
    if model.kind == SUDOKU:
        canvas = puzzle_canvas(model, [parse_grid(prompt) for prompt in prompts])
    else:
        rows = [_encode(model, prompt) for prompt in prompts]
        canvas = Canvas.with_holes(rows, model.network.special)
        _check_length(model, int(canvas.ends().max()))
    if count == 1:
        return canvas
    return canvas.rows(torch.arange(len(prompts)).repeat_interleave(count))


def _encode(model: ServedModel, prompt: str) -> list[int]:
    """The ids of a prompt; its length is checked before anything is computed from it."""
    most = model.network.config.max_seq_len
    if model.max_prompt_chars is not None and len(prompt) > model.max_prompt_chars:
        raise DataError(
            f"the prompt {prompt[:30]!r}… has {len(prompt)} characters, which is more than the "
            f"{most} tokens that {model.id!r} accepts. Shorten it."
        )
    if gap_tokens(prompt) > most:
        raise DataError(
            f"the holes of {prompt[:30]!r}… may have {gap_tokens(prompt)} tokens; {model.id!r} "
            f"accepts {most} in all."
        )
    ids = model.network.encode_prompt(prompt)
    _check_length(model, len(ids))
    return ids


def puzzle_canvas(model: ServedModel, grids: Sequence[Grid]) -> Canvas:
    """One row for each sudoku."""
    first, mask = model.ids["1"], model.network.special.mask
    for grid in grids:
        if size_of(grid) not in model.sizes:
            known = " and ".join(f"{size}x{size}" for size in model.sizes)
            size = size_of(grid)
            raise DataError(f"the puzzle is {size}x{size}; {model.id!r} solves {known} only.")
    rows = [[mask if digit == 0 else first + digit - 1 for digit in grid] for grid in grids]
    return Canvas.with_holes(rows, model.network.special)


def token_canvas(
    model: ServedModel, tokens: Sequence[str], given: Sequence[bool] | None = None
) -> Canvas:
    """One row from token strings, as the records of a trajectory spell them.

    Args:
        model: Whose tokens they are.
        tokens: A token, a blank (``[MASK]``, ``<mask>`` or the model's own), ``[EOS]``, or an
            empty string after the end.
        given: Which tokens never change. The policy may re-mask every other token. None
            means all tokens but the blanks.
    """
    if given is None:
        given = [not _is_blank(model, token) for token in tokens]
    if len(given) != len(tokens):
        raise DataError(
            f"tokens has {len(tokens)} entries and given has {len(given)} flags; send one flag for "
            "each token."
        )
    _check_length(model, len(tokens))
    ids: list[int] = []
    states: list[State] = []
    ended = False
    for position, (token, fixed) in enumerate(zip(tokens, given, strict=True)):
        ids.append(_token_id(model, token, position, ended=ended))
        states.append(_token_state(model, ids[-1], position, fixed))
        ended = ended or ids[-1] == model.network.special.eos
    canvas = Canvas(
        torch.tensor([ids]), torch.tensor([states], dtype=torch.uint8), model.network.special
    )
    return canvas.freeze_endings()


def _is_blank(model: ServedModel, token: str) -> bool:
    return token in (BLANK, MASK, model.mask)


def _token_id(model: ServedModel, token: str, position: int, *, ended: bool) -> int:
    special = model.network.special
    if ended or token == AFTER_END:
        if not (ended and token == AFTER_END):
            raise DataError(
                f"tokens[{position}] is {token[:40]!r}: after the end {END} all strings are "
                f"empty, and before it none is. Write {BLANK} for a blank."
            )
        return special.pad
    if _is_blank(model, token):
        return special.mask
    if token == END and special.eos is not None and position:
        return special.eos
    if token not in model.ids:
        raise DataError(
            f"tokens[{position}] is {token[:40]!r}, which is not a token of {model.id!r}"
            f"{model.nearest_token(token[:40])}. GET /v1/models lists them; {BLANK} is a blank."
        )
    return model.ids[token]


def _token_state(model: ServedModel, number: int, position: int, fixed: bool) -> State:
    special = model.network.special
    if number == special.mask:
        if fixed:
            raise DataError(f"tokens[{position}] is a blank, and a blank cannot be given.")
        return State.OPEN
    # The end and the positions after it never change; freeze_endings() marks them.
    return State.GIVEN if fixed and number not in (special.eos, special.pad) else State.WRITTEN


def _check_length(model: ServedModel, length: int) -> None:
    longest = model.network.config.max_seq_len
    if not 1 <= length <= longest:
        raise DataError(f"the canvas has {length} tokens; {model.id!r} accepts 1 to {longest}.")
    if model.sizes and length not in [size * size for size in model.sizes]:
        legal = ", ".join(str(size * size) for size in model.sizes)
        raise DataError(f"the grid has {length} cells; {model.id!r} accepts {legal}.")


def stack_canvases(canvases: Sequence[Canvas]) -> Canvas:
    """All rows in one canvas, padded at the end to the longest."""
    special = canvases[0].special
    width = max(canvas.ids.shape[1] for canvas in canvases)
    ids = torch.full((sum(map(len, canvases)), width), special.pad)
    state = torch.full(ids.shape, int(State.PAD), dtype=torch.uint8)
    optional, row = None, 0
    for canvas in canvases:
        place = (slice(row, row + len(canvas)), slice(canvas.ids.shape[1]))
        ids[place], state[place] = canvas.ids, canvas.state
        if canvas.optional is not None:
            optional = torch.zeros(ids.shape, dtype=torch.bool) if optional is None else optional
            optional[place] = canvas.optional
        row += len(canvas)
    return Canvas(ids, state, special, optional=optional)
