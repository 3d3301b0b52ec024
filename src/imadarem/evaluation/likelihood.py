"""How likely a model finds data: a bound over all orders, and exact values for fixed ones.

Sampling one blank per pass in the order ``σ`` gives a row ``x`` of ``L`` tokens the
probability ``p(x | σ) = Π_k p(x_σk | canvas that shows x_σ1 … x_σ(k-1))``. Which order is
taken says which likelihood is meant:

- *random order* (``ancestral`` with as many steps as blanks): ``p(x) = E_σ p(x | σ)``, for
  which :func:`likelihood_bound` gives an upper bound on ``-log p(x)``;
- *an order that the canvas decides*: :func:`ordered_log_likelihood` gives ``log p(x)``
  itself;
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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imadarem.canvas import Canvas
from imadarem.corruption import MaskSchedule
from imadarem.errors import ConfigError, nearest
from imadarem.evaluation.held_out import HeldOut, TokenRows, device_of
from imadarem.nn import RefinementOutput
from imadarem.sampling.draw import forbid, normalized_entropy
from imadarem.sampling.noise import RowNoise, Stream, row_seeds
from imadarem.tokenizers import SpecialIds

__all__ = [
    "ORDERS",
    "CorpusLikelihood",
    "LikelihoodBound",
    "OrderedLikelihood",
    "likelihood_bound",
    "ordered_likelihood",
    "ordered_log_likelihood",
    "row_bounds",
]

#: Half the width of a 95 % interval of a normal distribution, in standard errors.
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class CorpusLikelihood:
    """What the rows of a corpus cost, in nats.

    Attributes:
        rows: Rows it was measured on.
        tokens: Their tokens; with ``canvas_length`` each closing EOS counts as one.
        nats_per_token: All nats divided by all tokens, not the mean over rows of each row's
            nats per token: long rows weigh more.
        standard_error: Of ``nats_per_token``, as a ratio estimator over rows:
            ``sqrt(N/(N-1) · Σ (nats_i - R·tokens_i)²) / Σ tokens_i``. It holds the scatter
            of the rows, and that of the masks where they are drawn; NaN for a single row.
        nats_per_row: Mean over rows of a row's nats.
    """

    rows: int
    tokens: int
    nats_per_token: float
    standard_error: float
    nats_per_row: float

    @property
    def bits_per_token(self) -> float:
        """``nats_per_token / ln 2``."""
        return self.nats_per_token / math.log(2)

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % interval of ``nats_per_token``, normal over rows."""
        half = NORMAL_95 * self.standard_error
        return self.nats_per_token - half, self.nats_per_token + half

    @property
    def perplexity(self) -> float:
        """``exp(nats_per_token)``: of how many equally likely tokens."""
        return math.exp(self.nats_per_token)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values; NaN as None."""
        known = not math.isnan(self.standard_error)
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "nats_per_token": self.nats_per_token,
            "bits_per_token": self.bits_per_token,
            "perplexity": self.perplexity,
            "nats_per_row": self.nats_per_row,
            "standard_error": self.standard_error if known else None,
            "interval_95": list(self.interval) if known else None,
        }


@dataclass(frozen=True, kw_only=True)
class LikelihoodBound(CorpusLikelihood):
    """The masked-diffusion bound: at least what the rows cost in random order.

    Attributes:
        canvases: Canvases drawn for each row.
    """

    canvases: int

    def to_dict(self) -> dict[str, Any]:
        return {"canvases": self.canvases, **super().to_dict()}


@dataclass(frozen=True, kw_only=True)
class OrderedLikelihood(CorpusLikelihood):
    """What the rows cost in an order that the canvas decides.

    Attributes:
        order: A name in :data:`ORDERS`.
        exact: Whether this is the likelihood itself. Where the end is the model's to write
            and the order is not ``left-to-right``, it is an upper bound on the cost.
        steps: Passes in which the rows were written; None for one per token.
    """

    order: str
    exact: bool
    steps: int | None = None

    def to_dict(self) -> dict[str, Any]:
        kind = {"order": self.order, "steps": self.steps, "exact": self.exact}
        return {**kind, **super().to_dict()}


def likelihood_bound(
    network: nn.Module,
    rows: TokenRows,
    special: SpecialIds,
    *,
    canvases: int = 8,
    canvas_length: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    on_rows: Callable[[int], None] | None = None,
) -> LikelihoodBound:
    """The bound of :func:`row_bounds` over a corpus, with its error; same arguments."""
    data = HeldOut.from_rows(rows, special, canvas_length)
    nats = _row_bounds(network, data, canvases, seed, batch_size, on_rows)
    return LikelihoodBound(canvases=canvases, **_figures(nats, data))


def row_bounds(
    network: nn.Module,
    rows: TokenRows,
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
    return _row_bounds(network, data, canvases, seed, batch_size, on_rows)


def ordered_likelihood(
    network: nn.Module,
    rows: TokenRows,
    special: SpecialIds,
    order: str = "confidence",
    *,
    steps: int | None = None,
    canvas_length: int | None = None,
    batch_size: int = 256,
    on_rows: Callable[[int], None] | None = None,
) -> OrderedLikelihood:
    """:func:`ordered_log_likelihood` over a corpus, as costs; same arguments."""
    data = HeldOut.from_rows(rows, special, canvas_length)
    nats = -_ordered(network, data, order, steps, batch_size, on_rows)
    exact = canvas_length is None or order == "left-to-right"
    return OrderedLikelihood(order=order, exact=exact, steps=steps, **_figures(nats, data))


def ordered_log_likelihood(
    network: nn.Module,
    rows: TokenRows,
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
            ``LeftToRight`` at these steps. With a joint head the tokens of a pass hear each
            other; without one they are independent. Default: a pass for each token.
        canvas_length: As in :func:`row_bounds`. ``left-to-right`` stays exact; the other
            orders may write behind an end not yet written, and give a lower bound on
            ``log p(text)``.
        batch_size: Rows at a time.
        on_rows: Called with the number of rows just finished (a progress bar).

    Raises:
        ConfigError: No order has that name, it cannot be had in ``steps`` passes, or a number
            is below 1.
        DataError: There is no row; a row is empty, too long, or holds a special token.
    """
    data = HeldOut.from_rows(rows, special, canvas_length)
    return _ordered(network, data, order, steps, batch_size, on_rows)


