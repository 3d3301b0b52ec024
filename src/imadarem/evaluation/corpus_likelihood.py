"""What the rows of a corpus cost a model, in nats, with the error of the estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from imadarem.evaluation.held_out import HeldOut

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
        order: A name in :data:`imadarem.evaluation.ordered_likelihood.ORDERS`.
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


def corpus_figures(nats: Tensor, data: HeldOut) -> dict[str, Any]:
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


def surprise(log_probs: Tensor, targets: Tensor, where: Tensor) -> Tensor:
    """``-log p(target)`` at ``where``, 0 elsewhere: ``(B, L)`` float64."""
    nats = -log_probs.gather(-1, targets[..., None]).squeeze(-1).double()
    return nats.masked_fill(~where, 0.0)
