"""``imadarem evaluate --calibration`` and ``--likelihood``: a model on held-out rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter
from rich.text import Text

from imadarem.checks import one_of
from imadarem.cli.console import err, grid, heading, json_line, note, out, progress_bar
from imadarem.cli.models import Switch, is_molecular, load_model
from imadarem.cli.numbers import Positive
from imadarem.cli.results import share
from imadarem.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from imadarem.data.corpus import TokenCorpus
    from imadarem.evaluation.corpus_likelihood import (
        CorpusLikelihood,
        LikelihoodBound,
        OrderedLikelihood,
    )
    from imadarem.evaluation.gate_report import GateFigures, GateReport
    from imadarem.model import ImplicitRefinementModel
    from imadarem.training.judge_report import JudgeReport

ROWS, CANVASES = 500, 8
#: Batches of 250 rows that a judge is measured on.
JUDGED_BATCHES = 20


@Parameter(name="*", group=Group("Held-out data", sort_key=4))
@dataclass(frozen=True, kw_only=True)
class HeldOutFlags:
    """What to measure of a model on held-out data.

    Attributes:
        calibration: Measure whether the gate is right about the model's own tokens: AUROC
            and calibration error at every step, with --steps, --temperature and --policy. Of a
            model with a judge also whether it finds known errors, and tells rows of the data
            from the model's own.
        likelihood: Measure the masked-diffusion bound, in nats and bits per token.
        order: With --likelihood: also measure the exact likelihood of writing one token per
            pass in this order: left-to-right, confidence, margin or entropy. It takes a pass
            for each token; left-to-right with --steps takes that many passes.
        data: Held-out rows: moses-sample (5,000 test molecules in the package; the default
            for a model of molecules), moses (the test split) or a file.
        rows: Number of rows drawn from the data; default 500.
        canvases: Number of random canvases of each row, for --likelihood; default 8.
        plot: Also draw the reliability diagram of the gate in this .png file.
    """

    calibration: Switch = False
    likelihood: Switch = False
    order: str | None = None
    data: str | None = None
    rows: Positive | None = None
    canvases: Positive | None = None
    plot: Path | None = None

    @property
    def requested(self) -> bool:
        """Whether anything is to be measured on held-out rows."""
        return self.calibration or self.likelihood

    def check(self) -> None:
        """Refuse what has no effect or could not be done, before any work is done."""
        names = ("order", "data", "rows", "canvases", "plot")
        idle = [name for name in names if getattr(self, name) is not None]
        if idle and not self.requested:
            raise ConfigError(f"--{idle[0]} has no effect without --calibration or --likelihood.")
        for name in ("canvases", "order"):
            if getattr(self, name) is not None and not self.likelihood:
                raise ConfigError(f"--{name} has no effect without --likelihood.")
        if self.order is not None:
            from imadarem.evaluation.ordered_likelihood import ORDERS

            one_of("--order", self.order, ORDERS)
        if self.plot is not None and not self.calibration:
            raise ConfigError("--plot draws the calibration of the gate; add --calibration.")
        if self.plot is not None and self.plot.suffix != ".png":
            raise ConfigError(f"--plot {self.plot} must end in .png.")


HELD_OUT = HeldOutFlags()


@dataclass(frozen=True)
class Rows:
    """Encoded rows and what was kept out.

    Attributes:
        corpus: Token ids.
        source: What they were drawn from.
        left_out: Reason → how many of the rows drawn it kept out.
    """

    corpus: TokenCorpus
    source: str
    left_out: dict[str, int]


def evaluate_held_out(
    name: str,
    flags: HeldOutFlags,
    *,
    column: str | None,
    device: str | None,
    seed: int,
    sampling: dict[str, Any],
    json: bool,
) -> None:
    """Measure a model on held-out rows and print what was found.

    Args:
        name: The model.
        flags: What to measure, checked.
        column: Of a table in ``flags.data``.
        device: cpu or cuda.
        seed: Of the rows, the masks and the draws.
        sampling: ``steps``, ``temperature`` and ``policy``, None where the model decides.
        json: Print JSON Lines instead of tables.
    """
    network = load_model(name, device)
    if flags.calibration and not network.config.use_refine_gate:
        raise ConfigError(
            f"the model {name} was trained without a gate (use_refine_gate is false), so there "
            "is no gate to calibrate."
        )
    rows = _rows(network, name, flags, column, seed)
    _tell_left_out(rows)
    if flags.calibration:
        report, how = _calibration(network, rows, seed, sampling)
        judge = _judge(network, rows, seed) if network.config.judge else None
        if flags.plot is not None:
            _plot(report, flags.plot)
        if json:
            head = {"name": name, "data": rows.source, "left_out": rows.left_out, **how}
            also = {} if judge is None else {"judge": judge.to_dict()}
            json_line({"kind": "calibration", **head, **report.to_dict(), **also})
        else:
            _show_calibration(report, rows, how)
            if judge is not None:
                _show_judge(judge, rows)
    if flags.likelihood:
        bound = _likelihood(network, rows, flags.canvases, seed)
        ordered = (
            None if flags.order is None else _ordered(network, rows, flags.order, sampling["steps"])
        )
        if json:
            head = {"name": name, "data": rows.source, "left_out": rows.left_out, "seed": seed}
            exact = {} if ordered is None else {"ordered": ordered.to_dict()}
            json_line({"kind": "likelihood", **head, **bound.to_dict(), **exact})
        else:
            _show_likelihood(bound, rows, jointly=network.config.joint_size > 0)
            if ordered is not None:
                _show_ordered(ordered, rows)


def _rows(
    network: ImplicitRefinementModel,
    name: str,
    flags: HeldOutFlags,
    column: str | None,
    seed: int,
) -> Rows:
    from imadarem.data.prepare import encode_texts
    from imadarem.workers import Workers

    molecules = is_molecular(network.tokenizer)
    if flags.data is None and not molecules:
        raise ConfigError(f"the model {name} writes texts; name held-out texts with --data FILE.")
    source = flags.data or "moses-sample"
    with err().status(f"reading {source}"):
        texts, rejected = _texts(source, molecules, column)
        drawn = random.Random(seed).sample(texts, min(flags.rows or ROWS, len(texts)))
        with Workers() as workers:
            corpus, unread = encode_texts(drawn, network.tokenizer, workers)
    longest = network.config.max_seq_len
    fitting = corpus.no_longer_than(longest)
    left_out = {
        "no molecule": rejected,
        "cannot be encoded": len(unread),
        f"longer than {longest} tokens": len(corpus) - len(fitting),
    }
    return Rows(fitting, source, {reason: n for reason, n in left_out.items() if n})


def _texts(source: str, molecules: bool, column: str | None) -> tuple[list[str], int]:
    """Texts of a named set or a file, and how many lines were no molecule."""
    from imadarem.data.molecule_files import read_smiles
    from imadarem.data.moses import fetch_moses, load_moses_sample, load_split
    from imadarem.data.text import read_lines

    named = source in ("moses-sample", "moses")
    if column is not None and (named or not molecules):
        raise ConfigError("--column names a column of a table of molecules; it has no effect here.")
    if source == "moses-sample":
        return load_moses_sample("test"), 0
    if source == "moses":
        return load_split(fetch_moses(), "test"), 0
    if not molecules:
        return read_lines(source), 0
    found = read_smiles(source, column=column)
    return found.smiles, len(found.rejected)


def _canvas_length(network: ImplicitRefinementModel) -> int | None:
    config = network.config
    return config.max_seq_len if config.length_mode == "eos" else None


def _calibration(
    network: ImplicitRefinementModel, rows: Rows, seed: int, sampling: dict[str, Any]
) -> tuple[GateReport, dict[str, Any]]:
    """The report, and the settings that it was made with."""
    from imadarem.evaluation.gate_report import gate_report

    policy = sampling.get("policy") or "gate"
    settings = network.sampling_settings(**{**sampling, "policy": policy})
    with progress_bar("calibration", len(rows.corpus)) as advance:
        report = gate_report(
            network,
            rows.corpus,
            network.special,
            settings=settings,
            canvas_length=_canvas_length(network),
            teacher=network.teacher,
            seed=seed,
            on_rows=advance,
        )
    how = {
        "policy": policy,
        "max_steps": settings.steps,
        "temperature": settings.temperature,
    }
    return report, {**how, "seed": seed}


def _judge(network: ImplicitRefinementModel, rows: Rows, seed: int) -> JudgeReport:
    from imadarem.training.judge_report import ROWS as BATCH
    from imadarem.training.judge_report import judge_report
    from imadarem.training.judging import JudgeData

    with err().status("judging rows with known errors"):
        data = JudgeData(network, rows.corpus, own=max(len(rows.corpus), BATCH), seed=seed)
        return judge_report(network, data, JUDGED_BATCHES)


def _likelihood(
    network: ImplicitRefinementModel, rows: Rows, canvases: int | None, seed: int
) -> LikelihoodBound:
    from imadarem.evaluation.likelihood import likelihood_bound

    with progress_bar("likelihood", len(rows.corpus)) as advance:
        return likelihood_bound(
            network,
            rows.corpus,
            network.special,
            canvases=CANVASES if canvases is None else canvases,
            canvas_length=_canvas_length(network),
            seed=seed,
            on_rows=advance,
        )


def _ordered(
    network: ImplicitRefinementModel, rows: Rows, order: str, steps: int | None
) -> OrderedLikelihood:
    from imadarem.evaluation.ordered_likelihood import ordered_likelihood

    with progress_bar(f"likelihood, {order}", len(rows.corpus)) as advance:
        return ordered_likelihood(
            network,
            rows.corpus,
            network.special,
            order,
            steps=steps if order == "left-to-right" else None,
            canvas_length=_canvas_length(network),
            on_rows=advance,
        )


def _tell_left_out(rows: Rows) -> None:
    if rows.left_out:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in rows.left_out.items())
        note(f"left out of {rows.source}: {reasons}", style="yellow")


def _plot(report: GateReport, path: Path) -> None:
    from imadarem.evaluation.gate_report import draw_reliability

    try:
        draw_reliability(report, path)
    except MissingExtraError as error:
        note(f"{path} was not drawn: {error}", style="yellow")
        return
    note(f"drew the reliability diagram in {path}")


def _show_calibration(report: GateReport, rows: Rows, how: dict[str, Any]) -> None:
    heading("the gate on the model's own tokens")
    columns = ("step", "judged", "AUROC", "ECE", "mean gate", "wrong", "flagged")
    out().print(grid(columns, [_cells(f) for f in [*report.steps, report.pooled]]))
    line = (
        f"{report.rows:,} rows of {rows.source}, partly masked and filled in by {how['policy']} in "
        f"at most {how['max_steps']} steps at temperature {how['temperature']:g}; each step judges "
        "the tokens it reads, a wrong one differs from the data"
    )
    out().print(Text(line, "dim"))


def _show_judge(report: JudgeReport, rows: Rows) -> None:
    heading("the judge on rows with known errors")
    cells = [
        (
            f.output,
            f.kind,
            f"{f.count:,}",
            "–" if f.auroc is None else f"{f.auroc:.3f}",
            f"{f.ece:.3f}",
        )
        for f in sorted(report.figures, key=lambda f: f.output)
    ]
    out().print(grid(("output", "rows", "judged", "AUROC", "ECE"), cells))
    line = (
        f"nothing flagged in {share(report.unflagged)} of {report.clean:,} clean rows; made of "
        f"{len(rows.corpus):,} rows of {rows.source}; right tells data from refilled rows or drafts"
    )
    out().print(Text(line, "dim"))


def _cells(figures: GateFigures) -> Sequence[object]:
    shares = [share(figures.wrong), share(figures.flagged)]
    auroc = "–" if figures.auroc != figures.auroc else f"{figures.auroc:.3f}"
    step = "all" if figures.step is None else figures.step
    return (
        step,
        f"{figures.judged:,}",
        auroc,
        f"{figures.ece:.3f}",
        f"{figures.mean_gate:.3f}",
        *shares,
    )


def _show_likelihood(bound: LikelihoodBound, rows: Rows, jointly: bool) -> None:
    heading("likelihood (upper bound on the negative logarithm)")
    _print_likelihood(bound)
    line = (
        f"{bound.rows:,} rows of {rows.source}, {bound.tokens:,} tokens, {bound.canvases} canvases "
        "each; all nats divided by all tokens; one token per pass, in random order"
    )
    if jointly:
        line += (
            "; tokens of a pass drawn independently, while this model draws them jointly: for its "
            "own likelihood add --order left-to-right --steps K"
        )
    out().print(Text(line, "dim"))


def _show_ordered(ordered: OrderedLikelihood, rows: Rows) -> None:
    kind = "exact" if ordered.exact else "upper bound"
    heading(f"negative log-likelihood in the order {ordered.order} ({kind})")
    _print_likelihood(ordered)
    how = "one token per pass, in an order that depends on the canvas"
    if ordered.steps is not None:
        how = f"{ordered.steps} passes, each writes a block, from left to right"
    line = f"{ordered.rows:,} rows of {rows.source}, {ordered.tokens:,} tokens; {how}"
    out().print(Text(line, "dim"))


def _print_likelihood(figures: CorpusLikelihood) -> None:
    low, high = figures.interval
    out().print(
        grid(
            ("", ""),
            [
                ("nats per token", f"{figures.nats_per_token:.4f}"),
                ("95 % interval", "–" if low != low else f"{low:.4f} to {high:.4f}"),
                ("bits per token", f"{figures.bits_per_token:.4f}"),
                ("perplexity", f"{figures.perplexity:.3f}"),
                ("nats per row", f"{figures.nats_per_row:.2f}"),
            ],
        )
    )
