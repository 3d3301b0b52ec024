"""Whether a model is one of sudokus, and of which sizes."""

from __future__ import annotations

from typing import Any

from imadarem.config import ImplicitRefinementConfig
from imadarem.data.sudoku.grid import SIZES
from imadarem.data.sudoku.task import sudoku_tokenizer


def model_sizes(config: ImplicitRefinementConfig, tokenizer: Any) -> tuple[int, ...]:
    """The sizes that fit a model whose tokens are the digits 1 to 9; none for any other model."""
    digits = sudoku_tokenizer()
    if tokenizer is None or not len(tokenizer) == config.vocab_size == len(digits):
        return ()
    every = range(len(digits))
    if list(tokenizer.convert_ids_to_tokens(every)) != digits.convert_ids_to_tokens(every):
        return ()
    layouts = [len(layout[0]) for layout in config.relations or []]
    return tuple(
        size
        for size in SIZES
        if (size * size in layouts if layouts else size * size <= config.max_seq_len)
    )
