"""The picture of speed tables: what a token costs as rows grow longer or batches larger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from same_size import OTHERS

if TYPE_CHECKING:
    from throughput import Table

#: Values along an axis: length or batch → one number for each round.
Points = dict[int, list[float]]


def draw_growth(tables: Sequence[Table], path: Path) -> None:
    """CPU milliseconds a token, one line for each row of the tables, into a PNG file.

    Against the length where the tables have several, else against the batch; one panel for
    each other setting. Both axes are logarithmic; a band spans the rounds.

    Args:
        tables: All of the same rows and batches.
        path: Where the picture goes.
    """
    by_length = len({table.size.length for table in tables}) > 1
    panels: dict[str, dict[str, Points]] = {}
    for table in tables:
        size = table.size
        for batch in table.rates:
            where = f"batch {batch}" if by_length else f"{size.length} tokens a row"
            panel = panels.setdefault(f"{where}, {size.passes} passes", {})
            for name in table.rows:
                x = size.length if by_length else batch
                panel.setdefault(name, {})[x] = table.milliseconds(name, batch)
    figure = Figure(figsize=(max(7.0, 4.5 * len(panels)), 6.5), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    names = {key: row.name for key, row in tables[0].rows.items()}
    for axes, (title, lines) in zip(drawn, panels.items(), strict=True):
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("tokens of a row" if by_length else "rows sampled together")
        for key, points in lines.items():
            draw_line(axes, points, names[key], style(key, list(names)))
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        along = sorted(points)
        axes.set_xticks(along, [str(x) for x in along])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    drawn[0].set_ylabel("CPU milliseconds a token")
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, format="png", dpi=120)


def style(key: str, names: list[str]) -> dict[str, Any]:
    """Ours whole lines from dark to light, the others dashed, each with a sign of its own."""
    if key in OTHERS:
        number = list(OTHERS).index(key)
        return {"color": colormaps["Set1"](number), "linestyle": "--", "marker": "1234+"[number]}
    ours = [name for name in names if name not in OTHERS]
    number = ours.index(key)
    shade = colormaps["viridis"](0.9 * number / max(1, len(ours) - 1))
    return {"color": shade, "linestyle": "-", "marker": "os^DvPX*<>"[number % 10]}


def draw_line(axes: Any, points: Points, label: str, how: dict[str, Any]) -> None:
    along = sorted(points)
    axes.plot(
        along, [median(points[x]) for x in along], label=label, markersize=5, linewidth=1.2, **how
    )
    low, high = ([which(points[x]) for x in along] for which in (min, max))
    axes.fill_between(along, low, high, color=how["color"], alpha=0.12, linewidth=0)
