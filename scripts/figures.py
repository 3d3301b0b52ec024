"""Measure every headline figure again, and write it where it is read.

    python scripts/figures.py                     # measure and write: `make figures`
    python scripts/figures.py --only draw fill  # these measurements; the others stay
    python scripts/figures.py --write             # write the pages of the figures that are there

Figures stand in benchmarks/results/headline.json, with the machine, the commit, the seed and the
CPU seconds of each. From there they go to the README's table, docs/benchmarks/headline.md and the
metadata of the model cards. Which models are measured follows from the models in the package, so
new weights need only another run: five to ten minutes of one core, and MOSES (52 MB) once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/headline.json"
PAGE = ROOT / "docs/benchmarks/headline.md"
BEGIN, END = "<!-- figures: scripts/figures.py -->", "<!-- end of figures -->"
SHOWN_STEPS = (1, 2, 4, 8, 16)
#: Of fragments: rows found of those asked for, and shares of these.
AROUND = ("found", "kept", "unique", "quality", "odd", "diversity")
Row = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """One command whose printed JSON holds figures.

    Attributes:
        name: What is measured, and of which model: ``draw smiles``.
        command: Behind ``python``; ``FILE`` stands for a file that it writes JSON into.
        fields: The figures of a row that are kept, and what tells the rows apart.
        seed: That of the command.
    """

    name: str
    command: str
    fields: tuple[str, ...]
    seed: int = 0


def molecule_models() -> list[str]:
    """The names of the models in the package that write molecules."""
    return [name for name, tags in _tags().items() if "molecules" in tags]


def _tags() -> dict[str, list[str]]:
    from huggingface_hub import ModelCard

    cards = {folder.name: ModelCard.load(folder / "README.md") for folder in shipped()}
    return {name: list(card.data.tags or []) for name, card in cards.items()}


def shipped() -> list[Path]:
    """The folders of the models in the package; each has the name of its model."""
    return sorted(path.parent for path in (ROOT / "src/imadarem/shipped").glob("*/README.md"))


def measurements() -> Iterator[Measurement]:
    """Everything that is measured, in the order of the pages."""
    models = molecule_models()
    writes_smiles = [name for name in models if "smiles" in _tags()[name]]
    drawn = (
        "kind",
        "samples",
        "valid",
        "unique",
        "novelty",
        "filters",
        "quality",
        "int_div",
        "fcd",
        "forward_passes",
    )
    for name in models:
        command = f"-m imadarem evaluate --model {name} -n 1000 --seed 0 --reference moses --fcd"
        yield Measurement(f"draw {name}", f"{command} --json", drawn)
        if name in writes_smiles:
            yield Measurement(f"draw {name}, width 4", f"{command} --width 4 --json", drawn)
    filled = ("model", "kind", "share", "valid", "exact", "filters")
    for name in writes_smiles:
        command = f"benchmarks/infilling.py --models {name} --n 300 --shares 0.3 --no-fcd --json"
        yield Measurement(f"fill {name}", command, filled)
    around = ("task", *AROUND)
    yield Measurement("fragments", "benchmarks/fragments.py --n 20 --json FILE", around)
    solved = ("puzzles", *(f"{step} steps" for step in SHOWN_STEPS))
    command = "benchmarks/infer_few.py --quick --rounds 0 --json FILE"
    yield Measurement("solve", command, solved, seed=1)


def measure(wanted: Measurement) -> Row:
    """Run the command; its figures, how long it took, and where."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        words = [str(file) if word == "FILE" else word for word in wanted.command.split()]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{wanted.command}\n{done.stderr[-2000:]}")
        written = file.read_text(encoding="utf-8") if file.exists() else ""
    rows = json.loads(written) if written else [json.loads(x) for x in done.stdout.splitlines()]
    kept = [{key: row[key] for key in wanted.fields if key in row} for row in _rows(rows)]
    return {
        "command": f"python {wanted.command}",
        "seed": wanted.seed,
        "cpu_seconds": round(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1
        ),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "date": date.today().isoformat(),
        "machine": _machine(),
        "rows": [_rounded(row) for row in kept],
    }


def _rows(found: Any) -> list[Row]:
    """The rows of a measurement; of the report on puzzles, a row for each set and step."""
    if isinstance(found, list):
        return _tasks(found) if found and "drug" in found[0] else found
    return [
        {"puzzles": curve["puzzles"]}
        | {f"{step} steps": curve["exact"][str(step)] for step in SHOWN_STEPS}
        for curve in found["curves"]
    ]


def _tasks(rows: list[Row]) -> list[Row]:
    """The mean over the drugs of each fragment task."""
    means = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        row: Row = {"task": task}
        for key in AROUND:
            row[key] = fmean(found[key] for found in of_task if found[key] is not None)
        means.append(row)
    return means


