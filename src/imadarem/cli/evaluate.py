"""``imadarem evaluate``: score molecules, samples of a model, or a model on held-out data."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter
from rich.text import Text

from imadarem.cli.console import err, grid, heading, json_line, note, out, progress_bar, stages
from imadarem.cli.evaluate_texts import TEXTS, TextFlags, show_texts
from imadarem.cli.held_out import HELD_OUT, HeldOutFlags, evaluate_held_out
from imadarem.cli.models import Switch, is_molecular
from imadarem.cli.numbers import Count, Positive, Processes, Seed, Steps, Temperature
from imadarem.cli.results import share
from imadarem.errors import ConfigError, DataError

if TYPE_CHECKING:
    from imadarem.evaluation.molecules import MoleculeReport, Reference
    from imadarem.sampling.trajectory import Trajectory
    from imadarem.workers import Progress

#: Samples that are scored sooner than worker processes have started.
FEW = 500
#: Field of a report → what a table calls it; shares are shown in per cent.
SHARES = {
    "valid": "valid",
    "unique": "unique (of valid)",
    "unique_1k": "unique @ 1,000",
    "unique_10k": "unique @ 10,000",
    "novelty": "novel",
    "filters": "passes MOSES' filters",
    "quality": "quality (QED ≥ 0.6, SA ≤ 4, distinct)",
}
FIGURES = {
    "int_div": "IntDiv",
    "int_div2": "IntDiv2",
    "diversity": "diversity (distinct pairs)",
    "logp": "logP, mean",
    "sa": "SA, mean",
    "qed": "QED, mean",
    "weight": "weight, mean (Da)",
    "snn": "SNN",
    "frag": "Frag",
    "scaf": "Scaf",
    "logp_distance": "logP distance",
    "sa_distance": "SA distance",
    "qed_distance": "QED distance",
    "weight_distance": "weight distance",
    "fcd": "FCD",
}


@Parameter(name="*", group=Group("Comparison", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class ComparisonFlags:
    """What to compare with.

    Attributes:
        train: Training molecules, for the novelty of samples and as the last row of the table:
            moses-sample (15,000, in the package), moses (all 1.6 million) or a file.
        reference: Held-out molecules for SNN, Frag, Scaf and the distances of the
            properties: moses-sample (5,000, in the package), moses or a file.
        fcd: Also measure FCD to the reference (slow).
        processes: Worker processes; default: one for each core, or one for small files.
    """

    train: str = "moses-sample"
    reference: str | None = None
    fcd: Switch = False
    processes: Processes | None = None


@Parameter(name="*", group=Group("Samples of a model", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class DrawnFlags:
    """How to sample from the model.

    Attributes:
        count: Number of samples; default 1000.
        steps: Maximum number of refinement passes; default: the model's setting.
        temperature: Divides the logits; default: the model's setting.
        policy: See imadarem sample --help; default: the model's setting.
        width: Candidates of each row at most, drawn until the model's judge accepts one.
        device: cpu or cuda; default: cuda if available.
    """

    count: Count | None = None
    steps: Steps | None = None
    temperature: Temperature | None = None
    policy: str | None = None
    width: Positive | None = None
    device: str | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of a pass and their number; None where the model decides."""
        return {"steps": self.steps, "temperature": self.temperature, "policy": self.policy}


COMPARISON, DRAWN = ComparisonFlags(), DrawnFlags()