@torch.no_grad()
def _ordered(
    network: nn.Module,
    data: HeldOut,
    order: str,
    steps: int | None,
    batch_size: int,
    on_rows: Callable[[int], None] | None,
) -> Tensor:
    if order not in ORDERS:
        raise ConfigError(
            f"unknown order {order!r}{nearest(order, ORDERS)}. Legal: {', '.join(ORDERS)}."
        )
    _at_least_one("batch_size", batch_size)
    jointly = getattr(network, "joint", None) is not None
    if steps is not None:
        _at_least_one("steps", steps)
        if order != "left-to-right" or (data.ends and not jointly):
            raise ConfigError(
                f"steps={steps} has an exact likelihood for order='left-to-right' alone, and "
                "where the model writes the end itself only with a joint head. Leave steps out."
            )
    total = torch.zeros(len(data), dtype=torch.float64)
    for numbers, part in data.batches(batch_size, device_of(network)):
        if steps is not None or (jointly and order == "left-to-right"):
            passes = int(part.positions.max()) if steps is None else steps
            total[numbers] = _in_blocks(network, part, passes, jointly).cpu()
        else:
            total[numbers] = _in_order(network, part, ORDERS[order]).cpu()
        if on_rows is not None:
            on_rows(len(numbers))
    return total


def _in_order(network: nn.Module, data: HeldOut, rank: Callable[[Tensor], Tensor]) -> Tensor:
    """Write the data into blank canvases, the highest rank first: ``(B,)`` nats, float64."""
    canvas = data.canvas(data.inside)
    total = torch.zeros(len(data), dtype=torch.float64, device=data.targets.device)
    known: dict[str, Tensor | None] = {"prev_probs": None}
    while bool(canvas.open.any()):
        output: RefinementOutput = network(canvas.ids, canvas.attention_mask, **known)
        log_probs = forbid(output.logits, canvas, may_end=data.ends)
        ranking = rank(log_probs).masked_fill(~canvas.open, -math.inf)
        first = torch.zeros_like(canvas.open).scatter(1, ranking.argmax(dim=1, keepdim=True), True)
        chosen = first & canvas.open
        total += _surprise(log_probs, data.targets, chosen).sum(dim=1).neg()
        canvas = canvas.write(chosen, data.targets).freeze_endings()
        known = {"prev_probs": log_probs.exp()}
        if output.carry is not None:
            known["carry"] = output.carry
    return total


