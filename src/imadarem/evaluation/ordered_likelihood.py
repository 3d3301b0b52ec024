"""The exact likelihood of data under an order of writing that the canvas decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn

from imadarem import checks
from imadarem.errors import ConfigError, nearest
from imadarem.evaluation.corpus_likelihood import OrderedLikelihood, corpus_figures, surprise
from imadarem.evaluation.held_out import BatchOptions, HeldOut, TokenRows, device_of
from imadarem.nn import RefinementOutput
from imadarem.sampling.draw import normalized_entropy
from imadarem.sampling.policy import MaskSchedule
from imadarem.tokenizers import SpecialIds


def ordered_likelihood(
    network: nn.Module,
    rows: TokenRows,
    special: SpecialIds,
    order: str = "confidence",
    *,
    steps: int | None = None,
    canvas_length: int | None = None,
    **options: Unpack[BatchOptions],
) -> OrderedLikelihood:
    """:func:`ordered_log_likelihood` over a corpus, as costs; same arguments."""
    data = HeldOut.from_rows(rows, special, canvas_length)
    nats = -ordered_log_likelihood(network, data, special, order, steps=steps, **options)
    exact = canvas_length is None or order == "left-to-right"
    return OrderedLikelihood(order=order, exact=exact, steps=steps, **corpus_figures(nats, data))


@torch.no_grad()
def ordered_log_likelihood(
    network: nn.Module,
    rows: TokenRows | HeldOut,
    special: SpecialIds,
    order: str = "confidence",
    *,
    steps: int | None = None,
    canvas_length: int | None = None,
    batch_size: int = 256,
    on_rows: Callable[[int], None] | None = None,
) -> Tensor:
    """Exact log-likelihood under an order that the canvas decides, ``(N,)`` float64 nats.

    ``log p(x) = Σ_k log p(x_σk | canvas_k)``, one pass and one blank a time, where ``σk`` is a
    function of ``canvas_k``: each ``x`` can only come about in one order, so the sum is the
    likelihood itself (DUEL, arXiv:2603.01367). It costs as many passes as the longest row
    has tokens. Ties go to the leftmost blank.

    Exact for sampling at temperature 1 with as many steps as blanks and

    - ``margin``: the policy ``Margin``;
    - ``entropy``: ``EntropyBound(gamma=0)``, unless a blank has an entropy of exactly 0,
      after which that policy takes a second blank in the same pass;
    - ``confidence`` and ``left-to-right``: a policy of your own. The shipped ``Confidence``
      ranks blanks by the token that was *drawn*, so the canvas does not decide its order and
      this is not its likelihood. Nor is it that of ``Ancestral``, ``Gate`` or ``Remask``.

    As in the loop, each pass is conditioned on the probabilities of the pass before, and on
    its carry where the network has one.

    Args:
        network: Used as it is: put it in evaluation mode first.
        rows: Token ids of each row, without special tokens.
        special: The tokenizer's special ids.
        order: A name in :data:`ORDERS`.
        steps: Write the rows in so many passes, from left to right alone: the likelihood of
            ``LeftToRight`` at these steps. With a joint head the tokens of a pass depend on
            each other; without one they are independent. Default: a pass for each token.
        canvas_length: As in :func:`~imadarem.evaluation.likelihood.row_bounds`.
            ``left-to-right`` stays exact; the other orders may write behind an end not yet
            written, and give a lower bound on ``log p(text)``.
        batch_size: Rows at a time.
        on_rows: Called with the number of rows just finished (a progress bar).

    Raises:
        ConfigError: No order has that name, it cannot be had in ``steps`` passes, or a number
            is below 1.
        DataError: There is no row; a row is empty, too long, or holds a special token.
    """
    data = HeldOut.from_rows(rows, special, canvas_length)
    if order not in ORDERS:
        raise ConfigError(
            f"unknown order {order!r}{nearest(order, ORDERS)}. Legal: {', '.join(ORDERS)}."
        )
    checks.whole("batch_size", batch_size, 1)
    jointly = getattr(getattr(network, "config", None), "joint_size", 0) > 0
    if steps is not None:
        checks.whole("steps", steps, 1)
        if order != "left-to-right" or (data.ends and not jointly):
            raise ConfigError(
                f"steps={steps} has an exact likelihood for order='left-to-right' alone, and "
                "where the model writes the end itself only with a joint head. Leave steps out."
            )
    total = torch.zeros(len(data), dtype=torch.float64)
    for numbers, part in data.batches(batch_size, device_of(network)):
        if steps is not None or (jointly and order == "left-to-right"):
            passes = int(part.predicted.sum(dim=1).max()) if steps is None else steps
            total[numbers] = _in_blocks(network, part, passes, jointly).cpu()
        else:
            total[numbers] = _in_order(network, part, ORDERS[order]).cpu()
        if on_rows is not None:
            on_rows(len(numbers))
    return total


def _in_order(network: nn.Module, data: HeldOut, rank: Callable[[Tensor], Tensor]) -> Tensor:
    """Write the data into blank canvases, the highest rank first: ``(B,)`` nats, float64."""
    canvas = data.canvas(data.predicted)
    total = torch.zeros(len(data), dtype=torch.float64, device=data.targets.device)
    inputs: dict[str, Tensor | None] = {"prev_probs": None}
    while bool(canvas.open.any()):
        output: RefinementOutput = network(canvas.ids, canvas.attention_mask, **inputs)
        log_probs = canvas.log_probs(output.logits, may_end=data.ends)
        ranking = rank(log_probs).masked_fill(~canvas.open, -math.inf)
        first = torch.zeros_like(canvas.open).scatter(1, ranking.argmax(dim=1, keepdim=True), True)
        chosen = first & canvas.open
        total += surprise(log_probs, data.targets, chosen).sum(dim=1).neg()
        canvas = canvas.write(chosen, data.targets).freeze_endings()
        inputs = {"prev_probs": log_probs.exp()}
        if output.carry is not None:
            inputs["carry"] = output.carry
    return total


def _in_blocks(network: nn.Module, data: HeldOut, steps: int, jointly: bool) -> Tensor:
    """Write the data from left to right, a block per pass: ``(B,)`` nats, float64."""
    canvas, counts = data.canvas(data.predicted), data.predicted.sum(dim=1)
    targets = {"targets": data.targets} if jointly else {}
    schedule, beliefs, carry = MaskSchedule(steps), None, None
    total = torch.zeros(len(data), dtype=torch.float64, device=data.targets.device)
    ending = data.targets == (-1 if data.special.eos is None else data.special.eos)
    behind = ending.long().cumsum(dim=1) - ending.long() > 0
    for step in range(1, steps + 1):
        optional: dict[str, Tensor] = {} if carry is None else {"carry": carry}
        output: RefinementOutput = network(
            canvas.ids, canvas.attention_mask, prev_probs=beliefs, **targets, **optional
        )
        alone = canvas.log_probs(output.logits, may_end=data.ends)
        log_probs = alone
        if output.joint_logits is not None:
            log_probs = canvas.log_probs(output.joint_logits, may_end=data.ends)
        count = canvas.open.sum(dim=1) - schedule.remaining(step, counts)
        chosen = canvas.open & (canvas.open.long().cumsum(dim=1) <= count[:, None])
        total -= surprise(log_probs, data.targets, chosen & ~behind).sum(dim=1)
        canvas = canvas.write(chosen, data.targets).freeze_endings()
        beliefs, carry = alone.exp(), output.carry
    return total


def _by_confidence(log_probs: Tensor) -> Tensor:
    return log_probs.amax(dim=-1).double()


def _by_entropy(log_probs: Tensor) -> Tensor:
    return -normalized_entropy(log_probs).double()


def _by_margin(log_probs: Tensor) -> Tensor:
    top = log_probs.exp().topk(min(2, log_probs.shape[-1]), dim=-1).values
    return (top[..., 0] - top[..., -1]).double()


def _by_position(log_probs: Tensor) -> Tensor:
    length = log_probs.shape[1]
    places = torch.arange(length, 0, -1, device=log_probs.device)
    return places.double().expand(log_probs.shape[:2])


#: Order → rank of each position from ``(B, L, V)`` log-probabilities; highest goes first.
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "confidence": _by_confidence,
    "entropy": _by_entropy,
    "margin": _by_margin,
    "left-to-right": _by_position,
}
