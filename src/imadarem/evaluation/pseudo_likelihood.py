"""Pseudo-likelihood: how well each token is predicted from all others of its row.

``Σ_i -log p(x_i | x without i)``, one pass for each token (arXiv:1910.14659), is how pretrained
masked language models are usually scored. It is the likelihood of no distribution: its terms do
not factorise one. In place, a token is read with itself and a row costs one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from imadarem import checks
from imadarem.evaluation.corpus_likelihood import CorpusLikelihood, corpus_figures, surprise
from imadarem.evaluation.held_out import HeldOut, TokenRows, device_of
from imadarem.evaluation.judgement import judge_rows


def pseudo_likelihood(
    model: Any,
    rows: TokenRows,
    *,
    in_place: bool = False,
    batch_size: int = 64,
    on_rows: Callable[[int], None] | None = None,
) -> CorpusLikelihood:
    """:func:`token_surprises` summed over a corpus; same arguments."""
    each = token_surprises(model, rows, in_place=in_place, batch_size=batch_size, on_rows=on_rows)
    nats = torch.stack([row.sum() for row in each])
    return CorpusLikelihood(**corpus_figures(nats, HeldOut.from_rows(rows, model.special)))


@torch.no_grad()
def token_surprises(
    model: Any,
    rows: TokenRows,
    *,
    in_place: bool = False,
    batch_size: int = 64,
    on_rows: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """``-log p`` of every token given all others of its row, ``(L,)`` float64 nats each.

    Special tokens are ruled out, as in sampling. With a joint head the probabilities are those of
    each position by itself, but in place, where they are given the tokens left of it.

    Args:
        model: An :class:`~imadarem.ImplicitRefinementModel` in evaluation mode.
        rows: Token ids of each row, without special tokens.
        in_place: Let the model see the token itself: one pass a row.
        batch_size: Canvases in one pass.
        on_rows: Called with the number of rows just finished (a progress bar).

    Raises:
        ConfigError: ``batch_size`` is below 1.
        DataError: There is no row; a row is empty, too long, or holds a special token.
    """
    checks.whole("batch_size", batch_size, 1)
    if in_place:
        judged = judge_rows(model, [[int(token) for token in row] for row in rows], batch_size)
        return [torch.tensor(row.surprise, dtype=torch.float64) for row in judged]
    data = HeldOut.from_rows(rows, model.special)
    found: list[Tensor] = [torch.empty(0)] * len(data)
    for numbers, row in data.batches(1, device_of(model)):
        found[int(numbers)] = _left_out(model, row, batch_size)
        if on_rows is not None:
            on_rows(1)
    return found


def _left_out(model: Any, row: HeldOut, batch_size: int) -> Tensor:
    """``(L,)`` surprises of one row, each token blanked in a canvas of its own."""
    length = int(row.positions)
    nats = []
    for hidden in torch.eye(length, dtype=torch.bool, device=row.targets.device).split(batch_size):
        targets, inside = row.targets.expand(len(hidden), -1), row.inside.expand(len(hidden), -1)
        canvases = HeldOut(targets, inside, row.special, row.ends)
        canvas = canvases.canvas(hidden)
        output = model(canvas.ids, canvas.attention_mask)
        log_probs = canvas.log_probs(output.logits, may_end=False)
        nats.append(surprise(log_probs, targets, hidden).sum(dim=1))
    return torch.cat(nats).cpu()