def evaluate(
    file: Path | None = None,
    /,
    *,
    column: str | None = None,
    standardize: Switch = False,
    model: str | None = None,
    seed: Seed = 0,
    json: Switch = False,
    drawn: DrawnFlags = DRAWN,
    comparison: ComparisonFlags = COMPARISON,
    texts: TextFlags = TEXTS,
    held_out: HeldOutFlags = HELD_OUT,
) -> None:
    """Score a file of molecules, or samples of a model, beside as many real molecules.

    Samples of a text model, or the lines of a file with --text, get figures of texts. With
    --calibration or --likelihood, measure a model on held-out data instead.

    **Examples**

    ```
    imadarem evaluate molecules.smi
    imadarem evaluate molecules.csv --train train.csv --reference test.csv --fcd
    imadarem evaluate --model smiles -n 1000 --steps 6 --seed 0
    imadarem evaluate --model smiles --calibration --likelihood --plot gate.png
    imadarem evaluate --model runs/text/model -n 200 --policy ancestral --reference held-out.txt
    ```

    Args:
        file: .smi, .csv, .tsv, .txt or .sdf, each also with .gz, or .parquet; a line that is
            no molecule counts as an invalid sample.
        column: The column of a table that holds SMILES.
        standardize: Score the largest fragment of each molecule of the file, neutralised.
        model: Sample from this model instead of reading a file.
        seed: Seed of the sampling, and of the choice of real molecules or held-out rows.
        json: Print JSON Lines instead of a table.
    """
    held_out.check()
    if standardize and (file is None or held_out.requested):
        raise ConfigError("--standardize is for a FILE of molecules; it has no effect here.")
    if held_out.requested:
        evaluate_held_out(
            _held_out_model(file, model, drawn, comparison, held_out),
            held_out,
            column=column,
            device=drawn.device,
            seed=seed,
            sampling=drawn.sampling,
            json=json,
        )
        return
    _check(file, model, column, drawn, comparison)
    shown: dict[str, Any] = {"reference": comparison.reference, "seed": seed, "json": json}
    if texts.text and file is not None:
        from imadarem.data.text import read_lines

        show_texts(str(file), read_lines(file), texts, how={}, **shown)
        return
    if file is None:
        samples, how, molecular = _sampled(str(model), drawn, seed, comparison, texts)
        if not molecular:
            show_texts(str(model), [text or "" for text in samples], texts, how=how, **shown)
            return
    else:
        _refuse_text_flags(texts)
        samples, how = _read(file, column, standardize), {}
    ours, real = _compared(samples, seed, comparison)
    name = str(file or model)
    if json:
        json_line({"kind": "samples", "name": name, **ours.to_dict(), **how})
        json_line({"kind": "real", "name": comparison.train, **real.to_dict()})
    else:
        _show(name, ours, real, how, comparison)


def _held_out_model(
    file: Path | None,
    model: str | None,
    drawn: DrawnFlags,
    comparison: ComparisonFlags,
    held_out: HeldOutFlags,
) -> str:
    """The model to measure on held-out rows; refuses settings that have no effect there."""
    if model is None or file is not None:
        raise ConfigError(
            "--calibration and --likelihood measure a model: give --model NAME, and held-out rows "
            "with --data FILE."
        )
    idle = [name for name in ("count", "width") if getattr(drawn, name) is not None]
    idle += [k for k, v in vars(comparison).items() if v != getattr(COMPARISON, k)]
    if idle:
        raise ConfigError(f"--{idle[0]} has no effect on --calibration and --likelihood.")
    given = [k for k, v in drawn.sampling.items() if v is not None]
    in_blocks = given == ["steps"] and held_out.order == "left-to-right"
    if given and not held_out.calibration and not in_blocks:
        raise ConfigError(f"--{given[0]} has no effect on --likelihood.")
    return model


def _check(
    file: Path | None,
    model: str | None,
    column: str | None,
    drawn: DrawnFlags,
    comparison: ComparisonFlags,
) -> None:
    """Refuse settings that have no effect, before any work is done."""
    if (file is None) == (model is None):
        raise ConfigError("give either a FILE of molecules or --model NAME.")
    if model is not None and column is not None:
        raise ConfigError("--column names a column of FILE; it has no effect with --model.")
    idle = [k for k, v in vars(drawn).items() if v is not None]
    if file is not None and idle:
        raise ConfigError(f"--{idle[0]} has no effect on the file {file}; it needs --model.")
    if comparison.fcd and comparison.reference is None:
        raise ConfigError(
            "--fcd is a distance to a reference set. Add --reference moses-sample, moses or FILE."
        )


def _sampled(
    name: str, flags: DrawnFlags, seed: int, comparison: ComparisonFlags, texts: TextFlags
) -> tuple[list[str | None], dict[str, Any], bool]:
    """Samples of a model, figures of how they were drawn, and whether they are molecules."""
    from imadarem.cli.models import load_model

    network = load_model(name, flags.device)
    if is_molecular(network.tokenizer):
        _refuse_text_flags(texts)
    elif comparison.fcd:
        raise ConfigError(f"--fcd is of molecules, and the model {name} writes texts.")
    count = 1000 if flags.count is None else flags.count
    with progress_bar("sampling", count) as advance:
        start = time.perf_counter()
        drawn = network.sample(
            count,
            seed=seed,
            width=flags.width or 1,
            return_trajectory=True,
            on_rows=advance,
            **flags.sampling,
        )
        seconds = time.perf_counter() - start
    assert drawn.trajectory is not None
    how = {
        "mean_gate": _last_mean_gate(drawn.trajectory),
        "forward_passes": fmean(drawn.forward_passes),
        "samples_per_second": count / seconds,
        "device": next(network.parameters()).device.type,
    }
    return list(drawn.texts), how, is_molecular(network.tokenizer)


def _refuse_text_flags(texts: TextFlags) -> None:
    for flag in (name for name, value in vars(texts).items() if value):
        raise ConfigError(f"--{flag.replace('_', '-')} is of texts, and these are molecules.")


