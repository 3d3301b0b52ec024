"""Infilling molecules: valid, exact and close to the data, by where the blanks are.

    python benchmarks/infilling.py --models smiles default
    python benchmarks/infilling.py --models smiles runs/mine/model --n 300 --no-fcd

Each row of the table blanks a share of the tokens of the same ``n`` molecules of MOSES'
scaffold-test split and fills them once, in one pass by default. ``--width 4`` keeps one of four
candidates, chosen by the model's judge, with ``--verify`` by RDKit first:

- *end*: the last tokens; *window*: one run with data on both sides; *two windows*: two such
  runs of half the size; *scattered*: single positions, drawn uniformly;
- *gap*: the window as ``<gap>``, a hole of 0 to 16 tokens; for models that know such holes.

Columns: valid (RDKit), exact (the molecule that was blanked), FCD of the valid ones to the
MOSES test set less its bias of 1244/n, share of the valid that passes MOSES' filters, and
tokens written less tokens blanked, in the mean. The row *data* is the molecules themselves.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from pareto import reference

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import canonical
from imadarem.data.moses import fetch_moses, load_split
from imadarem.evaluation.molecules import Reference, evaluate_molecules

#: FCD(n) of rows from the reference's own distribution is about this over n.
BIAS = 1244


@dataclass(frozen=True)
class Row:
    """One kind of blanks at one share, one model and one seed."""

    model: str
    kind: str
    share: float
    seed: int
    valid: float
    exact: float
    fcd: float | None
    filters: float
    extra_tokens: float


def end(length: int, count: int, rng: random.Random) -> set[int]:
    """The last ``count`` of ``length`` positions."""
    return set(range(length - count, length))


def window(length: int, count: int, rng: random.Random) -> set[int]:
    """One run that leaves data on both sides."""
    start = rng.randint(1, length - count - 1)
    return set(range(start, start + count))


def two_windows(length: int, count: int, rng: random.Random) -> set[int]:
    """Two runs of half the size with data between them and on both sides."""
    first = count // 2
    shown = sorted(rng.sample(range(1, length - count), 2))
    second = shown[1] + first
    return {*range(shown[0], shown[0] + first), *range(second, second + count - first)}


def scattered(length: int, count: int, rng: random.Random) -> set[int]:
    """Single positions, drawn uniformly."""
    return set(rng.sample(range(length), count))


KINDS: dict[str, Callable[[int, int, random.Random], set[int]]] = {
    "end": end,
    "window": window,
    "two windows": two_windows,
    "scattered": scattered,
    "gap": window,
}


def prompts(
    model: ImplicitRefinementModel, molecules: list[str], kind: str, share: float, seed: int
) -> Iterator[tuple[list[int], int]]:
    """Token ids of each molecule with blanks, and its number of tokens."""
    rng = random.Random(f"{kind} {share} {seed}")
    mask = model.special.mask
    for molecule in molecules:
        ids = list(model.tokenizer.encode(molecule))
        hidden = KINDS[kind](len(ids), max(round(share * len(ids)), 2), rng)
        if kind == "gap":
            first, hole = min(hidden), model.encode_prompt("<gap>")
            yield [*ids[:first], *hole, *ids[first + len(hidden) :]], len(ids)
        else:
            yield [mask if at in hidden else token for at, token in enumerate(ids)], len(ids)


def measured(
    name: str,
    model: ImplicitRefinementModel,
    molecules: list[str],
    target: Reference | None,
    kind: str,
    share: float,
    options: argparse.Namespace,
    seed: int,
) -> Row:
    """Fill the blanks of one kind and compare with the data."""
    rows, lengths = zip(*prompts(model, molecules, kind, share, seed), strict=True)
    filled = model.infill(
        rows,
        steps=options.passes,
        policy=options.policy,
        seed=seed,
        width=options.width,
        verifier=canonical if options.verify else None,
        temperature=options.temperature,
        best_of=options.best_of,
    )
    texts = [canonical(text) for text in filled.texts]
    extra = sum(len(row.ids) - n for row, n in zip(filled.rows, lengths, strict=True))
    exact = sum(a == b for a, b in zip(texts, molecules, strict=True))
    valid = [text for text in texts if text is not None]
    fcd, filters = closeness(valid, target)
    return Row(
        model=name,
        kind=kind,
        share=share,
        seed=seed,
        valid=len(valid) / len(texts),
        exact=exact / len(texts),
        fcd=fcd,
        filters=filters,
        extra_tokens=extra / len(texts),
    )


def closeness(valid: list[str], target: Reference | None) -> tuple[float | None, float]:
    """FCD less its bias (None without a reference), and the share that passes the filters."""
    report = evaluate_molecules(valid, reference=target, fcd=target is not None)
    fcd = None if report.fcd is None else report.fcd - BIAS / len(valid)
    assert report.filters is not None
    return fcd, report.filters


def shown(row: Row) -> str:
    """A row of the table in Markdown."""
    fcd = "–" if row.fcd is None else f"{row.fcd:.2f}"
    return (
        f"| {row.model} | {row.kind} | {row.share:.0%} | {row.seed} | {row.valid:.1%} "
        f"| {row.exact:.1%} | {fcd} | {row.filters:.1%} | {row.extra_tokens:+.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["smiles"])
    parser.add_argument("--n", type=int, default=1000, help="molecules")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.3, 0.15])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--policy", default="left-to-right")
    parser.add_argument("--width", type=int, default=1, help="candidates of each row")
    parser.add_argument("--verify", action="store_true", help="RDKit chooses among them")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--best-of", type=int, help="draws of a pass; default: the model's")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--no-fcd", action="store_true", help="leave the FCD out")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    options = parser.parse_args()

    target = None if options.no_fcd else reference()
    scaffolds = load_split(fetch_moses(), "test_scaffolds")
    drawn = random.Random(0).sample(scaffolds, options.n)
    molecules = [text for text in map(canonical, drawn) if text is not None]
    fcd, filters = closeness(molecules, target)
    rows = [Row("data", "–", 0.0, 0, 1.0, 1.0, fcd, filters, 0.0)]
    if not options.json:
        print("| model | blank | share | seed | valid | exact | FCD | Filters | extra tokens |")
        print("|---|---|---|---|---|---|---|---|---|")
    report = (lambda row: print(json.dumps(asdict(row)))) if options.json else print_row
    report(rows[0])
    for name in options.models:
        model = ImplicitRefinementModel.from_pretrained(name)
        for kind in options.kinds:
            if kind == "gap" and model.special.nothing is None:
                continue
            for share in options.shares:
                for seed in range(options.seeds):
                    report(measured(name, model, molecules, target, kind, share, options, seed))


def print_row(row: Row) -> None:
    print(shown(row), flush=True)


if __name__ == "__main__":
    main()
