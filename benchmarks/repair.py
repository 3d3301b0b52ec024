"""Repair of molecules with known errors, and of broken ones of other sources, beside rivals.

    python benchmarks/repair.py --model smiles --rows 1000 --druglike druglike.smi.gz
    python benchmarks/repair.py --model smiles --tables real --real gan_invalid.smi

Four tables, in Markdown:

- *distance*: molecules of MOSES' test split (and of ``--druglike``, those on the held-out side of
  its split) with errors of 15 kinds, 0, 1, 2 or 3 edits of a token away from the molecule. Exact:
  the molecule came back token by token. An error often leaves a molecule, which no checker
  notices: *of rejected* is the exact share of the rows that RDKit does not read.
- *kind*: one error of each kind. How well the judge ranks places (AUROC over tokens and gaps, by
  an alignment with the molecule), what it flags at 0.5 (precision, recall, F0.5), and what is
  restored.
- *detectors*: AUROC of wrong tokens by kind, beside the forward passes it takes: judge, gate,
  in-place likelihood, leaving a quarter of the tokens out at a time, leaving out each alone.
- *real*: rows that RDKit refuses, of files (``--real``) and of what ``--drafts-of`` draws from
  nothing. FCD is less its bias of 1244/n; the last row of a source are its valid ones, if known.

A method's CPU time is that of one thread. Rivals are slow and take the first ``--rival-rows``
(0: none).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from infilling import closeness
from pareto import reference
from rapidfuzz.distance import Levenshtein
from repair_rivals import Method, own_methods, rival_methods
from smiles_errors import KINDS, Errors

from imadarem import ImplicitRefinementModel
from imadarem.canvas import Canvas
from imadarem.data.corpus import collate
from imadarem.data.molecules import is_molecule, split
from imadarem.data.moses import fetch_moses, load_split
from imadarem.data.text import read_lines
from imadarem.errors import DataError
from imadarem.evaluation.calibration import area_under_roc
from imadarem.evaluation.judgement import judge_rows
from imadarem.training.judging import alignment_labels

TABLES = ("distance", "kind", "detectors", "real")
Rows = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="smiles")
    parser.add_argument("--rows", type=int, default=1000, help="of each distance, kind and source")
    parser.add_argument("--rival-rows", type=int, default=50)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--druglike", type=Path, help="a file of molecules")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="files of broken rows")
    parser.add_argument("--drafts-of", default="smiles", help="a model; none: no drafts")
    parser.add_argument("--budget", type=int, default=60, help="calls of RDKit for each row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ImplicitRefinementModel.from_pretrained(options.model).eval()
    sources = {"MOSES": load_split(fetch_moses(), "test")}
    if options.druglike is not None:
        sources["drug-like"] = split(read_lines(options.druglike)[: 25 * options.rows]).valid
    rng = np.random.default_rng(options.seed)
    for name, texts in sources.items():
        rows = readable(model, [texts[n] for n in rng.permutation(len(texts))], options.rows)
        print(f"\n## {options.model}, {len(rows)} molecules of {name}\n")
        if "distance" in options.tables:
            distance_table(model, rows, options)
        if "kind" in options.tables:
            kind_table(model, rows, options)
        if "detectors" in options.tables:
            detector_table(model, rows[: options.rival_rows], options)
    if "real" in options.tables:
        real_tables(model, options)


def readable(model: Any, texts: Sequence[str], most: int) -> Rows:
    """The first ``most`` of the texts that the model's vocabulary and canvas can hold."""
    rows: Rows = []
    for text in texts:
        try:
            row = model.tokenizer.encode(text)
        except DataError:
            continue
        # Errors may lengthen a row.
        if 3 < len(row) <= model.config.max_seq_len - 3 and len(rows) < most:
            rows.append(row)
    return rows


