"""Quality against row-passes and CPU seconds, over steps × width, on the same weights.

    python benchmarks/pareto.py --model default --n 2000 --passes 2 4 8 16 32 64 --seeds 3
    python benchmarks/pareto.py --model smiles --policies left-to-right --passes 1 --widths 1 2 4 8
    python benchmarks/pareto.py --task sudoku --plot sudoku.png
    python benchmarks/pareto.py --quick                     minutes; also with --task sudoku

Molecules, each row: FCD to the MOSES test set (published statistics where the wheel is in the
cache, see ``imadarem data moses``; else the shipped test molecules), share that passes MOSES'
filters, uniqueness, internal diversity; mean over the seeds, and the half-width of the
range. A policy that asks a teacher gets half as many steps: passes are what is equal. With
``--widths`` a row is one of several candidates, drawn by the odds of the model's judge, and the
passes of all of them and of the judge are counted. CPU seconds are those of sampling. FCD
depends on n: compare within one table, beside its row of as many real molecules.

Sudoku, each row: the share of held-out puzzles that are right in every cell, with Wilson's
95 % interval; see ``pareto_sudoku.py``.

Below the table stands where quality *fell* with more passes, and whether the fall is larger
than the intervals.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import torch

from imadarem import ImplicitRefinementModel
from imadarem.data.moses import (
    WHEEL_NAME,
    cache_directory,
    fetch_moses,
    load_moses_sample,
    load_statistics,
)
from imadarem.evaluation.molecules import Reference, evaluate_molecules
from imadarem.sampling.policies import (
    POLICIES,
    AdaptiveGate,
    Confidence,
    EntropyBound,
    EntropyThreshold,
    Gate,
    Policy,
    policy_from_name,
)

#: In the mean, of a molecule of MOSES.
TOKENS = 35


@dataclass(frozen=True)
class Row:
    """One policy at one number of steps, one width and one seed."""

    policy: str
    passes: int
    width: int
    seed: int
    mean_passes: float
    cpu_seconds: float
    valid: float
    fcd: float
    filters: float
    unique: float
    int_div: float


def reference() -> Reference:
    """The MOSES test set, as good as it is at hand."""
    if (cache_directory() / WHEEL_NAME).is_file():
        return Reference.from_moses(load_statistics(fetch_moses()))
    return Reference.from_smiles(load_moses_sample("test"), name="shipped test sample", fcd=True)


def named_policy(name: str, model: ImplicitRefinementModel) -> Policy:
    """``gate``, ``confidence@0.5`` (Gumbel scale), ``gate@0.3:0.5`` (fraction, scale), …"""
    kind, _, setting = name.partition("@")
    if not setting:
        return policy_from_name(kind, model.config)
    values = [float(value) for value in setting.split(":")]
    if kind == "confidence":
        return Confidence(gumbel=values[0])
    if kind == "gate":
        return Gate(fraction=values[0], gumbel=values[-1] if len(values) > 1 else 1.0)
    if kind == "gate-adaptive":
        return AdaptiveGate(gamma=values[0])
    if kind == "entropy-bound":
        return EntropyBound(gamma=values[0])
    if kind == "entropy":
        return EntropyThreshold(values[0])
    raise SystemExit(f"{kind} takes no setting here")


def measure(
    model: ImplicitRefinementModel,
    name: str,
    passes: int,
    width: int,
    seed: int,
    options: argparse.Namespace,
    target: Reference,
) -> Row:
    policy = named_policy(name, model)
    steps = max(1, passes // 2) if policy.uses_teacher and model.teacher is not None else passes
    start = time.process_time()
    samples = model.sample(
        options.n,
        width=width,
        steps=steps,
        policy=policy,
        seed=seed,
        temperature=options.temperature,
    )
    seconds = time.process_time() - start
    report = evaluate_molecules(
        samples.texts, reference=target, fcd=True, processes=options.processes
    )
    mean_passes = sum(samples.forward_passes) / len(samples)
    return Row(
        name,
        passes,
        width,
        seed,
        mean_passes,
        seconds,
        report.valid or 0.0,
        report.fcd or float("nan"),
        report.filters or 0.0,
        report.unique or 0.0,
        report.int_div or 0.0,
    )


def real_row(n: int, target: Reference, processes: int) -> str:
    molecules = random.Random(0).sample(load_moses_sample("train"), min(n, 15_000))
    report = evaluate_molecules(molecules, reference=target, fcd=True, processes=processes)
    return (
        f"{'real molecules':<22}{'':>28}{report.valid:>7.3f}{report.fcd:>8.2f}{'':>7}"
        f"{report.filters:>9.3f}{report.unique:>8.3f}{report.int_div:>8.3f}"
    )


def line(rows: list[Row]) -> str:
    def mean(name: str) -> float:
        return sum(getattr(row, name) for row in rows) / len(rows)

    fcds = [row.fcd for row in rows]
    return (
        f"{rows[0].policy:<22}{rows[0].passes:>7}{rows[0].width:>6}{mean('mean_passes'):>7.2f}"
        f"{mean('cpu_seconds'):>8.1f}{mean('valid'):>7.3f}{mean('fcd'):>8.2f}"
        f"{(max(fcds) - min(fcds)) / 2:>7.2f}{mean('filters'):>9.3f}{mean('unique'):>8.3f}"
        f"{mean('int_div'):>8.3f}"
    )


def rises(found: list[list[Row]]) -> list[str]:
    """Policies whose FCD rose with more passes: by how much at worst, beside the ranges."""

    def fcd(rows: list[Row]) -> tuple[float, float]:
        values = [row.fcd for row in rows]
        return sum(values) / len(values), (max(values) - min(values)) / 2

    told = []
    for name in dict.fromkeys(rows[0].policy for rows in found):
        of_policy = [rows for rows in found if rows[0].policy == name and rows[0].width == 1]
        curve = [(rows[0].passes, *fcd(rows)) for rows in of_policy]
        pairs = [(a, b) for a in curve for b in curve if a[0] < b[0] and a[1] < b[1]]
        if pairs:
            a, b = max(pairs, key=lambda pair: pair[1][1] - pair[0][1])
            clear = "more" if b[1] - a[1] > a[2] + b[2] else "no more"
            told.append(
                f"{name}: FCD +{b[1] - a[1]:.2f} from {a[0]} to {b[0]} passes, {clear} than the "
                "ranges of the seeds"
            )
    return told


def molecules(options: argparse.Namespace) -> None:
    model = ImplicitRefinementModel.from_pretrained(options.model or "default")
    model.config = replace(model.config, stop_threshold=0.0)
    target = reference()
    print(f"{options.n} samples, FCD to {target.name}, {options.seeds} seed(s)")
    head = f"{'policy':<22}{'steps':>7}{'width':>6}{'passes':>7}{'CPU s':>8}{'valid':>7}"
    head += f"{'FCD':>8}{'+-':>7}{'Filters':>9}"
    print(head + f"{'unique':>8}{'IntDiv':>8}")
    print(real_row(options.n, target, options.processes), flush=True)
    found = []
    for passes in options.passes:
        for name, width in product(options.policies or sorted(POLICIES), options.widths):
            rows = [
                measure(model, name, passes, width, seed, options, target)
                for seed in range(options.seeds)
            ]
            found.append(rows)
            print(line(rows), flush=True)
            keep(options.json, rows)
    print("\n".join(rises(found)) or "no policy's FCD rose with more passes")
    if options.plot:
        curves: dict[str, list[Point]] = {}
        for rows in found:
            fcds = [row.fcd for row in rows]
            mean = sum(row.mean_passes for row in rows) / len(rows)
            point = Point(mean, sum(fcds) / len(fcds), min(fcds), max(fcds))
            wide = "" if rows[0].width == 1 else f", width {rows[0].width}"
            curves.setdefault(f"{rows[0].policy}{wide}", []).append(point)
        pictures = {f"{options.model or 'default'}: {options.n:,} molecules": curves}
        if options.beside:
            pictures |= baselines(options.beside)
        draw(pictures, "FCD (lower is better)", options.plot)


def baselines(path: str) -> dict[str, dict[str, list[Point]]]:
    """A panel of what ``molecule_baselines.py`` found; who writes a token a pass takes 35."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    curves: dict[str, list[Point]] = {}
    for row in rows:
        passes = TOKENS if row["passes"] == "token" else int(row["passes"])
        fcd = row["fcd"]
        curves.setdefault(row["model"], []).append(Point(passes, fcd, fcd, fcd))
    first = rows[0]
    return {f"{first['seconds']:.0f} CPU s of training: {first['samples']:,} molecules": curves}


