"""The picture of speed tables: what a token costs as rows grow longer or batches larger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from imadarem.bench.rivals import RIVALS
from imadarem.bench.table import Table
from imadarem.checkpoint import write_atomically
from imadarem.errors import ConfigError, MissingExtraError

__all__ = ["check_drawable", "draw_growth"]

#: Values of a row of the table along an axis: value → one number for each round.
Points = dict[int, list[float]]


def check_drawable(lengths: Sequence[int], batches: Sequence[int]) -> None:
    """Refuse, before anything is measured, what :func:`draw_growth` could not draw.

    Raises:
        ConfigError: There is one length and one batch.
        MissingExtraError: matplotlib is not installed.
    """
    if max(len(lengths), len(batches)) < 2:
        raise ConfigError("a picture of growth needs several lengths (--length) or batches.")
    _matplotlib()


def draw_growth(tables: Sequence[Table], path: str | Path) -> None:
    """Draw CPU milliseconds a token, one line for each row of the tables, into a PNG file.

    Against the length where the tables have several, else against the batch; one panel for
    each other setting. Both axes are logarithmic; a band spans the rounds.

    Args:
        tables: All of the same rows and batches.
        path: Where the picture goes; written whole or not at all.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    _matplotlib()
    from matplotlib.figure import Figure

    by_length = len({table.size.length for table in tables}) > 1
    panels = _by_length(tables) if by_length else _by_batch(tables)
    # A figure of its own, not pyplot's: no window, and nothing global is changed.
    figure = Figure(figsize=(max(7.0, 4.5 * len(panels)), 6.5), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    names = {key: row.name for key, row in tables[0].rows.items()}
    for axes, (title, lines) in zip(drawn, panels.items(), strict=True):
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("tokens of a row" if by_length else "rows sampled together")
        for key, points in lines.items():
            _line(axes, points, names[key], **_style(key, list(names)))
        _scales(axes, sorted(points))
    drawn[0].set_ylabel("CPU milliseconds a token")
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    write_atomically(path, lambda aside: figure.savefig(aside, format="png", dpi=120))


def _by_length(tables: Sequence[Table]) -> dict[str, dict[str, Points]]:
    """Title → row → length → milliseconds."""
    panels: dict[str, dict[str, Points]] = {}
    for table in tables:
        for batch in table.figures:
            panel = panels.setdefault(f"batch {batch}, {table.size.passes} passes", {})
            for name in table.rows:
                found = table.milliseconds(name, batch)
                panel.setdefault(name, {})[table.size.length] = found
    return panels


def _by_batch(tables: Sequence[Table]) -> dict[str, dict[str, Points]]:
    """Title → row → batch → milliseconds."""
    return {
        f"{table.size.length} tokens a row, {table.size.passes} passes": {
            name: {batch: table.milliseconds(name, batch) for batch in table.figures}
            for name in table.rows
        }
        for table in tables
    }


def _style(key: str, names: list[str]) -> dict[str, Any]:
    """Ours whole lines from dark to light, the others dashed, each with a sign of its own."""
    from matplotlib import colormaps

    if key in RIVALS:
        number = list(RIVALS).index(key)
        shade = colormaps["Set1"](number)
        return {"color": shade, "linestyle": "--", "marker": "1234"[number % 4]}
    ours = [name for name in names if name not in RIVALS]
    number = ours.index(key)
    shade = colormaps["viridis"](0.9 * number / max(1, len(ours) - 1))
    return {"color": shade, "linestyle": "-", "marker": "os^DvPX*<>"[number % 10]}


def _line(axes: Any, points: Points, label: str, **style: Any) -> None:
    along = sorted(points)
    style |= {"markersize": 5, "linewidth": 1.2}
    axes.plot(along, [median(points[x]) for x in along], label=label, **style)
    low, high = ([which(points[x]) for x in along] for which in (min, max))
    axes.fill_between(along, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _scales(axes: Any, along: list[int]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(along, [str(x) for x in along])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)


def _matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "train") from None
