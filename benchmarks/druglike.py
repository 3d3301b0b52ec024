"""Samples of a model beside held-out molecules of its data: what is drawn as often as it should be.

    python benchmarks/druglike.py --model druglike --data druglike.smi.gz --split-seed 22
    python benchmarks/druglike.py --model smiles --data moses-sample --n 1000

One pass a draft, invalid rows stay; ``--width`` candidates of a row at most, which the judge
accepts or not. The held-out molecules (``--split-seed`` is the seed of
the training run) are halved: one half is the reference of the FCD, ``n`` of the other are the
last row. Columns: valid (RDKit); FCD of the valid ones; shares of the valid ones with a defined
stereo centre or double bond, with a charged atom, with a halogen, with a ring system that a
sample of ChEMBL does not have, with an alert of the ChEMBL catalogue; tokens in the mean, and
those of the longest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import canonical, parse
from imadarem.data.prepare import read_texts
from imadarem.design.filters import Filters
from imadarem.design.rings import new_ring_systems
from imadarem.evaluation.molecules import Reference, evaluate_molecules

HALOGENS = {9, 17, 35, 53}
ALERTS = Filters.of(alerts="CHEMBL")

TRAITS: dict[str, Callable[[str, Any], bool]] = {
    "stereo": lambda smiles, molecule: any(mark in smiles for mark in "@/\\"),
    "charged": lambda smiles, molecule: any(a.GetFormalCharge() for a in molecule.GetAtoms()),
    "halogen": lambda smiles, molecule: any(
        a.GetAtomicNum() in HALOGENS for a in molecule.GetAtoms()
    ),
    "new rings": lambda smiles, molecule: bool(new_ring_systems(molecule)),
    "alerts": lambda smiles, molecule: ALERTS.rejection_reason(smiles) is not None,
}


def row(
    name: str,
    texts: Sequence[str | None],
    lengths: Sequence[int],
    passes: float,
    reference: Reference,
) -> dict[str, Any]:
    """The figures of one set of molecules."""
    valid = [form for text in texts if text and (form := canonical(text)) is not None]
    molecules = [parse(form) for form in valid]
    shares = {
        trait: sum(map(holds, valid, molecules)) / len(valid) for trait, holds in TRAITS.items()
    }
    return {
        "molecules": name,
        "n": len(texts),
        "row-passes": passes,
        "valid": len(valid) / len(texts),
        "fcd": evaluate_molecules(valid, reference=reference, fcd=True).fcd,
        **shares,
        "mean tokens": sum(lengths) / len(lengths),
        "longest": max(lengths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="the molecules it was trained on")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--width", type=int, default=1, help="candidates of a row, at most")
    parser.add_argument("--out", type=Path, help="the rows as JSON")
    options = parser.parse_args()

    model = ImplicitRefinementModel.from_pretrained(options.model)
    held_out = read_texts(options.data, seed=options.split_seed).valid
    half = len(held_out) // 2
    reference = Reference.from_smiles(held_out[half:], name="held out", fcd=True)
    n = min(options.n, half)
    drawn = model.sample(
        n,
        steps=options.steps,
        policy="left-to-right",
        seed=options.seed,
        temperature=options.temperature,
        width=options.width,
    )
    lengths = [len(row.ids) for row in drawn.rows]
    rows = [
        row(options.model, drawn.texts, lengths, fmean(drawn.forward_passes), reference),
        row("held out", held_out[:n], lengths_in(model, held_out[:n]), 0.0, reference),
    ]
    columns = list(rows[0])
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for found in rows:
        print("|", " | ".join(shown(found[name]) for name in columns), "|")
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


def lengths_in(model: ImplicitRefinementModel, texts: Sequence[str]) -> list[int]:
    """Tokens of each text that the model knows all tokens of."""
    found = []
    for text in texts:
        try:
            found.append(len(model.tokenizer.encode(text)))
        except ValueError:
            continue
    return found


def shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