def sudoku(options: argparse.Namespace) -> None:
    from pareto_sudoku import CONTENDERS, drops, puzzles, solve_all

    model = ImplicitRefinementModel.from_pretrained(options.model or "sudoku")
    names = options.policies or list(CONTENDERS)
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise SystemExit(f"unknown policy {unknown[0]!r}; legal: {', '.join(CONTENDERS)}")
    sets = puzzles(options.sizes, options.n, seed=97)
    print(f"{options.n} held-out puzzles of each kind, likeliest digit everywhere")
    print(
        f"{'puzzles':<16}{'policy':<26}{'passes':>7}{'mean':>7}{'solved':>9}{'95 % interval':>18}"
    )
    found, pictures = [], {}
    for one in solve_all(model, sets, names, options.passes):
        low, high = one.interval
        print(
            f"{one.puzzles:<16}{one.policy:<26}{one.passes:>7}{one.mean_passes:>7.2f}"
            f"{one.share:>9.3f}{f'{low:.3f} to {high:.3f}':>18}",
            flush=True,
        )
        keep(options.json, [one])
        found.append(one)
        picture = pictures.setdefault(one.puzzles, {})
        picture.setdefault(one.policy, []).append(Point(one.mean_passes, one.share, low, high))
    fallen = drops(found)
    for few, many in fallen:
        clear = "more" if many.interval[1] < few.interval[0] else "no more"
        print(
            f"{few.puzzles}, {few.policy}: {100 * (many.share - few.share):.1f} points from "
            f"{few.passes} to {many.passes} passes, {clear} than the intervals"
        )
    if not fallen:
        print("no policy solved fewer with more passes")
    if options.plot:
        draw(pictures, "share solved", options.plot)


