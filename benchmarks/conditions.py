"""What samples have of what was asked for: reached against asked values, by guidance.

    python benchmarks/conditions.py runs/asked/model --ask QED=0.6,0.75,0.9 MW=250,300,350
    python benchmarks/conditions.py runs/lines/model --ask length=10,30,60 --steps 24

Each row of the table is one value asked for, with ``--n`` samples at each strength of guidance; the
first row asks for nothing. ``reached`` is the mean over the valid samples and their standard
deviation; ``off`` the mean distance from what was asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

from imadarem.cli.condition_sources import property_of
from imadarem.cli.models import is_molecular
from imadarem.loading import open_model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a folder of a model that was trained with --condition")
    parser.add_argument("--ask", nargs="+", required=True, help="NAME=VALUE,VALUE,…")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 3.0])
    parser.add_argument("-n", type=int, default=500, help="samples of each kind")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--policy", default="left-to-right")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    model = open_model(args.model)
    how: dict[str, Any] = {"steps": args.steps, "policy": args.policy, "seed": args.seed}
    if model.config.length_mode == "eos":
        how["forbid_end"] = False  # the model ends its rows: their length is not drawn
    titles = [f"guidance {guidance:g}: reached | off | valid" for guidance in args.guidance]
    print(f"| asked | {' | '.join(titles)} |\n|{'---|' * (1 + 3 * len(titles))}")
    for asked in args.ask:
        name, _, values = asked.partition("=")
        wanted = [None, *map(float, values.split(","))]
        for value in wanted:
            cells = []
            # Nothing asked for leaves nothing to follow.
            for guidance in args.guidance if value is not None else args.guidance[:1]:
                given = {} if value is None else {"condition": {name: value}, "guidance": guidance}
                samples = model.sample(args.n, **given, **how)
                cells.append(cell(measured(model, name, samples), value, args.n))
            cells += ["| |"] * (len(args.guidance) - len(cells))
            shown = f"{name} {'–' if value is None else f'{value:g}'}"
            print(f"| {shown} | {' | '.join(cells)} |", flush=True)


def measured(model: Any, name: str, samples: Any) -> list[float]:
    """The value of each valid sample."""
    function = property_of(name) if is_molecular(model.tokenizer) else None
    if function is None:
        return [float(len(row.ids)) for row in samples.rows]
    return [value for text in samples.texts if (value := function(text)) is not None]


def cell(values: list[float], asked: float | None, n: int) -> str:
    """Mean and standard deviation, mean distance, share of valid samples."""
    if not values:
        return "– | – | 0 %"
    off = "–" if asked is None else f"{fmean(abs(v - asked) for v in values):.3g}"
    return f"{fmean(values):.3g} ± {pstdev(values):.2g} | {off} | {len(values) / n:.0%}"


if __name__ == "__main__":
    main()
