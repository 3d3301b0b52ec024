"""Train the judge of a model: which tokens are wrong, what is missing, is a row right.

    python scripts/train_judge.py --model runs/smiles/model --steps 800 --out runs/judge
    python scripts/train_judge.py --model runs/typos/fill/model --data runs/typos/data/lines.txt
        --misspellings runs/typos/data/train.tsv --steps 600 --out runs/typos/judge

The network stays as it is; the judge gets a block of its own on its states. At the end each of
its three outputs is calibrated on held-out rows, and the model is saved with its judge in
``--out``. Figures are of other held-out rows: AUROC and expected calibration error of each
output by kind of row, and the share of clean rows in which nothing is flagged. With
``--misspellings`` the errors in a model of letters are those of typing (``scripts/typos.py``).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typos import TypingErrors, read_pairs

from imadarem import ImplicitRefinementModel
from imadarem.data.prepare import prepare
from imadarem.training.judge_report import JudgeReport, fit_judge, judge_report
from imadarem.training.judging import JudgeData, judge_loss
from imadarem.training.optim import learning_rate_factor

LOG_EVERY, FIGURES_EVERY = 20, 200
#: Shares of the kinds of rows with typing errors: clean, misspelt, plausible, filled, drafts.
TYPING_SHARES = (0.42, 0.42, 0.06, 0.05, 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="smiles")
    parser.add_argument("--judge-from", help="start from the judge of this model")
    parser.add_argument("--keep-gate", action="store_true", help="train the judge alone")
    parser.add_argument("--data", default="moses")
    parser.add_argument("--misspellings", type=Path, help="lines of wrong<TAB>right")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--own", type=int, default=20_000, help="rows of each kind of its own")
    parser.add_argument("--data-seed", type=int, default=2, help="of the held-out rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    model = ImplicitRefinementModel.from_pretrained(options.model)
    if not model.config.judge:
        model = model.with_judge()
    if options.judge_from is not None:
        other = ImplicitRefinementModel.from_pretrained(options.judge_from).network
        assert model.network.judge is not None and other.judge is not None
        model.network.judge.load_state_dict(other.judge.state_dict())
        model.network.gate.load_state_dict(other.gate.state_dict())
    model.eval()
    kept = model.network.gate if options.keep_gate else None
    for part in (model.network.backbone, model.network.joint, kept):
        if part is not None:
            part.requires_grad_(False)
    prepared = prepare(options.data, tokenizer=model.tokenizer, extend=True, seed=options.data_seed)
    kinds: dict[str, Any] = {}
    if options.misspellings is not None:
        errors = TypingErrors(model.tokenizer, read_pairs(options.misspellings))
        kinds = {"errors": errors, "shares": TYPING_SHARES}
    train = JudgeData(model, prepared.train, options.own, options.seed, **kinds)
    half = len(prepared.valid) // 2
    fitted, held = (
        JudgeData(model, prepared.valid.subset(part), half, options.seed + 1 + number, **kinds)
        for number, part in enumerate((range(half), range(half, 2 * half)))  # type: ignore[arg-type]
    )
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        learned, lr=options.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )
    for step in range(1, options.steps + 1):
        factor = learning_rate_factor(step - 1, options.steps, 30, "cosine")
        optimizer.param_groups[0]["lr"] = options.learning_rate * factor
        rows = train.batch(options.batch_size)
        loss = judge_loss(*model.network.judged(rows.ids, rows.inside), rows)
        loss.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % LOG_EVERY == 0:
            terms = {
                name: round(float(getattr(loss, name).detach()), 4)
                for name in ("wrong", "missing", "right")
            }
            print(
                json.dumps({"step": step, "cpu_s": round(time.process_time()), **terms}), flush=True
            )
        if step % FIGURES_EVERY == 0 and step < options.steps:
            show(judge_report(model, held, 4))
            model.save_pretrained(options.out)
    fit_judge(model, fitted, 20, keep_gate=options.keep_gate)
    model.save_pretrained(options.out)
    show(judge_report(model, held, 40))


def show(report: JudgeReport) -> None:
    """One line for each output and kind."""
    print(f"clean rows unflagged {report.unflagged:.4f} of {report.clean}")
    for figures in report.figures:
        auroc = "–" if figures.auroc is None else f"{figures.auroc:.4f}"
        print(f"{figures.output}, {figures.kind}: AUROC {auroc}, ECE {figures.ece:.4f}", flush=True)


if __name__ == "__main__":
    main()