def _in_blocks(network: nn.Module, data: HeldOut, steps: int, jointly: bool) -> Tensor:
    """Write the data from left to right, a block per pass: ``(B,)`` nats, float64."""
    canvas = data.canvas(data.inside)
    told = {"targets": data.targets} if jointly else {}
    schedule, beliefs, carry = MaskSchedule(steps), None, None
    total = torch.zeros(len(data), dtype=torch.float64, device=data.targets.device)
    ending = data.targets == (-1 if data.special.eos is None else data.special.eos)
    behind = ending.long().cumsum(dim=1) - ending.long() > 0
    for step in range(1, steps + 1):
        kept: dict[str, Tensor] = {} if carry is None else {"carry": carry}
        output: RefinementOutput = network(
            canvas.ids, canvas.attention_mask, prev_probs=beliefs, **told, **kept
        )
        alone = forbid(output.logits, canvas, may_end=data.ends)
        heard = alone
        if output.joint_logits is not None:
            heard = forbid(output.joint_logits, canvas, may_end=data.ends)
        count = canvas.open.sum(dim=1) - schedule.remaining(step, data.positions)
        chosen = canvas.open & (canvas.open.long().cumsum(dim=1) <= count[:, None])
        total -= _surprise(heard, data.targets, chosen & ~behind).sum(dim=1)
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


def _by_place(log_probs: Tensor) -> Tensor:
    length = log_probs.shape[1]
    places = torch.arange(length, 0, -1, device=log_probs.device)
    return places.double().expand(log_probs.shape[:2])


#: Order → rank of each position from ``(B, L, V)`` log-probabilities; highest goes first.
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "confidence": _by_confidence,
    "entropy": _by_entropy,
    "margin": _by_margin,
    "left-to-right": _by_place,
}


@torch.no_grad()
def _row_bounds(
    network: nn.Module,
    data: HeldOut,
    canvases: int,
    seed: int,
    batch_size: int,
    on_rows: Callable[[int], None] | None,
) -> Tensor:
    _at_least_one("canvases", canvases)
    _at_least_one("batch_size", batch_size)
    device = device_of(network)
    seeds = row_seeds(len(data), seed)
    total = torch.zeros(len(data), dtype=torch.float64)
    for numbers, part in data.batches(batch_size, device):
        own = seeds[numbers].to(device)
        offset = RowNoise(own, 0).uniform(Stream.LENGTH, 1).squeeze(1)
        for number in range(canvases):
            # Strata of rates in (0, 1): m = floor(rate · L) + 1 is uniform on 1 … L.
            m = ((number + offset) / canvases * part.positions).long() + 1
            m = torch.minimum(m, part.positions)
            noise = RowNoise(own, number).uniform(Stream.ORDER, part.inside.shape[1])
            canvas = part.canvas(_lowest(noise, part.inside, m))
            nats = _blank_nats(network, canvas, part)
            total[numbers] += (nats * part.positions / m).cpu() / canvases
        if on_rows is not None:
            on_rows(len(numbers))
    return total


def _blank_nats(network: nn.Module, canvas: Canvas, data: HeldOut) -> Tensor:
    """Sum of ``-log p`` over the blanks of each row, ``(B,)`` float64."""
    output: RefinementOutput = network(canvas.ids, canvas.attention_mask, prev_probs=None)
    log_probs = forbid(output.logits, canvas, may_end=data.ends)
    return _surprise(log_probs, data.targets, canvas.open).sum(dim=1)


def _surprise(log_probs: Tensor, targets: Tensor, where: Tensor) -> Tensor:
    """``-log p(target)`` at ``where``, 0 elsewhere: ``(B, L)`` float64."""
    nats = -log_probs.gather(-1, targets[..., None]).squeeze(-1).double()
    return nats.masked_fill(~where, 0.0)


def _lowest(noise: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    """The ``counts`` ``(B,)`` eligible positions of lowest noise, ``(B, L)`` bool."""
    ranks = noise.masked_fill(~eligible, math.inf).argsort(dim=1).argsort(dim=1)
    return ranks < counts[:, None]


def _figures(nats: Tensor, data: HeldOut) -> dict[str, Any]:
    """The fields of :class:`CorpusLikelihood` from ``(N,)`` costs."""
    tokens = data.tokens.double()
    ratio = (nats.sum() / tokens.sum()).item()
    return {
        "rows": len(data),
        "tokens": int(tokens.sum()),
        "nats_per_token": ratio,
        "standard_error": _ratio_error(nats, tokens, ratio),
        "nats_per_row": nats.mean().item(),
    }


def _ratio_error(nats: Tensor, tokens: Tensor, ratio: float) -> float:
    """Standard error of ``Σ nats / Σ tokens`` over independent rows (Cochran 1977, § 6.4)."""
    rows = len(nats)
    if rows < 2:
        return math.nan
    scatter = (nats - ratio * tokens).square().sum() * rows / (rows - 1)
    return (scatter.sqrt() / tokens.sum()).item()


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name}={value} must be at least 1.")
