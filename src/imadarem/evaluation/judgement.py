"""What a model says of finished rows: tokens that look wrong, gaps, and the row as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from imadarem.errors import DataError
from imadarem.evaluation.held_out import HeldOut, device_of
from imadarem.sampling.draw import forbid

__all__ = ["Judgement", "judge_rows"]


@dataclass(frozen=True)
class Judgement:
    """A row of ``n`` tokens, judged.

    Attributes:
        tokens: ``n`` ids.
        surprise: ``n`` numbers of nats, ``-log p`` of each token in its place, read with all
            other tokens and itself; with a joint head given those left of it. No judge is
            needed for it.
        wrong: ``n`` probabilities that a token is not the data's; None without a judge.
        missing: ``n + 1`` probabilities that tokens are missing before each token, and behind
            the last one; None without a judge.
        right: Probability that the row is right: on open data, that it is data and not written
            by the model; None without a judge.
    """

    tokens: list[int]
    surprise: list[float]
    wrong: list[float] | None = None
    missing: list[float] | None = None
    right: float | None = None


@torch.no_grad()
def judge_rows(
    model: Any, rows: Sequence[str] | Sequence[Sequence[int]], batch_size: int
) -> list[Judgement]:
    """Judge rows of texts or token ids; see :meth:`ImplicitRefinementModel.judge`."""
    encoded = [model.tokenizer.encode(row) if isinstance(row, str) else row for row in rows]
    data = HeldOut.from_rows(encoded, model.special)
    longest = int(data.positions.max())
    if longest > model.config.max_seq_len:
        raise DataError(
            f"a row has {longest} tokens and the model takes at most "
            f"max_seq_len={model.config.max_seq_len}. Leave longer rows out."
        )
    found: dict[int, Judgement] = {}
    training = model.training
    model.eval()
    for numbers, part in data.batches(batch_size, device_of(model)):
        judged = _judged(model, part)
        found |= zip(numbers.tolist(), judged, strict=True)
    model.train(training)
    return [found[row] for row in range(len(encoded))]


def _judged(model: Any, part: HeldOut) -> list[Judgement]:
    canvas = part.canvas(torch.zeros_like(part.inside))
    targets = part.targets if model.config.joint_size else None
    output = model(part.targets, canvas.attention_mask, targets=targets)
    logits = output.logits if output.joint_logits is None else output.joint_logits
    log_probs = forbid(logits, canvas, may_end=False)
    surprise = -log_probs.gather(-1, part.targets[..., None]).squeeze(-1)
    lengths = part.positions.tolist()
    rows = zip(_lists(part.targets, lengths), _lists(surprise, lengths), strict=True)
    plain = [Judgement(*row) for row in rows]
    if not model.config.judge:
        return plain
    said, _ = model.network.judged(part.targets, canvas.attention_mask)
    wrong = _lists(said.wrong.sigmoid(), lengths)
    missing = _lists(said.missing.sigmoid(), [length + 1 for length in lengths])
    return [
        replace(row, wrong=tokens, missing=gaps, right=right)
        for row, tokens, gaps, right in zip(
            plain, wrong, missing, said.right.sigmoid().tolist(), strict=True
        )
    ]


def _lists(values: Tensor, lengths: list[int]) -> list[list[Any]]:
    return [row[:length] for row, length in zip(values.tolist(), lengths, strict=True)]
