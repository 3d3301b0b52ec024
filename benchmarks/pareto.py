"""Quality against total forward passes, for every policy on the same weights.

    python benchmarks/pareto.py --model default --n 2000 --passes 4 6 8 12 24 --seeds 3

Each row: FCD to the MOSES test set (published statistics where the wheel is in the cache,
see ``imadarem data moses``; else the shipped test molecules), share that passes MOSES'
filters, uniqueness, internal diversity; mean over the seeds, and the half-width of the
range. A policy that asks a teacher gets half as many steps: passes are what is equal. FCD
depends on n: compare within one table, beside its row of as many real molecules.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace

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
    Confidence,
    EntropyBound,
    EntropyThreshold,
    Gate,
    Policy,
    policy_from_name,
)


@dataclass(frozen=True)
class Row:
    """One policy at one number of passes and one seed."""

    policy: str
    passes: int
    seed: int
    mean_passes: float
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
    """``gate``, ``confidence@0.5`` (Gumbel scale), ``gate@0.3:0.5`` (fraction and scale), …"""
    kind, _, setting = name.partition("@")
    if not setting:
        return policy_from_name(kind, model.config)
    values = [float(value) for value in setting.split(":")]
    if kind == "confidence":
        return Confidence(gumbel=values[0])
    if kind == "gate":
        return Gate(fraction=values[0], gumbel=values[-1] if len(values) > 1 else 1.0)
    if kind == "entropy-bound":
        return EntropyBound(gamma=values[0])
    if kind == "entropy":
        return EntropyThreshold(values[0])
    raise SystemExit(f"{kind} takes no setting here")


def measure(
    model: ImplicitRefinementModel,
    name: str,
    passes: int,
    seed: int,
    options: argparse.Namespace,
    target: Reference,
) -> Row:
    policy = named_policy(name, model)
    steps = max(1, passes // 2) if policy.uses_teacher and model.teacher is not None else passes
    samples = model.sample(
        options.n, steps=steps, policy=policy, seed=seed, temperature=options.temperature
    )
    report = evaluate_molecules(
        samples.texts, reference=target, fcd=True, processes=options.processes
    )
    mean_passes = sum(samples.forward_passes) / len(samples)
    return Row(
        name,
        passes,
        seed,
        mean_passes,
        report.fcd or float("nan"),
        report.filters or 0.0,
        report.unique or 0.0,
        report.int_div or 0.0,
    )


def real_row(n: int, target: Reference, processes: int) -> str:
    molecules = random.Random(0).sample(load_moses_sample("train"), min(n, 15_000))
    report = evaluate_molecules(molecules, reference=target, fcd=True, processes=processes)
    return (
        f"{'real molecules':<22}{'':>7}{'':>7}{report.fcd:>8.2f}{'':>7}"
        f"{report.filters:>9.3f}{report.unique:>8.3f}{report.int_div:>8.3f}"
    )


def line(rows: list[Row]) -> str:
    def mean(name: str) -> float:
        return sum(getattr(row, name) for row in rows) / len(rows)

    fcds = [row.fcd for row in rows]
    return (
        f"{rows[0].policy:<22}{rows[0].passes:>7}{mean('mean_passes'):>7.2f}{mean('fcd'):>8.2f}"
        f"{(max(fcds) - min(fcds)) / 2:>7.2f}{mean('filters'):>9.3f}{mean('unique'):>8.3f}"
        f"{mean('int_div'):>8.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="default")
    parser.add_argument("--policies", nargs="+", default=sorted(POLICIES))
    parser.add_argument("--passes", nargs="+", type=int, default=[4, 6, 8, 12, 24])
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=None)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", help="also append the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ImplicitRefinementModel.from_pretrained(options.model)
    model.config = replace(model.config, stop_threshold=0.0)
    target = reference()
    print(f"{options.n} samples, FCD to {target.name}, {options.seeds} seed(s)")
    head = f"{'policy':<22}{'passes':>7}{'mean':>7}{'FCD':>8}{'+-':>7}{'Filters':>9}"
    print(head + f"{'unique':>8}{'IntDiv':>8}")
    print(real_row(options.n, target, options.processes), flush=True)
    for passes in options.passes:
        for name in options.policies:
            rows = [
                measure(model, name, passes, seed, options, target) for seed in range(options.seeds)
            ]
            print(line(rows), flush=True)
            if options.json:
                with open(options.json, "a", encoding="utf-8") as file:
                    file.writelines(json.dumps(vars(row)) + "\n" for row in rows)


if __name__ == "__main__":
    main()
