"""Train many, infer few: what more refinement steps buy on sudoku, and when to stop.

    OMP_NUM_THREADS=1 python benchmarks/infer_few.py --plain runs/plain --plot infer_few.png
    OMP_NUM_THREADS=1 python benchmarks/infer_few.py --quick      a minute: 100 puzzles a set
    OMP_NUM_THREADS=1 python benchmarks/infer_few.py --plain runs/plain --train-plain 1200

On held-out puzzles that no task trains on, of a seed of their own: exact accuracy after each
step of one long run that never stops early, with Wilson's 95 % intervals; what the halting
head's rule would have lost and saved, read off the same run and confirmed by real ones; and
puzzles per CPU second beside the exact solver, which wins.

``--train-plain SECONDS`` first trains the plain models of ``plain_sudoku.py``, each for so
many CPU seconds (give the refiner's own, all its processes together, for a fair race), below
the folder of ``--plain``. Those that are there already are kept. A plain model fills the
surest blanks first, a share in every pass; each number of passes is a run of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_sudoku import VARIANTS, Plain, decode, load_plain, parameters, train_plain
from scipy.stats import binomtest
from torch import Tensor

from imadarem import ImplicitRefinementModel
from imadarem.data.sudoku import SudokuVerifier, solve, sudoku_episodes, sudoku_task
from imadarem.data.tasks import Episodes
from imadarem.orchestrator.accuracy import StepRecord, record_steps
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.sampling.halting import Halting

SHOWN = (1, 2, 3, 4, 6, 8, 16, 32, 64)
CAP = 16
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)
TASK = "sudoku"
#: Rows recorded at once: a trace holds every token of every step.
CHUNK = 250
#: Puzzles of each size that the shipped model was trained on.
TRAINED_ON = {4: 2_500, 6: 20_000, 9: 40_000}

# ---------------------------------------------------------------- records


@dataclass(frozen=True)
class PuzzleSet:
    """Held-out puzzles of one kind.

    Attributes:
        name: As it is printed.
        size: 4, 6 or 9.
        easy: Whether a single blank is asked for.
        episodes: The puzzles.
    """

    name: str
    size: int
    easy: bool
    episodes: Episodes


@dataclass(frozen=True)
class Curve:
    """Exact accuracy by steps.

    Attributes:
        puzzles: Name of the set.
        who: ``refiner``, or a plain variant.
        count: Puzzles.
        exact: Steps → share solved.
        interval: Steps → ends of its 95 % interval.
        worst_drop: Most that is lost from any number of steps to a larger one, as a share;
            None where not every number was run.
        passes: Steps → mean forward passes, where they differ from the steps.
    """

    puzzles: str
    who: str
    count: int
    exact: dict[int, float]
    interval: dict[int, tuple[float, float]]
    worst_drop: float | None = None
    passes: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """A stopping rule beside 16 steps for all.

    Attributes:
        puzzles: Name of the set.
        rule: What stops a row.
        accuracy: Share solved where it stopped.
        fixed: Share solved after the last step.
        mean_steps: Of the rule.
        oracle_steps: Of one that stops when a row is first right (never right: all steps).
        halted_wrong: Share stopped early and wrong.
        reasons: Stopping reason → rows; empty where the rule was read off the record.
        as_recorded: Rows of a real run that were right or wrong as the record says of the
            step they stopped at, as a share; None for the record itself.
    """

    puzzles: str
    rule: str
    accuracy: float
    fixed: float
    mean_steps: float
    oracle_steps: float
    halted_wrong: float
    reasons: dict[str, int] = field(default_factory=dict)
    as_recorded: float | None = None

    @property
    def lost(self) -> float:
        """Accuracy given up against the last step, as a share; below 0 is a gain."""
        return self.fixed - self.accuracy

    @property
    def ratio(self) -> float:
        return self.mean_steps / self.oracle_steps


@dataclass(frozen=True)
class Speed:
    """Puzzles per second, one entry per round."""

    puzzles: str
    who: str
    per_cpu_second: list[float]
    per_second: list[float]


@dataclass(frozen=True)
class Verdict:
    """A target of the project, and whether it is met."""

    claim: str
    value: str
    wanted: str
    met: bool

    @property
    def word(self) -> str:
        return "PASS" if self.met else "MISS"


@dataclass
class Report:
    """Everything that was measured."""

    model: str
    settings: dict[str, Any]
    curves: list[Curve] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    plain: list[Plain] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)


# ---------------------------------------------------------------- puzzles and models


def puzzle_sets(sizes: Sequence[int], puzzles: int, easy: int, args: Any) -> Iterator[PuzzleSet]:
    kinds = {4: "4x4 minimal", 6: "6x6 minimal", 9: "9x9, 32 givens"}
    for size in sizes:
        made = sudoku_episodes(size, puzzles, seed=args.seed, processes=args.processes)
        yield PuzzleSet(kinds[size], size, False, made)
        one_blank = size * size - 1
        made = sudoku_episodes(
            size, easy, givens=one_blank, seed=args.seed, processes=args.processes
        )
        yield PuzzleSet(f"{size}x{size}, one blank", size, True, made)


def sizes_of(model: ImplicitRefinementModel) -> list[int]:
    """The sizes of grids whose relations a model knows."""
    layouts = model.config.relations or []
    return sorted(round(len(layout[0]) ** 0.5) for layout in layouts)


def runner(model: ImplicitRefinementModel) -> UnifiedRefinerOrchestrator:
    """Runs a model with the default stopping rules, without a verifier."""
    config = OrchestrationConfig(canvas_edit_strategies=["replace"])
    return UnifiedRefinerOrchestrator(model, model.tokenizer, None, config).eval()


def with_verifier(model: ImplicitRefinementModel) -> UnifiedRefinerOrchestrator:
    orchestrator, special = runner(model), model.special
    assert special.pad is not None
    verify = SudokuVerifier(model.tokenizer.encode("1")[0], special.mask, special.pad)
    orchestrator.register(TASK, verify=verify)
    return orchestrator


# ---------------------------------------------------------------- accuracy by steps


def record(orchestrator: UnifiedRefinerOrchestrator, rows: Episodes, steps: int) -> StepRecord:
    """:func:`record_steps`, a few rows at a time."""
    parts = [
        record_steps(orchestrator, rows.rows(slice(start, start + CHUNK)), steps, TASK)
        for start in range(0, len(rows), CHUNK)
    ]
    halts = [part.halt for part in parts if part.halt is not None]
    return StepRecord(
        np.concatenate([part.right for part in parts], axis=1),
        np.concatenate([part.tokens for part in parts], axis=1),
        np.concatenate(halts, axis=1) if len(halts) == len(parts) else None,
    )


def refiner_curve(puzzles: PuzzleSet, found: StepRecord, shown: Sequence[int]) -> Curve:
    by_step = found.right.mean(axis=1)
    # The best so far, less what comes after it.
    drop = float((np.maximum.accumulate(by_step) - by_step).max())
    return curve(puzzles, "refiner", found.exact(shown), len(puzzles.episodes), drop)


def plain_curve(
    puzzles: PuzzleSet, name: str, model: ImplicitRefinementModel, rows: int, shown: Sequence[int]
) -> Curve:
    part = puzzles.episodes.rows(slice(0, rows))
    exact, passes = {}, {}
    for steps in shown:
        answers, passes[steps] = decode(model, part.inputs, steps)
        exact[steps] = float((answers == part.labels).all(dim=1).float().mean())
    made = curve(puzzles, name, exact, len(part), None)
    made.passes.update(passes)
    return made


def curve(
    puzzles: PuzzleSet, who: str, exact: dict[int, float], count: int, drop: float | None
) -> Curve:
    interval = {
        step: tuple(binomtest(round(p * count), count).proportion_ci(method="wilson"))
        for step, p in exact.items()
    }
    return Curve(puzzles.name, who, count, exact, interval, drop)


# ---------------------------------------------------------------- stopping


def recorded_stops(puzzles: PuzzleSet, found: StepRecord) -> Iterator[Stop]:
    default = OrchestrationConfig().halt_confidence
    for threshold in sorted({*THRESHOLDS, *([] if default is None else [default])}):
        rule = found.halted(threshold, CAP)
        yield Stop(
            puzzles.name,
            f"confidence {threshold:g}",
            rule.accuracy,
            rule.fixed_accuracy,
            rule.mean_steps,
            rule.oracle_steps,
            rule.halted_wrong,
        )


def real_stop(
    puzzles: PuzzleSet,
    rule: str,
    orchestrator: UnifiedRefinerOrchestrator,
    halting: Halting | None,
    found: StepRecord,
) -> Stop:
    """A run that stops, row by row, beside what the long run says of the same steps."""
    rows = puzzles.episodes
    ran = orchestrator.inference(
        rows.inputs, max_steps_override=CAP, task_type=TASK, halting=halting
    )
    right = (ran["output_ids"] == rows.labels).all(dim=1).numpy()
    steps, reasons = np.array(ran["steps_taken"]), np.array(ran["stopping_reason"])
    early = reasons != "max_steps"
    at_that_step = found.right[steps - 1, np.arange(len(rows))]
    reference = found.halted(1.0, CAP)
    return Stop(
        puzzles.name,
        rule,
        float(right.mean()),
        reference.fixed_accuracy,
        float(steps.mean()),
        reference.oracle_steps,
        float((early & ~right).mean()),
        dict(Counter(reasons.tolist())),
        float((right == at_that_step).mean()),
    )


def real_stops(
    puzzles: PuzzleSet, model: ImplicitRefinementModel, found: StepRecord
) -> Iterator[Stop]:
    plain, verified = runner(model), with_verifier(model)
    alone = Halting(confidence=OrchestrationConfig().halt_confidence)
    yield real_stop(puzzles, f"run: {default_confidence()}", plain, alone, found)
    yield real_stop(puzzles, "run: default rules", plain, None, found)
    tireless = replace(plain.halting(TASK), patience=None)
    yield real_stop(puzzles, "run: default rules, no patience", plain, tireless, found)
    yield real_stop(puzzles, "run: default rules, verifier", verified, None, found)


# ---------------------------------------------------------------- speed


def speeds(puzzles: PuzzleSet, model: ImplicitRefinementModel, rounds: int) -> list[Speed]:
    """The refiner (default rules and verifier, at most 16 steps) and the solver, in turns."""
    orchestrator, inputs = with_verifier(model), puzzles.episodes.inputs
    first, mask = model.tokenizer.encode("1")[0], model.special.mask

    def refined(rows: Tensor, batch_size: int) -> None:
        for part in rows.split(batch_size):
            orchestrator.inference(part, max_steps_override=CAP, task_type=TASK)

    def solved(grids: list[list[int]]) -> None:
        for grid in grids:
            solve(grid)

    made: dict[str, Speed] = {}
    for turn in range(rounds + 1):
        some = inputs.roll(-64 * turn, dims=0)[:64]
        grids = torch.where(some == mask, 0, some - first + 1).tolist()
        work: dict[str, tuple[int, Callable[[], None]]] = {
            "refiner, one at a time": (16, lambda rows=some[:16]: refined(rows, 1)),  # type: ignore[misc]
            "refiner, batch 64": (len(some), lambda rows=some: refined(rows, 64)),  # type: ignore[misc]
            "exact solver": (len(grids), lambda grids=grids: solved(grids)),  # type: ignore[misc]
        }
        for who, (count, call) in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            speed = made.setdefault(who, Speed(puzzles.name, who, [], []))
            if turn > 0:
                speed.per_cpu_second.append(count / cpu)
                speed.per_second.append(count / wall)
    return list(made.values())


# ---------------------------------------------------------------- targets


def verdicts(report: Report) -> list[Verdict]:
    """Each target that what was measured can speak to."""
    refiner = {c.puzzles: c for c in report.curves if c.who == "refiner"}
    found: list[Verdict] = []
    for name, few, least in (("6x6 minimal", 4, 0.95), ("9x9, 32 givens", 6, 0.90)):
        if name not in refiner:
            continue
        exact = refiner[name].exact
        value = exact[CAP]
        found.append(
            Verdict(f"{name}: solved at {CAP}", f"{value:.1%}", f"≥ {least:.0%}", value >= least)
        )
        ratio = exact[few] / value if value else 0.0
        claim = f"{name}: solved at {few} / at {CAP}"
        found.append(Verdict(claim, f"{ratio:.3f}", "≥ 0.97", ratio >= 0.97))
    for name, measured in refiner.items():
        if name.endswith("one blank"):
            least = min(p for step, p in measured.exact.items() if step >= 4)
            claim = f"{name}: solved from 4 steps on"
            found.append(Verdict(claim, f"{least:.1%}", "100 %", least == 1.0))
        if measured.worst_drop is not None:
            drop = 100 * measured.worst_drop
            claim = f"{name}: more steps never hurt, largest drop"
            found.append(Verdict(claim, f"{drop:.2f} points", "≤ 0.5", drop <= 0.5))
    return found + [verdict for stop in report.stops for verdict in stop_verdicts(stop)]


def default_confidence() -> str:
    return f"confidence {OrchestrationConfig().halt_confidence:g}"


def stop_verdicts(stop: Stop) -> Iterator[Verdict]:
    # The head alone, which is what the targets are about, and what a user gets.
    if stop.rule in (default_confidence(), "run: default rules"):
        lost, wrong = 100 * stop.lost, 100 * stop.halted_wrong
        name = f"{stop.puzzles}: {stop.rule},"
        yield Verdict(f"{name} lost", f"{lost:.2f} points", "≤ 0.5", lost <= 0.5)
        yield Verdict(f"{name} steps / oracle", f"{stop.ratio:.2f}", "≤ 1.3", stop.ratio <= 1.3)
        yield Verdict(f"{name} halted wrong", f"{wrong:.2f} %", "≤ 0.5 %", wrong <= 0.5)
    if stop.as_recorded is not None:
        claim = f"{stop.puzzles}: {stop.rule}, rows as recorded"
        yield Verdict(claim, f"{stop.as_recorded:.1%}", "100 %", stop.as_recorded == 1.0)


# ---------------------------------------------------------------- printing


def curves_table(curves: Sequence[Curve]) -> str:
    steps = sorted({step for curve in curves for step in curve.exact})
    lines = [
        f"| puzzles | model | {' | '.join(map(str, steps))} | largest drop |",
        "|---|---|" + "---|" * (len(steps) + 1),
    ]
    for one in curves:
        cells = []
        for step in steps:
            low, high = one.interval.get(step, (0.0, 0.0))
            known = step in one.exact
            cells.append(
                f"{100 * one.exact[step]:.1f} ({100 * low:.1f}–{100 * high:.1f})" if known else ""
            )
        drop = "" if one.worst_drop is None else f"{100 * one.worst_drop:.2f}"
        lines.append(f"| {one.puzzles} ({one.count}) | {one.who} | {' | '.join(cells)} | {drop} |")
    return "\n".join(lines)


def stops_table(stops: Sequence[Stop]) -> str:
    lines = [
        f"| puzzles | rule | solved | lost against {CAP} | steps | oracle | ratio "
        "| halted wrong | reasons |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for stop in stops:
        reasons = ", ".join(f"{name} {rows}" for name, rows in sorted(stop.reasons.items()))
        lines.append(
            f"| {stop.puzzles} | {stop.rule} | {stop.accuracy:.1%} | {100 * stop.lost:.2f} points "
            f"| {stop.mean_steps:.2f} | {stop.oracle_steps:.2f} | {stop.ratio:.2f} "
            f"| {stop.halted_wrong:.2%} | {reasons} |"
        )
    return "\n".join(lines)


def speeds_table(rates: Sequence[Speed]) -> str:
    lines = ["| puzzles | who | per CPU second | per second |", "|---|---|---|---|"]
    for speed in rates:
        cells = [
            f"{statistics.median(values):,.1f} ({min(values):,.1f}–{max(values):,.1f})"
            for values in (speed.per_cpu_second, speed.per_second)
        ]
        lines.append(f"| {speed.puzzles} | {speed.who} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plain_table(made: Sequence[Plain]) -> str:
    lines = [
        "| plain | parameters | block runs a pass | CPU s | steps | last token loss |",
        "|---|---|---|---|---|---|",
    ]
    for one in made:
        lines.append(
            f"| {one.variant} | {one.parameters:,} | {one.blocks} | {one.cpu_seconds:,.0f} "
            f"| {one.steps:,} | {one.last_loss:.3f} |"
        )
    return "\n".join(lines)


def verdicts_table(found: Sequence[Verdict]) -> str:
    lines = ["| target | measured | wanted | |", "|---|---|---|---|"]
    lines += [f"| {v.claim} | {v.value} | {v.wanted} | {v.word} |" for v in found]
    return "\n".join(lines)


def plot(curves: Sequence[Curve], path: Path) -> None:
    """One panel for each set with more than one blank: solved by steps, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [n for n in dict.fromkeys(c.puzzles for c in curves) if not n.endswith("one blank")]
    figure, panels = pyplot.subplots(
        1, len(names), figsize=(4 * len(names), 3.4), sharey=True, squeeze=False
    )
    for panel, name in zip(panels[0], names, strict=True):
        for one in (c for c in curves if c.puzzles == name):
            steps = sorted(one.exact)
            style = {"refiner": "-"}.get(one.who, "--")
            panel.plot(steps, [100 * one.exact[s] for s in steps], style, label=one.who)
            low, high = ([100 * one.interval[s][end] for s in steps] for end in (0, 1))
            panel.fill_between(steps, low, high, alpha=0.15)
        panel.set_xscale("log", base=2)
        panel.set_xticks(SHOWN, [str(step) for step in SHOWN])
        panel.set_title(name)
        panel.set_xlabel("steps")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("solved, %")
    panels[0][0].set_ylim(-2, 102)
    panels[0][-1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


# ---------------------------------------------------------------- the run


def make_plain(model: ImplicitRefinementModel, args: argparse.Namespace) -> None:
    """Train the plain models that are not there yet."""
    sizes = sizes_of(model)
    counts: Any = args.train_puzzles or {size: TRAINED_ON[size] for size in sizes}
    task = sudoku_task(sizes, n=counts, valid=args.train_valid, processes=args.processes)
    for name in args.variants:
        folder = args.plain / name
        if load_plain(folder) is None:
            train_plain(name, model.config, task, args.train_plain, folder, seed=args.seed)


def compare_plain(sets: Sequence[PuzzleSet], args: argparse.Namespace, report: Report) -> None:
    for name in args.variants:
        loaded = load_plain(args.plain / name)
        if loaded is None:
            continue
        made, model = loaded
        report.plain.append(made)
        for puzzles in sets:
            rows = min(args.plain_puzzles, len(puzzles.episodes))
            shown = [step for step in args.shown if step == 1 or not puzzles.easy]
            report.curves.append(plain_curve(puzzles, f"plain {name}", model, rows, shown))


def run(args: argparse.Namespace) -> Report:
    model = ImplicitRefinementModel.from_pretrained(args.model).eval()
    if args.plain is not None and args.train_plain is not None:
        make_plain(model, args)
    sizes = args.sizes or sizes_of(model)
    sets = list(puzzle_sets(sizes, args.puzzles, args.easy_puzzles, args))
    report = Report(
        str(args.model),
        {
            "parameters": parameters(model.config),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seed": args.seed,
        },
    )
    orchestrator = runner(model)
    for puzzles in sets:
        found = record(orchestrator, puzzles.episodes, args.shown[-1])
        report.curves.append(refiner_curve(puzzles, found, args.shown))
        if puzzles.easy:
            continue
        if found.halt is not None:
            report.stops += [*recorded_stops(puzzles, found), *real_stops(puzzles, model, found)]
        if args.rounds:
            report.speeds += speeds(puzzles, model, args.rounds)
    if args.plain is not None:
        compare_plain(sets, args, report)
    report.verdicts += verdicts(report)
    return report


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sudoku", help="shipped name, or a run's model folder")
    parser.add_argument("--sizes", type=int, nargs="+", help="default: all that the model knows")
    parser.add_argument("--puzzles", type=int, default=1_000, help="of each size")
    parser.add_argument(
        "--easy-puzzles", type=int, default=300, help="with one blank, of each size"
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed ones; 0 leaves speed out")
    parser.add_argument("--seed", type=int, default=1, help="of the puzzles")
    parser.add_argument("--processes", type=int, help="to generate puzzles with")
    parser.add_argument("--plain", type=Path, help="folder of the plain models")
    parser.add_argument("--train-plain", type=float, metavar="SECONDS", help="CPU, of each variant")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--plain-puzzles", type=int, default=300, help="of each set, for these")
    parser.add_argument("--train-puzzles", type=int, help="of each size; default as shipped")
    parser.add_argument("--train-valid", type=int, default=1_000, help="as shipped, for its cache")
    parser.add_argument("--plot", type=Path, help="write a picture here")
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--quick", action="store_true", help="100 puzzles a set, 16 steps")
    args = parser.parse_args(arguments)
    if args.train_plain is not None and args.plain is None:
        parser.error("--train-plain needs --plain FOLDER to save the models in")
    args.shown = [step for step in SHOWN if step <= CAP] if args.quick else list(SHOWN)
    if args.quick:
        args.puzzles, args.easy_puzzles, args.rounds, args.plain_puzzles = 100, 50, 3, 50
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(1)
    report = run(args)
    print(f"{report.model}, {report.settings['parameters']:,} parameters")
    print(f"\nSolved, %, by steps (95 % interval)\n\n{curves_table(report.curves)}")
    print(f"\nStopping, at most {CAP} steps\n\n{stops_table(report.stops)}")
    if report.speeds:
        print(f"\nMedian (least–most) of {args.rounds} rounds\n\n{speeds_table(report.speeds)}")
    if report.plain:
        print(f"\n{plain_table(report.plain)}")
    print(f"\n{verdicts_table(report.verdicts)}")
    if args.plot is not None:
        plot(report.curves, args.plot)
    if args.json is not None:
        args.json.write_text(json.dumps(asdict(report), indent=2) + "\n")


if __name__ == "__main__":
    main()