def table(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def line(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def percent(shares: Sequence[bool] | float | None) -> str:
    if isinstance(shares, Sequence):
        shares = mean(shares) if shares else None
    return "" if shares is None else f"{100 * shares:.1f} %"


def timed(method: Method, rows: Rows) -> tuple[Rows, float, float]:
    """The rows after a method, its calls of RDKit a row, and CPU milliseconds a row."""
    start = time.process_time()
    found, calls = method(rows)
    return found, calls / len(rows), 1000 * (time.process_time() - start) / len(rows)


def distance_table(model: Any, rows: Rows, options: argparse.Namespace) -> None:
    table(
        "distance", "method", "rows", "exact", "of rejected", "valid", "changed", "calls", "CPU ms"
    )  # fmt: skip
    errors = Errors(model, options.seed + 1)
    for distance in (0, 1, 2, 3):
        broken = [errors.at_distance(row, distance) if distance else row for row in rows]
        methods = [(own_methods(model, options.budget), len(rows))]
        if distance and options.rival_rows:
            methods.append((rival_methods(model, options.budget, 0), options.rival_rows))
        for name, method, most in ((n, m, most) for part, most in methods for n, m in part.items()):
            given, truth = broken[:most], rows[:most]
            found, calls, ms = timed(method, given)
            exact = [a == b for a, b in zip(found, truth, strict=True)]
            among = [e for e, row in zip(exact, given, strict=True) if not is_valid(model, row)]
            line(
                distance, name, len(given), percent(exact), percent(among),
                percent([is_valid(model, row) for row in found]),
                percent([a != b for a, b in zip(found, given, strict=True)]),
                f"{calls:.1f}", f"{ms:.0f}",
            )  # fmt: skip


def is_valid(model: Any, row: list[int]) -> bool:
    return is_molecule(model.tokenizer.decode(row))


def with_errors(model: Any, rows: Rows, seed: int) -> Iterator[tuple[str, Rows, Rows]]:
    """Of each kind: the molecules in which it has a place, and these with one error."""
    for number, kind in enumerate(KINDS):
        errors = Errors(model, 1000 * seed + number)
        pairs = [(row, errors.one(row, kind)) for row in rows]
        found = [(row, broken) for row, broken in pairs if broken is not None]
        if found:
            yield kind, [row for row, _ in found], [broken for _, broken in found]


def kind_table(model: Any, rows: Rows, options: argparse.Namespace) -> None:
    print()
    table(
        "kind", "rows", "rejected", "AUROC", "precision", "recall", "F0.5",
        "exact: judge", "with RDKit", "valid: judge", "with RDKit",
    )  # fmt: skip
    for kind, truth, broken in with_errors(model, rows, options.seed):
        judged = judge_rows(model, broken, 256)
        labels = [alignment_labels(*pair) for pair in zip(broken, truth, strict=True)]
        wrong = np.concatenate([np.concatenate(pair) for pair in labels])
        scores = np.concatenate([[*(j.wrong or []), *(j.missing or [])] for j in judged])
        flagged = scores > 0.5
        precision = (flagged & wrong).sum() / max(flagged.sum(), 1)
        recall = (flagged & wrong).sum() / wrong.sum()
        score = 1.25 * precision * recall / max(0.25 * precision + recall, 1e-9)
        methods = own_methods(model, options.budget)
        found = [methods[name](broken)[0] for name in ("judge", "judge and RDKit")]
        exact = [[a == b for a, b in zip(part, truth, strict=True)] for part in found]
        valid = [[is_valid(model, row) for row in part] for part in found]
        line(
            kind, len(truth), percent([not is_valid(model, row) for row in broken]),
            f"{area(scores, wrong):.3f}", percent(precision), percent(recall), f"{score:.2f}",
            *map(percent, exact), *map(percent, valid),
        )  # fmt: skip


def area(scores: np.ndarray, labels: np.ndarray) -> float:
    if labels.all() or not labels.any():
        return float("nan")
    return area_under_roc(torch.from_numpy(scores), torch.from_numpy(labels))


def detector_table(model: Any, rows: Rows, options: argparse.Namespace) -> None:
    print("\nAUROC of wrong tokens; in brackets the forward passes.\n")
    length = mean(map(len, rows))
    names = (
        "judge (1)",
        "gate (1)",
        "in place (1)",
        "a quarter out (4)",
        f"one out ({length:.0f})",
    )
    table("kind", "rows", *names)
    for kind, truth, broken in with_errors(model, rows, options.seed):
        wrong = [alignment_labels(*pair)[0] for pair in zip(broken, truth, strict=True)]
        judged = judge_rows(model, broken, 256)
        scores = [
            [j.wrong or [] for j in judged],
            gate_scores(model, broken),
            [j.surprise for j in judged],
            left_out(model, broken, 4),
            left_out(model, broken, None),
        ]
        labels = np.concatenate(wrong)
        areas = [area(np.concatenate(part), labels) for part in scores]
        line(kind, len(truth), *(f"{value:.3f}" for value in areas))


@torch.no_grad()
def gate_scores(model: Any, rows: Rows) -> list[list[float]]:
    """Logits of the gate, of each token."""
    ids, inside = collate([np.asarray(row) for row in rows], model.special.pad)
    gate = model.network.judged(ids, inside)[1].tolist()
    return [logits[: len(row)] for logits, row in zip(gate, rows, strict=True)]


@torch.no_grad()
def left_out(model: Any, rows: Rows, step: int | None) -> list[list[float]]:
    """Nats of each token where it and every ``step``-th one beside it are blank; None: it alone.

    With a joint head given the tokens left of it.
    """
    found = []
    for row in rows:
        period = len(row) if step is None else step
        prompts = [
            [model.special.mask if at % period == start else token for at, token in enumerate(row)]
            for start in range(min(period, len(row)))
        ]
        canvas = Canvas.with_holes(prompts, model.special)
        targets = torch.tensor([row] * len(prompts))
        padding = canvas.ids.shape[1] - len(row)
        targets = torch.nn.functional.pad(targets, (0, padding), value=model.special.pad)
        joint = targets if model.config.joint_size else None
        output = model(canvas.ids, canvas.attention_mask, targets=joint)
        logits = output.logits if output.joint_logits is None else output.joint_logits
        nats = -canvas.log_probs(logits, may_end=False).gather(-1, targets[..., None])[..., 0]
        found.append([float(nats[at % period, at]) for at in range(len(row))])
    return found


def real_tables(model: Any, options: argparse.Namespace) -> None:
    target = reference()
    for path in options.real:
        texts = read_lines(path)
        real_table(model, path.name, texts, [], target, options)
    if options.drafts_of != "none":
        writer = ImplicitRefinementModel.from_pretrained(options.drafts_of)
        drafts = writer.sample(8 * options.rows, seed=options.seed).texts
        valid = [text for text in drafts if is_molecule(text)]
        bad = [text for text in drafts if not is_molecule(text)]
        real_table(model, f"drafts of {options.drafts_of}", bad, valid, target, options)


def real_table(
    model: Any, name: str, bad: list[str], valid: list[str], target: Any, options: Any
) -> None:
    rows = [row for row in readable(model, bad, len(bad)) if not is_valid(model, row)]
    rows = rows[: options.rows]
    print(f"\n## {name}: {len(bad)} rows, the vocabulary and RDKit leave {len(rows)}\n")
    table("method", "rows", "valid", "median edits", "Filters", "FCD", "calls", "CPU ms")
    methods = [(own_methods(model, options.budget), len(rows))]
    if options.rival_rows:
        methods.append((rival_methods(model, options.budget, 0), options.rival_rows))
    for method_name, method, most in ((n, m, k) for part, k in methods for n, m in part.items()):
        given = rows[:most]
        found, calls, ms = timed(method, given)
        pairs = [(a, b) for a, b in zip(given, found, strict=True) if is_valid(model, b)]
        edits = median([Levenshtein.distance(*pair) for pair in pairs] or [0])
        texts = [model.tokenizer.decode(row) for _, row in pairs]
        line(
            method_name, len(given), percent(len(pairs) / len(given)), f"{edits:g}",
            *close(texts, target), f"{calls:.1f}", f"{ms:.0f}",
        )  # fmt: skip
    if valid:
        line("its valid rows", len(valid[: len(rows)]), "", "", *close(valid[: len(rows)], target))


def close(texts: list[str], target: Any) -> tuple[str, str]:
    """Filters and FCD; no FCD of less than 100 molecules."""
    if not texts:
        return "–", "–"
    fcd, filters = closeness(texts, target if len(texts) >= 100 else None)
    return percent(filters), "–" if fcd is None else f"{fcd:.2f}"


if __name__ == "__main__":
    main()
