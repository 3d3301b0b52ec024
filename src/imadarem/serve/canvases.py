"""From what a request holds to a canvas that the engine can refine, or to a refusal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.data.sudoku.grid import Grid, parse_grid, size_of
from imadarem.errors import DataError, nearest
from imadarem.serve.catalogue import SUDOKU, ServedModel
from imadarem.tokenizers import MASK

__all__ = ["blank_canvas", "prompt_canvas", "puzzle_canvas", "stacked", "token_canvas"]

#: How the records of a trajectory write a blank, an end, and what lies behind an end.
BLANK, END, BEHIND = "[MASK]", "[EOS]", ""


def blank_canvas(model: ServedModel, seeds: Tensor, length: int | None) -> Canvas:
    """A row of blanks for each of the row seeds, as a model's ``sample`` begins with.

    Raises:
        DataError: The length is more than the model takes, or it is a model of puzzles.
        ConfigError: The model draws lengths and was given none to draw from.
    """
    if model.kind == SUDOKU:
        raise DataError(
            f"the model {model.id!r} solves sudokus and writes nothing from nothing. "
            "Give a puzzle to /v1/solve or /v1/trace."
        )
    network = model.network
    return Canvas.blank(network.canvas_lengths(len(seeds), length, seeds), network.special)


def prompt_canvas(model: ServedModel, prompts: Sequence[str]) -> Canvas:
    """One row for each text with holes, or for each sudoku.

    Raises:
        DataError: A text cannot be read, has no blank, or is too long.
    """
    if model.kind == SUDOKU:
        return puzzle_canvas(model, [parse_grid(prompt) for prompt in prompts])
    rows = [model.network.encode_prompt(prompt) for prompt in prompts]
    canvas = Canvas.with_holes(rows, model.network.special)
    for length in canvas.ends().tolist():
        _check_length(model, length)
    return canvas


def puzzle_canvas(model: ServedModel, grids: Sequence[Grid]) -> Canvas:
    """One row for each sudoku.

    Raises:
        DataError: The model does not know sudokus of that size.
    """
    first, mask = model.ids["1"], model.network.special.mask
    for grid in grids:
        if size_of(grid) not in model.sizes:
            known = " and ".join(f"{size}x{size}" for size in model.sizes)
            size = size_of(grid)
            raise DataError(f"the puzzle is {size}x{size}, and {model.id!r} knows {known} only.")
    rows = [[mask if digit == 0 else first + digit - 1 for digit in grid] for grid in grids]
    return Canvas.with_holes(rows, model.network.special)


def token_canvas(
    model: ServedModel, tokens: Sequence[str], given: Sequence[bool] | None = None
) -> Canvas:
    """One row from token strings, as the records of a trajectory spell them.

    Args:
        model: Whose tokens they are.
        tokens: A token, a blank (``[MASK]``, ``<mask>`` or the model's own), ``[EOS]``, or an
            empty string behind an end.
        given: Which tokens never change; those that are neither given nor blank are the
            model's own, which it may judge and take back. None gives every token.

    Raises:
        DataError: A string is no token, a blank is given, or the lengths differ.
    """
    if given is None:
        given = [not _is_blank(model, token) for token in tokens]
    if len(given) != len(tokens):
        raise DataError(
            f"there are {len(tokens)} tokens and {len(given)} flags in given; give one each."
        )
    _check_length(model, len(tokens))
    ids: list[int] = []
    states: list[State] = []
    for place, (token, fixed) in enumerate(zip(tokens, given, strict=True)):
        ids.append(_id(model, token, place, ended=model.network.special.eos in ids))
        states.append(_state(model, ids[-1], place, fixed))
    canvas = Canvas(
        torch.tensor([ids]), torch.tensor([states], dtype=torch.uint8), model.network.special
    )
    return canvas.freeze_endings()


def _is_blank(model: ServedModel, token: str) -> bool:
    return token in (BLANK, MASK, model.mask)


def _id(model: ServedModel, token: str, place: int, *, ended: bool) -> int:
    special = model.network.special
    if ended or token == BEHIND:
        if not (ended and token == BEHIND):
            raise DataError(
                f"tokens[{place}] is {token!r}: behind an end stand empty strings, and they stand "
                f"nowhere else. Write {BLANK} for a blank."
            )
        return special.pad
    if _is_blank(model, token):
        return special.mask
    if token == END and special.eos is not None and place:
        return special.eos
    if token not in model.ids:
        raise DataError(
            f"tokens[{place}] is {token[:40]!r}, which is no token that may stand there"
            f"{nearest(token[:40], model.ids)}. GET /v1/models lists them; {BLANK} is a blank."
        )
    return model.ids[token]


def _state(model: ServedModel, number: int, place: int, fixed: bool) -> State:
    special = model.network.special
    if number == special.mask:
        if fixed:
            raise DataError(f"tokens[{place}] is a blank, and a blank cannot be given.")
        return State.OPEN
    # An end and what lies behind it never change; freezing says so.
    return State.GIVEN if fixed and number not in (special.eos, special.pad) else State.WRITTEN


def _check_length(model: ServedModel, length: int) -> None:
    longest = model.network.config.max_seq_len
    if not 1 <= length <= longest:
        raise DataError(f"the canvas has {length} tokens; {model.id!r} takes 1 to {longest}.")
    if model.sizes and length not in [size * size for size in model.sizes]:
        legal = ", ".join(str(size * size) for size in model.sizes)
        raise DataError(f"the grid has {length} cells; {model.id!r} takes {legal}.")


def stacked(parts: Sequence[Canvas]) -> Canvas:
    """The rows of all canvases in one, padded behind to the longest."""
    special = parts[0].special
    width = max(part.ids.shape[1] for part in parts)
    ids = torch.full((sum(map(len, parts)), width), special.pad)
    state = torch.full(ids.shape, int(State.PAD), dtype=torch.uint8)
    optional, row = None, 0
    for part in parts:
        there = (slice(row, row + len(part)), slice(part.ids.shape[1]))
        ids[there], state[there] = part.ids, part.state
        if part.optional is not None:
            optional = torch.zeros(ids.shape, dtype=torch.bool) if optional is None else optional
            optional[there] = part.optional
        row += len(part)
    return Canvas(ids, state, special, optional=optional)
