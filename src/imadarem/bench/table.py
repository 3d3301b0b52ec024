"""Everyone's rates at one length and one number of passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch

from imadarem.bench.rivals import RIVALS, Rival, Size
from imadarem.bench.speed import REFINERS, Ours, matrix_peak, peak_share
from imadarem.bench.turns import Contender, Figures, ratios, take_turns
from imadarem.checks import one_of
from imadarem.errors import ConfigError, MissingExtraError
from imadarem.sampling.engine import CHUNK_TOKENS

__all__ = ["BASE", "ROWS", "Table", "build", "measure"]

#: The rows of the table by the names that ``--only`` takes, in their order.
ROWS = (*REFINERS, *RIVALS)
#: The row that the others are compared with, where it is there.
BASE = "gpt2"
# One row of a few tokens is over too soon to be timed.
TOKENS_AT_LEAST = 288


@dataclass(frozen=True)
class Table:
    """What was measured at one size.

    Attributes:
        size: Of the models.
        rows: By their names in :data:`ROWS`, in the order of the table.
        figures: Batch → name → rates, in rows.
        peaks: Batch → operations of the linear layers of a pass per second, as a share of a
            matrix product's.
    """

    size: Size
    rows: dict[str, Rival]
    figures: dict[int, dict[str, Figures]]
    peaks: dict[int, float]

    @property
    def base(self) -> str:
        """Whom the others are compared with: GPT-2, or else the first row."""
        return BASE if BASE in self.rows else next(iter(self.rows))

    def ratios(self, name: str, batch: int) -> list[float]:
        """A row's rates by those of the base, round by round."""
        rates = self.figures[batch]
        return ratios(rates[name].per_cpu_second, rates[self.base].per_cpu_second)

    def milliseconds(self, name: str, batch: int) -> list[float]:
        """CPU milliseconds that a row of the table takes for a token, round by round."""
        rates = self.figures[batch][name].per_cpu_second
        return [1000 / (rate * self.size.length) for rate in rates]


def build(size: Size, width: int, only: Sequence[str] = ()) -> tuple[dict[str, Rival], list[str]]:
    """The rows that this machine can run, and for the others what they lack.

    Args:
        size: Of the models.
        width: The refiner's.
        only: Names in :data:`ROWS`; none is all of them.

    Raises:
        ConfigError: There is no such name, or a row asked for by it cannot run here.
        MissingExtraError: A row asked for by name needs what is not installed.
    """
    for name in only:
        one_of("--only", name, ROWS)
    ours = Ours(size, width)
    found, missing = {}, []
    for name in ROWS:
        if only and name not in only:
            continue
        try:
            found[name] = REFINERS[name](ours) if name in REFINERS else RIVALS[name](size)
        except (MissingExtraError, ConfigError) as error:
            if only:
                raise
            missing.append(str(error))
    return found, list(dict.fromkeys(missing))


def measure(
    size: Size,
    width: int,
    batches: Sequence[int],
    rounds: int,
    only: Sequence[str] = (),
    *,
    on_missing: Callable[[str], None] = lambda reason: None,
    on_turn: Callable[[int, int], None] = lambda done, total: None,
) -> Table:
    """Time the rows by turns, in this process, on as many threads as torch has.

    Args:
        size: Of the models.
        width: The refiner's.
        batches: Rows sampled together, each a column.
        rounds: Turns of each that count.
        only: Names in :data:`ROWS`; none is all of them.
        on_missing: Called with what to install for a row that is left out.
        on_turn: Called with the turns done and all that there will be.
    """
    torch.manual_seed(0)
    figures = {}
    rows, missing = build(size, width, only)
    for reason in missing:
        on_missing(reason)
    total, done = len(rows) * (rounds + 1) * len(batches), 0

    def turn(count: int) -> None:
        nonlocal done
        done += count
        on_turn(done, total)

    for batch in batches:
        times = max(1, TOKENS_AT_LEAST // (batch * size.length))
        contenders = [
            _repeated(Contender(name, partial(row.sample, batch)), times)
            for name, row in rows.items()
        ]
        found = take_turns(f"batch {batch}", "rows", batch * times, contenders, rounds, turn)
        figures[batch] = {rates.name: rates for rates in found}
    peaks = {batch: _peak(size, width, batch, rounds) for batch in batches}
    return Table(size, rows, figures, peaks)


def _peak(size: Size, width: int, batch: int, rounds: int) -> float:
    # What the engine puts into one chunk at most.
    rows = min(batch, max(1, CHUNK_TOKENS // size.length))
    (network, wanted), (product, peak) = (
        make(size, width, rows) for make in (peak_share, matrix_peak)
    )
    times = max(1, wanted // peak)
    contenders = [Contender("pass", network), _repeated(Contender("product", product), times)]
    ours, theirs = take_turns("peak", "operations", 1.0, contenders, rounds)
    share = median(ratios(ours.per_cpu_second, theirs.per_cpu_second))
    return share * wanted / (times * peak)


def _repeated(contender: Contender, times: int) -> Contender:
    def work() -> None:
        for _ in range(times):
            contender.work()

    return replace(contender, work=work)