@dataclass(frozen=True)
class Point:
    """Mean passes, and a figure with the ends of its interval."""

    passes: float
    value: float
    low: float
    high: float


def draw(pictures: dict[str, dict[str, list[Point]]], label: str, path: str) -> None:
    """One panel for each picture, one line for each policy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(pictures), figsize=(6.5 * len(pictures), 5), squeeze=False, layout="constrained"
    )
    for panel, (title, curves) in zip(axes[0], pictures.items(), strict=True):
        for number, (name, points) in enumerate(curves.items()):
            points = sorted(points, key=lambda point: point.passes)
            passes = [point.passes for point in points]
            style = {"marker": "osv^Dx+"[number % 7], "linestyle": ("-", "--")[number % 2]}
            (drawn,) = panel.plot(passes, [p.value for p in points], label=name, **style)
            panel.fill_between(
                passes,
                [p.low for p in points],
                [p.high for p in points],
                color=drawn.get_color(),
                alpha=0.12,
            )
        panel.set_xscale("log", base=2)
        panel.set(title=title, xlabel="row-passes", ylabel=label)
        panel.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def keep(path: str | None, rows: Iterable[object]) -> None:
    """Append the rows to a file of JSON Lines."""
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(vars(row)) + "\n" for row in rows)


#: What is not given: of a whole run, and of a quick one.
DEFAULTS = {
    "molecules": (
        {"passes": [2, 4, 6, 8, 12, 24, 64], "n": 2000},
        {"passes": [2, 8], "n": 200, "policies": ["ancestral", "confidence", "gate"]},
    ),
    "sudoku": (
        {"passes": [1, 2, 4, 6, 8, 16], "n": 300},
        {"passes": [1, 4, 16], "n": 50},
    ),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", choices=sorted(DEFAULTS), default="molecules")
    parser.add_argument("--model", help="default: the shipped model of the task")
    parser.add_argument("--policies", nargs="+", help="default: all")
    parser.add_argument("--passes", nargs="+", type=int, help="caps on the passes")
    parser.add_argument("--widths", nargs="+", type=int, default=[1], help="candidates of a row")
    parser.add_argument("--n", type=int, help="molecules, or puzzles of each size")
    parser.add_argument("--sizes", nargs="+", type=int, default=[6, 9], help="of the grids")
    parser.add_argument("--seeds", type=int, default=1, help="of the molecules")
    parser.add_argument("--temperature", type=float, default=None, help="of the molecules")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few of everything")
    parser.add_argument("--json", help="also append the rows to this file")
    parser.add_argument("--plot", help="also draw the curves into this file")
    parser.add_argument("--beside", help="rows of molecule_baselines.py --json, a second panel")
    options = parser.parse_args(argv)
    for name, value in DEFAULTS[options.task][options.quick].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    torch.set_num_threads(1)
    (sudoku if options.task == "sudoku" else molecules)(options)


if __name__ == "__main__":
    main()
