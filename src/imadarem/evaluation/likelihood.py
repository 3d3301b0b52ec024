"""How likely a model finds data: a bound over all orders, and exact values for fixed ones.

Sampling one blank per pass in the order ``σ`` gives a row ``x`` of ``L`` tokens the
probability ``p(x | σ) = Π_k p(x_σk | canvas that shows x_σ1 … x_σ(k-1))``. Which order is
taken says which likelihood is meant:

- *random order* (``ancestral`` with as many steps as blanks): ``p(x) = E_σ p(x | σ)``, for
  which :func:`likelihood_bound` gives an upper bound on ``-log p(x)``;
- *an order that the canvas decides*: :mod:`imadarem.evaluation.ordered_likelihood` gives
  ``log p(x)`` itself;
- *from left to right in* ``K`` *passes*: the same function gives ``log p(x)`` of what
  ``LeftToRight`` samples in ``steps=K``.

Both are in nats, at temperature 1, with special tokens ruled out as sampling rules them out.
Filling several blanks in one pass in another order, or refining written tokens, makes another
distribution, of which these figures are no likelihood. Of a network with a joint head the
bound and every order but ``left-to-right`` speak of its independent logits, not of what it
draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn

from imadarem import checks
from imadarem.canvas import Canvas
from imadarem.evaluation.corpus_likelihood import LikelihoodBound, corpus_figures, surprise
from imadarem.evaluation.held_out import BatchOptions, HeldOut, TokenRows, device_of
from imadarem.nn import RefinementOutput
from imadarem.sampling.noise import RowNoise, Stream, row_seeds
from imadarem.tokenizers import SpecialIds


def likelihood_bound(
    network: nn.Module,
    rows: TokenRows,
    special: SpecialIds,
    *,
    canvases: int = 8,
    canvas_length: int | None = None,
    seed: int = 0,
    **options: Unpack[BatchOptions],
) -> LikelihoodBound:
    """An upper bound on the ``-log p`` of a corpus, in nats and bits per token, with its error.

    Arguments and errors are those of :func:`row_bounds`, which computes it row by row.
    """
    data = HeldOut.from_rows(rows, special, canvas_length)
    nats = row_bounds(network, data, special, canvases=canvases, seed=seed, **options)
    return LikelihoodBound(canvases=canvases, **corpus_figures(nats, data))


@torch.no_grad()
def row_bounds(
    network: nn.Module,
    rows: TokenRows | HeldOut,
    special: SpecialIds,
    *,
    canvases: int = 8,
    canvas_length: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    on_rows: Callable[[int], None] | None = None,
) -> Tensor:
    """Unbiased estimates of an upper bound on ``-log p(x)``, ``(N,)`` float64 nats.

    ``-log p(x | L) ≤ E_m (L/m) · E_S Σ_{i in S} -log p(x_i | x outside S)``, ``m`` uniform on
    1 … L and ``S`` a uniform set of ``m`` positions (LLaDA, arXiv:2502.09992, eq. 14; MDLM,
    arXiv:2406.07524). The right side equals the mean over all orders ``σ`` of
    ``-log p(x | σ)``; the gap to ``-log E_σ p(x | σ)`` is Jensen's.

    The ``C`` canvases of a row take their ``m`` from ``C`` equal strata with one shared
    offset, so each estimate is unbiased and the large weights ``L/m`` come in fixed
    proportion. A row's canvases follow from ``seed`` and its number alone.

    With ``canvas_length`` the length is unknown to the model: ``x`` is the text filled up
    with EOS, ``L`` the canvas, and a blank behind a visible EOS costs nothing because
    sampling never writes it. That bounds ``-log p(text)``, loosely where the sampler could
    also have written other tokens behind the end before it wrote the end.

    Self-conditioning is left out: each canvas is read as in a first pass.

    Args:
        network: Used as it is: put it in evaluation mode first.
        rows: Token ids of each row, without special tokens.
        special: The tokenizer's special ids.
        canvases: ``C``, canvases drawn for each row, at least 1.
        canvas_length: None for rows of known length (``length_mode="drawn"``);
            ``max_seq_len`` for ``length_mode="eos"``.
        seed: Of the masks.
        batch_size: Rows at a time.
        on_rows: Called with the number of rows just finished (a progress bar).

    Raises:
        ConfigError: ``canvases`` or ``batch_size`` is below 1.
        DataError: There is no row; a row is empty, too long, or holds a special token.
    """
    data = HeldOut.from_rows(rows, special, canvas_length)
    checks.whole("canvases", canvases, 1)
    checks.whole("batch_size", batch_size, 1)
    device = device_of(network)
    seeds = row_seeds(len(data), seed)
    total = torch.zeros(len(data), dtype=torch.float64)
    for numbers, part in data.batches(batch_size, device):
        own = seeds[numbers].to(device)
        offset = RowNoise(own, 0).uniform(Stream.LENGTH, 1).squeeze(1)
        counts = part.predicted.sum(dim=1)
        for number in range(canvases):
            # Strata of rates in (0, 1): m = floor(rate · L) + 1 is uniform on 1 … L.
            m = ((number + offset) / canvases * counts).long() + 1
            m = torch.minimum(m, counts)
            noise = RowNoise(own, number).uniform(Stream.ORDER, part.inside.shape[1])
            canvas = part.canvas(_lowest(noise, part.predicted, m))
            nats = _blank_nats(network, canvas, part)
            total[numbers] += (nats * counts / m).cpu() / canvases
        if on_rows is not None:
            on_rows(len(numbers))
    return total


def _blank_nats(network: nn.Module, canvas: Canvas, data: HeldOut) -> Tensor:
    """Sum of ``-log p`` over the blanks of each row, ``(B,)`` float64."""
    output: RefinementOutput = network(canvas.ids, canvas.attention_mask, prev_probs=None)
    log_probs = canvas.log_probs(output.logits, may_end=data.ends)
    return surprise(log_probs, data.targets, canvas.open).sum(dim=1)


def _lowest(noise: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    """The ``counts`` ``(B,)`` eligible positions of lowest noise, ``(B, L)`` bool."""
    ranks = noise.masked_fill(~eligible, math.inf).argsort(dim=1).argsort(dim=1)
    return ranks < counts[:, None]