def _last_mean_gate(trajectory: Trajectory) -> float | None:
    """Mean over rows of the last mean gate that a step of the row has."""
    judged = []
    for row in trajectory:
        gates = [step.mean_gate for step in row.steps if step.mean_gate is not None]
        judged += gates[-1:]
    return fmean(judged) if judged else None


def _read(file: Path, column: str | None, standardized: bool) -> list[str | None]:
    """Every sample of a file; a line that is no molecule becomes None."""
    from imadarem.data.molecule_files import iter_smiles
    from imadarem.data.standardize import standardize

    with err().status(f"reading {file}"):
        items = list(iter_smiles(file, column))
    if not items:
        raise DataError(f"{file} holds no line with a molecule.")
    samples = [item if isinstance(item, str) else None for item in items]
    if broken := samples.count(None):
        note(f"{broken:,} lines are no molecule; repair them: imadarem repair --file {file}")
    if not standardized:
        return samples
    found = [None if sample is None else standardize(sample) for sample in samples]
    fragments = sum(row is not None and row.fragments for row in found)
    charges = sum(row is not None and row.charges for row in found)
    note(f"standardized: {fragments:,} with fragments removed, {charges:,} neutralised")
    return [None if row is None else row.smiles for row in found]


def _compared(
    samples: Sequence[str | None], seed: int, flags: ComparisonFlags
) -> tuple[MoleculeReport, MoleculeReport]:
    """The report of the samples, and that of as many real training molecules."""
    from imadarem.evaluation.molecules import evaluate_molecules, reference_row

    with err().status("reading the training molecules"):
        train, canonical = _molecules(flags.train, "train")
    few = len(samples) <= FEW and canonical and flags.reference is None
    processes = flags.processes or (1 if few else os.cpu_count())
    with stages() as progress:
        reference = _reference(flags, processes, progress)
        shared: dict[str, Any] = {
            "reference": reference,
            "fcd": flags.fcd,
            "processes": processes,
            "progress": progress,
        }
        ours = evaluate_molecules(samples, train=train, train_is_canonical=canonical, **shared)
        n = min(len(samples), len(train))
        return ours, reference_row(n, seed=seed, molecules=train, **shared)


def _reference(
    flags: ComparisonFlags, processes: int | None, progress: Progress
) -> Reference | None:
    if flags.reference is None:
        return None
    from imadarem.data.moses import fetch_moses, load_statistics
    from imadarem.evaluation.molecules import Reference

    if flags.reference == "moses":
        return Reference.from_moses(load_statistics(fetch_moses()))
    smiles, _ = _molecules(flags.reference, "test")
    name = {"moses-sample": "MOSES test sample"}.get(flags.reference, flags.reference)
    return Reference.from_smiles(
        smiles, name=name, fcd=flags.fcd, processes=processes, progress=progress
    )


def _molecules(source: str, split: str) -> tuple[list[str], bool]:
    """Molecules of a named set or a file, and whether they are canonical as they stand."""
    from imadarem.data.molecule_files import read_smiles
    from imadarem.data.moses import fetch_moses, load_moses_sample, load_split

    if source == "moses-sample":
        return load_moses_sample(split), True
    if source == "moses":
        return load_split(fetch_moses(), split), True
    return read_smiles(source).smiles, False


def _show(
    name: str,
    ours: MoleculeReport,
    real: MoleculeReport,
    how: dict[str, Any],
    flags: ComparisonFlags,
) -> None:
    rows: list[tuple[object, ...]] = [("molecules", f"{ours.samples:,}", f"{real.samples:,}")]
    for field, title in {**SHARES, **FIGURES}.items():
        pair = [getattr(report, field) for report in (ours, real)]
        if any(value is not None for value in pair):
            rows.append((title, *(cell(field, value) for value in pair)))
    out().print(grid(("", name, f"real ({flags.train})"), rows))
    against = f"novelty against {flags.train}"
    if ours.reference is not None:
        against += f"; SNN to FCD against {ours.reference}"
    out().print(Text(against, "dim"))
    if real.samples < ours.samples:
        out().print(
            Text(
                f"there are only {real.samples:,} real molecules, so figures that depend on the "
                "number of samples are not comparable",
                "yellow",
            )
        )
    if how:
        heading("how they were sampled")
        gate = "–" if how["mean_gate"] is None else f"{how['mean_gate']:.3f}"
        figures = [
            ("mean gate at the last step", gate),
            ("forward passes per sample", f"{how['forward_passes']:.2f}"),
            ("samples per second", f"{how['samples_per_second']:,.1f} ({how['device']})"),
        ]
        out().print(grid(("", ""), figures))


def cell(field: str, value: float | None) -> str:
    """A figure of a report as its table shows it."""
    if value is None:
        return "–"
    if field in SHARES:
        return share(value)
    return f"{value:.1f}" if field == "weight" else f"{value:.3f}"
