"""``imadarem bench``: how fast sampling is beside models of the same size."""

from __future__ import annotations

import platform
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.text import Text

from imadarem.cli.console import grid, heading, json_line, note, out, progress_bar, stages
from imadarem.cli.models import Switch
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.bench.rivals import Size
    from imadarem.bench.table import Table

__all__ = ["bench"]

Numbers = Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")]
Names = Annotated[
    tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)
]

#: Rows whose memory is told: ours and what it is compared with.
WEIGHED = ("dense", "gpt2")
#: Row → batch → bytes.
Memory = dict[str, dict[int, int]]


def bench(
    *,
    batch: Numbers = (1, 16, 64),
    length: Numbers = (36,),
    passes: Numbers = (6,),
    rounds: int = 5,
    only: Names = (),
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    vocab: int = 32,
    memory: bool = True,
    plot: Path | None = None,
    json: Switch = False,
) -> None:
    """Time sampling beside models of the same size: who wins, and where we lose.

    All have random weights and take turns in one process on one thread; figures are rows per
    CPU second, as ratios within a round to GPT-2's (to the first row's where GPT-2 is not
    among them). Memory is the most that is resident in a process of its own, of the dense
    refiner and of GPT-2. Nothing here is about quality.

    The size is that of the molecule models in the package (0.8 million parameters, 36 tokens):
    two to three minutes. At five million and 64 tokens (the second line below) the matrix
    products weigh more and what stands around them less; that takes several times as long.

    **Examples**

    ```
    imadarem bench
    imadarem bench --length 64 --width 320 --heads 5 --rounds 3
    imadarem bench --only dense scripted gpt2 --batch 1 64 512
    imadarem bench --batch 1 --length 32 128 512 1024 --passes 4 8 --no-memory --plot growth.png
    ```

    Args:
        batch: Rows sampled together, one number or several.
        length: Tokens of a row.
        passes: Passes of those that refine.
        rounds: Turns of each that count.
        only: Rows of the table, of dense, scripted, scripted-sparse, joint, joint-left,
            joint-left-sparse, joint-one, gpt2, bert, x-transformers, char-rnn; default is all.
        width: Width of the refiner; the others get the width that has as many parameters.
        layers: Layers of the transformers.
        heads: Their attention heads.
        vocab: Token ids.
        memory: Read the memory too, in a process for each reading: five seconds and more.
        plot: A PNG file for a picture: CPU time of a token against the length where there are
            several, else against the batch.
    """
    for name, values in {"batch": batch, "length": length, "passes": passes}.items():
        if not values or min(values) < 1:
            raise ConfigError(f"--{name} must be whole numbers of at least 1.")
    if rounds < 1:
        raise ConfigError(f"--rounds is {rounds}; give at least 1.")
    import torch

    from imadarem.bench.picture import check_drawable, draw_growth
    from imadarem.bench.rivals import Size, parameters
    from imadarem.bench.speed import refiner

    batches, lengths = sorted(set(batch)), sorted(set(length))
    if plot is not None:
        check_drawable(lengths, batches)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tables = []
    try:
        for tokens in lengths:
            for steps in sorted(set(passes)):
                size = Size(
                    vocab=vocab,
                    layers=layers,
                    heads=heads,
                    length=tokens,
                    passes=steps,
                    parameters=0,
                )
                size = replace(size, parameters=parameters(refiner(size, width=width)))
                table = _measure(size, width, batches, rounds, only)
                taken = _weigh(table, width) if memory else {}
                if json:
                    _print_json(table, taken)
                else:
                    _show(table, taken, rounds)
                tables.append(table)
    finally:
        torch.set_num_threads(threads)
    if plot is not None:
        draw_growth(tables, plot)
        note(f"picture: {plot}")


def _measure(size: Size, width: int, batches: list[int], rounds: int, only: Names) -> Table:
    from imadarem.bench.table import measure

    label = f"{size.length} tokens, {size.passes} passes"
    with stages() as tell:
        return measure(
            size,
            width,
            batches,
            rounds,
            only,
            on_missing=lambda reason: note(f"a row is missing: {reason}", style="yellow"),
            on_turn=lambda done, total: tell(label, done, total),
        )


def _weigh(table: Table, width: int) -> Memory:
    from imadarem.bench.memory import peak_memory

    names = [name for name in WEIGHED if name in table.rows]
    taken: Memory = {}
    with progress_bar("memory", len(names) * len(table.figures)) as advance:
        for name in names:
            for batch in table.figures:
                found = peak_memory(name, table.size, width, batch)
                advance(1)
                if found is not None:
                    taken.setdefault(name, {})[batch] = found
    return taken


def _show(table: Table, memory: Memory, rounds: int) -> None:
    import torch

    from imadarem.bench.turns import crossover, spread

    size, batches = table.size, list(table.figures)
    base = table.rows[table.base].name
    heading(f"{size.length} tokens a row, {size.passes} passes")
    columns = ("", "parameters", *(f"batch {batch}" for batch in batches))
    cells: list[list[object]] = []
    meets: dict[str, float | None] = {}
    for name, row in table.rows.items():
        found = [table.ratios(name, batch) for batch in batches]
        meets[row.name] = crossover(batches, [median(values) for values in found])
        cells.append([row.name, f"{row.parameters:,}", *map(spread, found)])
    rates = [spread(figures[table.base].per_cpu_second) for figures in table.figures.values()]
    cells.append([f"{base}: rows per CPU second", "", *rates])
    shares = [f"{table.peaks[batch]:.0%}" for batch in batches]
    cells.append(["linear layers of a pass: share of peak", "", *shares])
    for name, taken in memory.items():
        told = [f"{taken[batch] / 1e6:,.0f} MB" for batch in batches]
        cells.append([f"{table.rows[name].name}: peak memory", "", *told])
    out().print(grid(columns, cells))
    for name, where in meets.items():
        if where is not None:
            note(f"{name} is ahead of {base} up to batch {where:.0f}")
    out().print(
        Text(
            f"ratios to {base}; median (least–most) of {rounds} rounds, CPU time, one "
            f"thread; {platform.processor() or platform.machine()}, torch {torch.__version__}",
            "dim",
        )
    )


def _print_json(table: Table, memory: Memory) -> None:
    about = {"length": table.size.length, "passes": table.size.passes}
    for batch, rates in table.figures.items():
        for key, row in table.rows.items():
            told = {**asdict(rates[key]), "row": key, "name": row.name}
            told = {**asdict(table.size), **told, "batch": batch, "parameters": row.parameters}
            json_line({"kind": "speed", **told})
        json_line({"kind": "peak", **about, "batch": batch, "share": table.peaks[batch]})
        for key, taken in memory.items():
            told = {"row": key, "name": table.rows[key].name, "bytes": taken[batch]}
            json_line({"kind": "memory", **about, "batch": batch, **told})