def _rounded(row: Row) -> Row:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _machine() -> str:
    import torch

    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else []
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, torch {torch.__version__}, one thread"


def table(rows: list[Row]) -> str:
    """Rows as a table in Markdown: shares in percent, other numbers as they are."""
    heads = list(rows[0])
    lines = [
        f"| {' | '.join(head.replace('_', ' ') for head in heads)} |",
        "|---" * len(heads) + "|",
    ]
    lines += [f"| {' | '.join(_cell(row.get(head), head) for head in heads)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any, head: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        plain = head in ("forward_passes", "fcd", "int_div", "diversity", "checks", "ms")
        return f"{value:.3g}" if plain else f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else str(value)


def page(found: dict[str, Row]) -> str:
    """The benchmark page of the headline figures."""
    parts = [
        "# Headline figures",
        "`make figures` measures them again, in ten minutes of one core: what each model "
        "of molecules draws, what each model of SMILES fills, fragments, and puzzles. "
        "They stand in `benchmarks/results/headline.json`; names of columns: "
        "[what `evaluate` reports](../how-to/evaluate.md).",
    ]
    for name, one in found.items():
        made = f"{one['machine']}; {one['date']}, commit {one['commit']}, seed {one['seed']}"
        how = f"`{one['command'].replace('FILE', 'rows.json')}`"
        if one["cpu_seconds"] is not None:
            how += f", {one['cpu_seconds']} CPU seconds"
        parts += [f"## {name}", table(one["rows"]), f"{how}.", f"{made}."]
    return "\n\n".join(parts) + "\n"


def headline(found: dict[str, Row]) -> str:
    """The README's table: what each model draws, beside as many real molecules."""
    rows: list[Row] = []
    real: Row = {}
    for name, one in found.items():
        if not name.startswith("draw "):
            continue
        for row in one["rows"]:
            shown = {"": name[5:] if row["kind"] == "samples" else "real molecules"}
            shown |= {
                key: row.get(key)
                for key in ("forward_passes", "valid", "filters", "quality", "int_div", "fcd")
            }
            if row["kind"] == "samples":
                rows.append(shown)
            else:
                real = shown
    return table([*rows, real])


def with_figures(text: str, figures: str) -> str:
    """A page with the figures between its two marks."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{figures}\n{END}{rest.partition(END)[2]}"


def card(name: str, text: str, found: dict[str, Row]) -> str:
    """A model card with the measured figures of its model in the metadata (``model-index``)."""
    from huggingface_hub import EvalResult, ModelCard

    made = ModelCard(text)
    results = []
    for measured in ("draw", "solve"):
        one = found.get(f"{measured} {name}") or (found.get(measured) if name == "sudoku" else None)
        if one is None:
            continue
        for metric, value in _metrics(one["rows"]):
            results.append(
                EvalResult(
                    task_type="other",
                    dataset_type="moses" if measured == "draw" else "sudoku",
                    dataset_name="MOSES test" if measured == "draw" else "generated, held out",
                    metric_type=metric.lower().replace(" ", "-"),
                    metric_name=metric,
                    metric_value=value,
                    source_name=f"{one['command']} ({one['date']}, commit {one['commit']})",
                    source_url="https://pypi.org/project/imadarem",
                )
            )
    if results:
        made.data.model_name = f"imadarem-{name}"
        made.data.eval_results = results
    return str(made)


def _metrics(rows: list[Row]) -> list[tuple[str, float]]:
    """What the metadata of a card says: each figure by its name."""
    if "puzzles" in rows[0]:
        return [(f"solved, {row['puzzles']}, 16 steps", row["16 steps"]) for row in rows]
    drawn = next(row for row in rows if row["kind"] == "samples")
    names = {"valid": "valid", "filters": "MOSES filters", "quality": "quality", "fcd": "FCD"}
    return [(shown, drawn[key]) for key, shown in names.items() if drawn.get(key) is not None]


def rendered(found: dict[str, Row]) -> dict[Path, str]:
    """File → its text with the figures in it."""
    readme = ROOT / "README.md"
    texts = {PAGE: page(found), readme: with_figures(readme.read_text("utf-8"), headline(found))}
    for folder in shipped():
        file = folder / "README.md"
        texts[file] = card(folder.name, file.read_text(encoding="utf-8"), found)
    return texts


def load() -> dict[str, Row]:
    """The figures that were measured last, in the order of the measurements."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of names of measurements")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    given = parser.parse_args()
    found, wanted = load(), list(measurements())
    for one in [] if given.write else wanted:
        if not given.only or one.name.startswith(tuple(given.only)):
            print(f"{one.name}: python {one.command}", flush=True)
            found[one.name] = measure(one)
            print(f"    {found[one.name]['cpu_seconds']} CPU seconds", flush=True)
    kept = {one.name: found[one.name] for one in wanted if one.name in found}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for file, text in rendered(kept).items():
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
