"""What a model says of finished rows: tokens that look wrong, gaps, and the row as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from imadarem import checks
from imadarem.canvas import Canvas
from imadarem.errors import ConfigError
from imadarem.evaluation.held_out import HeldOut, device_of


@dataclass(frozen=True)
class Judgement:
    """What a model says of a finished row of ``n`` tokens: which of them look wrong.

    Attributes:
        tokens: ``n`` ids.
        surprise: ``n`` numbers of nats, ``-log p`` of each token in its place, read with all
            other tokens and itself; with a joint head given those left of it. No judge is
            needed for it.
        wrong: ``n`` probabilities that a token is not the data's; None without a judge. Of a
            pretrained masked language model without a judge they are the gate's.
        missing: ``n + 1`` probabilities that tokens are missing before each token, and behind
            the last one; None without a judge.
        right: Probability that the row is data, beside as many rows that the model wrote: by
            filling holes of data, or from nothing where that was said; None without a judge.
    """

    tokens: list[int]
    surprise: list[float]
    wrong: list[float] | None = None
    missing: list[float] | None = None
    right: float | None = None


def encoded_rows(model: Any, rows: Sequence[str] | Sequence[Sequence[int]]) -> list[list[int]]:
    """The token ids of texts, without special tokens; token ids stay as they are.

    Raises:
        ConfigError: There is a text, and the tokenizer cannot read texts.
        DataError: A text cannot be read.
    """
    encode = getattr(model.tokenizer, "encode", None)
    if encode is None and any(isinstance(row, str) for row in rows):
        raise ConfigError("this model's tokenizer cannot read texts; give token ids.")
    return [
        list(encode(row, add_special_tokens=False))
        if encode is not None and isinstance(row, str)
        else [int(token) for token in row]
        for row in rows
    ]


@torch.no_grad()
def judge_rows(
    model: Any, rows: Sequence[str] | Sequence[Sequence[int]], batch_size: int, drafts: bool = False
) -> list[Judgement]:
    """Judge rows of texts or token ids; see :meth:`ImplicitRefinementModel.judge`."""
    encoded = encoded_rows(model, rows)
    data = HeldOut.from_rows(encoded, model.special)
    checks.canvas_length(int(data.positions.max()), model.config.max_seq_len, "a row")
    found: dict[int, Judgement] = {}
    for numbers, part, canvas in _batches(model, data, batch_size):
        found |= zip(numbers.tolist(), _judged(model, part, canvas, drafts), strict=True)
    return [found[row] for row in range(len(encoded))]


@torch.no_grad()
def row_verdicts(
    model: Any, rows: Sequence[Sequence[int]], drafts: Tensor, batch_size: int
) -> Tensor:
    """``(N,)`` logits that rows of token ids are data, in one pass each; -inf for an empty one.

    Args:
        model: With a judge.
        rows: Token ids without special tokens.
        drafts: ``(N,)`` bool, rows that would be written from nothing if they were not data;
            the others would have been filled.
        batch_size: Rows in one pass.

    Raises:
        ConfigError: The model has no judge.
    """
    verdicts = torch.full((len(rows),), -torch.inf)
    full = [number for number, row in enumerate(rows) if len(row)]
    if not full:
        return verdicts
    data = HeldOut.from_rows([rows[number] for number in full], model.special)
    places = torch.tensor(full)
    for numbers, part, canvas in _batches(model, data, batch_size):
        judge, _ = model.network.judged(part.targets, canvas.attention_mask)
        kind = (~drafts[places[numbers]]).long()
        verdicts[places[numbers]] = judge.right.float().cpu().gather(1, kind[:, None])[:, 0]
    return verdicts


def _batches(
    model: Any, data: HeldOut, batch_size: int
) -> Iterator[tuple[Tensor, HeldOut, Canvas]]:
    """Row numbers, these rows and their canvases without blanks; the model in evaluation mode."""
    training = model.training
    model.eval()
    try:
        for numbers, part in data.batches(batch_size, device_of(model)):
            yield numbers, part, part.canvas(torch.zeros_like(part.inside))
    finally:
        model.train(training)


def _judged(model: Any, part: HeldOut, canvas: Canvas, drafts: bool) -> list[Judgement]:
    read = model.network.read_in_place(part.targets, canvas.attention_mask)
    log_probs = canvas.log_probs(read.logits, may_end=False)
    surprise = -log_probs.gather(-1, part.targets[..., None]).squeeze(-1)
    lengths = part.positions.tolist()
    rows = zip(_lists(part.targets, lengths), _lists(surprise, lengths), strict=True)
    plain = [Judgement(*row) for row in rows]
    if read.judge is None and not model.config.gate_from_likelihood:
        return plain
    if read.judge is None:
        doubts = _lists(read.gate_logits.sigmoid(), lengths)
        return [replace(row, wrong=own) for row, own in zip(plain, doubts, strict=True)]
    wrong = _lists(read.judge.wrong.sigmoid(), lengths)
    right = read.judge.right[:, 0 if drafts else 1]
    missing = _lists(read.judge.missing.sigmoid(), [length + 1 for length in lengths])
    return [
        replace(row, wrong=tokens, missing=gaps, right=verdict)
        for row, tokens, gaps, verdict in zip(
            plain, wrong, missing, right.sigmoid().tolist(), strict=True
        )
    ]


def _lists(values: Tensor, lengths: list[int]) -> list[list[Any]]:
    return [row[:length] for row, length in zip(values.tolist(), lengths, strict=True)]
