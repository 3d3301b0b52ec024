"""Rows of data as canvases: which positions the model has to predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn

from imadarem.canvas import Canvas, State
from imadarem.data.corpus import TokenCorpus
from imadarem.errors import DataError
from imadarem.tokenizers import SpecialIds

#: Token ids of each row.
TokenRows = Sequence[Sequence[int]] | TokenCorpus


class BatchOptions(TypedDict, total=False):
    """How held-out rows are read; no row's result depends on it.

    Attributes:
        batch_size: Rows at a time; default 256.
        on_rows: Called with the number of rows just finished (a progress bar).
    """

    batch_size: int
    on_rows: Callable[[int], None] | None


@dataclass(frozen=True)
class HeldOut:
    """Data that the model did not see, laid out as sampling lays out its canvases.

    Attributes:
        targets: ``(N, L)`` int64 token ids; pad ids outside.
        inside: ``(N, L)`` bool, the positions that belong to the row's canvas.
        special: The tokenizer's special ids.
        ends: Whether an EOS closes a row and is predicted like any token.
        given: ``(N,)`` tokens at the start of each row that are given and not predicted.
    """

    targets: Tensor
    inside: Tensor
    special: SpecialIds
    ends: bool
    given: Tensor | None = None

    @classmethod
    def from_rows(
        cls,
        rows: TokenRows | HeldOut,
        special: SpecialIds,
        canvas_length: int | None = None,
        given: Sequence[int] | None = None,
    ) -> HeldOut:
        """Lay out rows of token ids; rows that are laid out stay as they are.

        Args:
            rows: Token ids of each row, without special tokens.
            special: The tokenizer's special ids.
            canvas_length: None where a row's length is given to the model. Otherwise a canvas
                has so many positions, and behind its text a row is filled up with EOS, as
                in training with ``length_mode="eos"``. No effect on a tokenizer without EOS.
            given: Tokens at the start of each row that are not predicted; None: no token is given.

        Raises:
            DataError: There is no row; a row is empty, too long, or holds a special token.
        """
        if isinstance(rows, HeldOut):
            return rows
        tokens = [[int(token) for token in row] for row in rows]
        lengths = torch.tensor([len(row) for row in tokens])
        if len(lengths) == 0 or int(lengths.min()) == 0:
            raise DataError("there must be at least one row, and each needs at least one token.")
        ends = canvas_length is not None and special.eos is not None
        width = int(lengths.max())
        if canvas_length is not None and width > canvas_length:
            raise DataError(
                f"row {int(lengths.argmax())} has {width} tokens and the canvas has "
                f"{canvas_length}. Leave longer rows out."
            )
        width = canvas_length if ends and canvas_length is not None else width
        targets = torch.full((len(lengths), width), special.pad)
        for target, row in zip(targets, tokens, strict=True):
            target[: len(row)] = torch.tensor(row)
        inside = torch.arange(width) < lengths[:, None]
        _refuse_specials(targets, inside, special)
        if special.eos is not None and ends:
            targets = targets.masked_fill(~inside, special.eos)
            inside = torch.ones_like(inside)
        return cls(targets, inside, special, ends, None if given is None else torch.tensor(given))

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def positions(self) -> Tensor:
        """``(N,)`` positions of each canvas, those filled up with EOS included."""
        return self.inside.sum(dim=1)

    @property
    def predicted(self) -> Tensor:
        """``(N, L)`` bool, the positions that the model has to predict."""
        if self.given is None:
            return self.inside
        places = torch.arange(self.inside.shape[1], device=self.inside.device)
        return self.inside & (places >= self.given[:, None])

    @property
    def tokens(self) -> Tensor:
        """``(N,)`` tokens of each row; the one EOS that closes a row counts."""
        eos = self.special.eos
        if eos is None or not self.ends:
            return self.positions
        text = self.targets.ne(eos).sum(dim=1)
        return (text + 1).clamp(max=self.targets.shape[1])

    def canvas(self, hidden: Tensor) -> Canvas:
        """The rows with ``hidden`` ``(N, L)`` turned into blanks, the rest WRITTEN.

        A visible EOS freezes what lies behind it, blanks included, as in sampling.
        """
        state = torch.where(hidden, State.OPEN, State.WRITTEN)
        state = torch.where(self.inside, state, State.PAD).to(torch.uint8)
        ids = self.targets.masked_fill(hidden & self.inside, self.special.mask)
        return Canvas(ids, state, self.special).freeze_endings()

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, HeldOut]]:
        """Row numbers ``(B,)`` and these rows, in batches of similar length, cropped."""
        for numbers in self.positions.argsort(stable=True).split(size):
            width = int(self.positions[numbers].max())
            targets = self.targets[numbers, :width].to(device)
            inside = self.inside[numbers, :width].to(device)
            given = None if self.given is None else self.given[numbers].to(device)
            yield numbers, HeldOut(targets, inside, self.special, self.ends, given)


def device_of(network: nn.Module) -> torch.device:
    """Where the network's weights lie; the CPU for one without weights."""
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _refuse_specials(targets: Tensor, inside: Tensor, special: SpecialIds) -> None:
    never = [*special.banned, *([] if special.eos is None else [special.eos])]
    found = (torch.isin(targets, torch.tensor(never)) & inside).nonzero()
    if len(found):
        row, position = found[0].tolist()
        raise DataError(
            f"row {row} holds the special id {int(targets[row, position])} at position "
            f"{position}. Give the tokens of the data alone; an end is added where it is needed."
        )
