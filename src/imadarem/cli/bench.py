"""``imadarem bench``: how fast sampling is beside models of the same size."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from imadarem.cli.console import grid, heading, json_line, note, out, progress_bar
from imadarem.cli.models import Switch
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.bench.rivals import Rival, Size
    from imadarem.bench.turns import Figures

__all__ = ["bench"]

Numbers = Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")]


@dataclass(frozen=True)
class Table:
    """Everyone's rates at one length and one number of passes.

    Attributes:
        size: Of the models.
        rows: In the order of the table.
        base: Name of the row that the others are compared with.
        figures: Batch → name → rates.
    """

    size: Size
    rows: list[Rival]
    base: str
    figures: dict[int, dict[str, Figures]]


def bench(
    *,
    batch: Numbers = (1, 16, 64),
    length: Numbers = (36,),
    passes: Numbers = (6,),
    rounds: int = 5,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    vocab: int = 32,
    json: Switch = False,
) -> None:
    """Time sampling beside models of the same size: who wins, and where we lose.

    All have random weights and take turns in one process on one thread; figures are rows per
    CPU second, as ratios within a round to GPT-2's (to the dense refiner's where transformers
    is not installed). Nothing here is about quality.

    **Examples**

    ```
    imadarem bench
    imadarem bench --batch 1 16 64 512 --rounds 9
    imadarem bench --batch 1 --length 32 128 512 --passes 4 8 --json
    ```

    Args:
        batch: Rows sampled together, one number or several.
        length: Tokens of a row.
        passes: Passes of those that refine.
        rounds: Turns of each that count.
        width: Width of the refiner; the others get the width that has as many parameters.
        layers: Layers of the transformers.
        heads: Their attention heads.
        vocab: Token ids.
    """
    for name, values in {"batch": batch, "length": length, "passes": passes}.items():
        if not values or min(values) < 1:
            raise ConfigError(f"--{name} must be whole numbers of at least 1.")
    if rounds < 1:
        raise ConfigError(f"--rounds is {rounds}; give at least 1.")
    import torch

    from imadarem.bench.rivals import Size, parameters
    from imadarem.bench.speed import refiner

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for tokens in length:
            for steps in passes:
                size = Size(
                    vocab=vocab,
                    layers=layers,
                    heads=heads,
                    length=tokens,
                    passes=steps,
                    parameters=0,
                )
                size = replace(size, parameters=parameters(refiner(size, width=width)))
                table = _measure(size, width, sorted(set(batch)), rounds)
                peaks = _peaks(size, width, sorted(set(batch)), rounds)
                if json:
                    _print_json(table, peaks)
                else:
                    _show(table, peaks, rounds)
    finally:
        torch.set_num_threads(threads)


def _measure(size: Size, width: int, batches: list[int], rounds: int) -> Table:
    import torch

    from imadarem.bench.rivals import rivals
    from imadarem.bench.speed import DENSE, refiners
    from imadarem.bench.turns import Contender, take_turns

    torch.manual_seed(0)
    others, missing = rivals(size)
    with refiners(size, width) as (ours, absent):
        for reason in dict.fromkeys([*missing, *absent]):
            note(f"a row is missing: {reason}", style="yellow")
        rows = [*ours, *others]
        turns = len(rows) * (rounds + 1) * len(batches)
        figures = {}
        with progress_bar(f"{size.length} tokens, {size.passes} passes", turns) as advance:
            for batch in batches:
                contenders = [Contender(row.name, partial(row.sample, batch)) for row in rows]
                # One row is over too soon to be timed.
                again = [_repeated(c, max(1, 8 // batch)) for c in contenders]
                amount = batch * max(1, 8 // batch)
                found = take_turns(f"batch {batch}", "rows", amount, again, rounds, advance)
                figures[batch] = {f.name: f for f in found}
    base = next((row.name for row in others if row.name.startswith("GPT-2")), DENSE)
    return Table(size, rows, base, figures)


def _repeated(contender: Any, times: int) -> Any:
    def work() -> None:
        for _ in range(times):
            contender.work()

    return replace(contender, work=work)


def _peaks(size: Size, width: int, batches: list[int], rounds: int) -> dict[int, float]:
    """Batch → operations of a pass per second, as a share of a matrix product's."""
    from imadarem.bench.speed import matrix_peak, peak_share
    from imadarem.bench.turns import Contender, ratios, take_turns

    shares = {}
    for batch in batches:
        # What the engine puts into one chunk at most.
        rows = min(batch, 84)
        (network, wanted), (product, peak) = (
            make(size, width, rows) for make in (peak_share, matrix_peak)
        )
        times = max(1, wanted // peak)
        contenders = [
            Contender("pass", network),
            _repeated(Contender("product", product), times),
        ]
        ours, theirs = take_turns("peak", "operations", 1.0, contenders, rounds)
        share = median(ratios(ours.per_cpu_second, theirs.per_cpu_second))
        shares[batch] = share * wanted / (times * peak)
    return shares


def _show(table: Table, peaks: dict[int, float], rounds: int) -> None:
    import torch

    from imadarem.bench.turns import crossover, ratios, spread

    size, batches = table.size, list(table.figures)
    heading(f"{size.length} tokens a row, {size.passes} passes")
    columns = ("", "parameters", *(f"batch {batch}" for batch in batches))
    cells: list[list[object]] = []
    middle: dict[str, list[float]] = {}
    for row in table.rows:
        found = [
            ratios(rates[row.name].per_cpu_second, rates[table.base].per_cpu_second)
            for rates in table.figures.values()
        ]
        middle[row.name] = [median(values) for values in found]
        cells.append([row.name, f"{row.parameters:,}", *map(spread, found)])
    rate = [spread(rates[table.base].per_cpu_second) for rates in table.figures.values()]
    cells.append([f"{table.base}: rows per CPU second", "", *rate])
    cells.append(["linear layers of a pass: share of peak", "", *_percent(peaks, batches)])
    out().print(grid(columns, cells))
    for name, values in middle.items():
        meets = crossover(batches, values)
        if meets is not None:
            note(f"{name} is ahead of {table.base} up to batch {meets:.0f}")
    out().print(
        Text(
            f"ratios to {table.base}; median (least–most) of {rounds} rounds, CPU time, one "
            f"thread; {platform.processor() or platform.machine()}, torch {torch.__version__}",
            "dim",
        )
    )


def _percent(peaks: dict[int, float], batches: list[int]) -> list[str]:
    return [f"{peaks[batch]:.0%}" for batch in batches]


def _print_json(table: Table, peaks: dict[int, float]) -> None:
    for batch, rates in table.figures.items():
        for row in table.rows:
            told = {"batch": batch, "parameters": row.parameters, **asdict(rates[row.name])}
            json_line({"kind": "speed", **asdict(table.size), **told})
        json_line(
            {"kind": "peak", "batch": batch, "length": table.size.length, "share": peaks[batch]}
        )
