"""Record what the shipped models compute, and check later code against the record.

    python scripts/golden.py out/golden.npz            # record with the present code
    python scripts/golden.py out/golden.npz --check    # compare: exit code 1 on a difference
    python scripts/golden.py tests/golden.json --rows  # the few rows of tests/test_golden.py

For each shipped model: one forward pass over fixed canvases; 150 free samples and 150 infills
by each of six policies, with the gate, the halting probability and the quality of every step;
the loss and the gradient of one training batch; the bound on the likelihood of a few rows and
their exact likelihood from left to right; for sudoku, the orchestrator's inference and
three of its training steps. Token ids, steps and stopping reasons must be equal; probabilities
may differ by 1e-5. A record holds for one kind of processor: record and check on the same one.

The rows of the test hold on every processor: recorded are those that stay the same when every
weight is changed by a hundred-thousandth of itself, ten times as much as processors differ by.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imadarem import ImplicitRefinementModel, OrchestrationConfig, UnifiedRefinerOrchestrator
from imadarem.data.sudoku import encode_puzzles, generate
from imadarem.evaluation.likelihood import row_bounds
from imadarem.evaluation.ordered_likelihood import ordered_log_likelihood
from imadarem.sampling.loop import Step
from imadarem.sampling.policies import POLICIES as ALL_POLICIES

MODELS = ("selfies", "smiles", "sudoku")
POLICIES = ("gate", "gate-adaptive", "gate-in-place", "entropy-bound", "margin", "left-to-right")
ROWS, STEPS, SEED = 150, 6, 7
#: Largest difference of a probability, or of a loss relative to its size.
TOLERANCE = 1e-5
#: Rows of the test for each policy, their steps, and how their stability is tried.
TEST_ROWS, TEST_STEPS, TRIALS, CHANGE = 6, 3, 3, 1e-5
#: Rows of the test whose likelihood is recorded.
SCORED_ROWS = 3
TEST_POLICIES = {
    "selfies": ("gate", "margin", "left-to-right"),
    "smiles": tuple(ALL_POLICIES),
    "sudoku": tuple(ALL_POLICIES),
}
Record = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true", help="compare with the file")
    parser.add_argument("--rows", action="store_true", help="record rows for the test")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.check:
        with np.load(given.file) as stored:
            sys.exit(check(given.models, {name: stored[name] for name in stored.files}))
    if given.rows:
        stable = {name: stable_rows(name) for name in MODELS}
        given.file.write_text(json.dumps(stable, separators=(",", ":")) + "\n", encoding="utf-8")
        return
    found: Record = {}
    for name in given.models:
        model = ImplicitRefinementModel.from_pretrained(name)
        prompts = new_prompts(name, model)
        found[f"{name}/prompts"] = prompts
        found |= dict(record(name, model, prompts))
    given.file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.file, **found)
    print(f"{len(found)} arrays of {len(given.models)} models in {given.file}")


def check(models: Iterable[str], stored: Record) -> int:
    """Print every array that differs; 1 if one does."""
    differing = 0
    for name in models:
        model = ImplicitRefinementModel.from_pretrained(name)
        compared, worst = 0, 0.0
        for key, now in record(name, model, stored[f"{name}/prompts"]):
            compared += 1
            difference = compare(stored[key], now)
            if isinstance(difference, str):
                differing += 1
                print(f"DIFFERENT {key}: {difference}")
            else:
                worst = max(worst, difference)
        print(f"{name}: {compared} arrays compared; largest difference {worst:.1e}")
    print("DIFFERENT" if differing else "equal")
    return int(differing > 0)


def compare(before: np.ndarray, now: np.ndarray) -> float | str:
    """The largest difference within the tolerance, or what is wrong."""
    if before.shape != now.shape:
        return f"shape {before.shape} became {now.shape}"
    if before.dtype.kind in "iu":
        rows = int((before != now).reshape(len(before), -1).any(axis=1).sum())
        return f"{rows} of {len(before)} rows have other values" if rows else 0.0
    if not (np.isnan(before) == np.isnan(now)).all():
        return "other positions have a value"
    scale = np.maximum(1.0, np.abs(np.nan_to_num(before)))
    worst = float(np.nan_to_num(np.abs(before - now) / scale).max(initial=0.0))
    return worst if worst <= TOLERANCE else f"differs by up to {worst:.1e}"


def record(
    name: str, model: ImplicitRefinementModel, prompts: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Everything that is recorded of a model, as key and array."""
    ids = torch.from_numpy(prompts)
    for key, array in forward_pass(model, ids).items():
        yield f"{name}/forward/{key}", array
    for policy in POLICIES:
        if name != "sudoku":
            yield from sampled(f"{name}/{policy}/sample", model, None, policy)
        yield from sampled(f"{name}/{policy}/infill", model, ids, policy)
    yield from masked_loss(name, model, ids)
    written = model.infill([row[row != model.special.pad].tolist() for row in ids[:8]], seed=SEED)
    for kind, nats in likelihoods(model, [row.ids.tolist() for row in written.rows]).items():
        yield f"{name}/likelihood/{kind}", np.array(nats)
    if name == "sudoku":
        yield from orchestrated(model, ids)


def new_prompts(name: str, model: ImplicitRefinementModel) -> np.ndarray:
    """``(ROWS, L)`` canvases with blanks, padded on the right."""
    special = model.special
    if name == "sudoku":
        puzzles = [generate(9, givens=30, seed=seed) for seed in range(ROWS)]
        return encode_puzzles(puzzles).inputs.numpy()
    rng = np.random.default_rng(SEED)
    drawn = model.sample(ROWS, policy="left-to-right", steps=1, seed=99)
    rows = [row.ids.numpy() for row in drawn.rows]
    prompts = np.full((ROWS, max(map(len, rows))), special.pad, dtype=np.int64)
    for prompt, row in zip(prompts, rows, strict=True):
        prompt[: len(row)] = row
        width = rng.integers(1, max(2, len(row) // 2))
        start = rng.integers(0, len(row) - width + 1)
        prompt[start : start + width] = special.mask
        prompt[: len(row)][rng.random(len(row)) < 0.1] = special.mask
    return prompts


@torch.no_grad()
def forward_pass(model: ImplicitRefinementModel, ids: Tensor) -> Record:
    """One pass over the prompts: probabilities where a token is real."""
    real = ids != model.special.pad
    output = model(ids, real)
    found = {
        "probs": output.logits.softmax(dim=-1)[real],
        "gate": output.gate_logits.sigmoid()[real],
    }
    if output.halt_logits is not None:
        found["halt"] = output.halt_logits.sigmoid()
    return {key: value.numpy() for key, value in found.items()}


def sampled(
    key: str, model: ImplicitRefinementModel, ids: Tensor | None, policy: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of one policy, with what every step said about them."""
    shape = (STEPS, ROWS, model.config.max_seq_len)
    gate, halt = np.full(shape, np.nan, np.float32), np.full(shape[:2], np.nan, np.float32)

    def observe(numbers: Tensor, step: Step) -> None:
        rows, width = numbers[step.rows].numpy(), step.canvas.ids.shape[1]
        # The gate means something where a token of the model stood before the step.
        standing = (step.canvas.written & ~step.refined) | step.remasked
        gate[step.step - 1, rows, :width] = step.gate.masked_fill(~standing, torch.nan).numpy()
        if step.halt is not None:
            halt[step.step - 1, rows] = step.halt.numpy()

    how = {"steps": STEPS, "policy": policy, "seed": SEED, "on_step": observe}
    if ids is None:
        samples = model.sample(ROWS, **how)
    else:
        pad = model.special.pad
        samples = model.infill([row[row != pad].tolist() for row in ids], **how)
    tokens = np.full(shape[1:], -1, np.int64)
    for row, sample in zip(tokens, samples.rows, strict=True):
        row[: len(sample.ids)] = sample.ids.numpy()
    yield f"{key}/tokens", tokens
    yield f"{key}/steps", np.array([row.steps for row in samples.rows])
    yield f"{key}/reasons", np.array([int(row.reason) for row in samples.rows])
    yield f"{key}/quality", np.array([row.quality for row in samples.rows], np.float32)
    yield f"{key}/gate", gate
    if model.config.halting:
        yield f"{key}/halt", halt


def masked_loss(
    name: str, model: ImplicitRefinementModel, ids: Tensor
) -> Iterator[tuple[str, np.ndarray]]:
    """The loss of one masked batch, and the norm of its gradient."""
    student = ImplicitRefinementModel(model.config, tokenizer=model.tokenizer)
    student.load_state_dict(model.state_dict())
    any_token = 3
    data = ids.masked_fill(ids == model.special.mask, any_token)
    real = ids != model.special.pad
    terms = student.loss(data, real, generator=torch.Generator().manual_seed(SEED))
    terms.total.backward()
    squares = sum(float((p.grad**2).sum()) for p in student.parameters() if p.grad is not None)
    yield f"{name}/loss", np.array([float(terms.total.detach()), squares**0.5])


def likelihoods(model: ImplicitRefinementModel, rows: list[list[int]]) -> dict[str, list[float]]:
    """Nats of each row: the bound over all orders, and -log p from left to right in 3 passes."""
    bound = row_bounds(model, rows, model.special, canvases=4, seed=SEED)
    exact = -ordered_log_likelihood(model, rows, model.special, "left-to-right", steps=TEST_STEPS)
    return {"bound": bound.tolist(), "left-to-right": exact.tolist()}


def orchestrated(model: ImplicitRefinementModel, ids: Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """Inference with reinjection, votes, and three training steps."""
    torch.manual_seed(SEED)
    config = OrchestrationConfig(
        canvas_edit_strategies=["replace"],
        augmentation_strategies=[],
        adaptive_edit_selection=False,
        max_steps_train=8,
        backprop_truncate_steps=2,
    )
    student = ImplicitRefinementModel(model.config, tokenizer=model.tokenizer)
    student.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    orchestrator = UnifiedRefinerOrchestrator(student, model.tokenizer, None, config)
    found = orchestrator.inference(ids, max_steps_override=16)
    yield "sudoku/orchestrator/tokens", found["output_ids"].numpy()
    yield "sudoku/orchestrator/steps", np.array(found["steps_taken"])
    yield "sudoku/orchestrator/halt", np.array(found["halt_confidence"], np.float32)
    yield "sudoku/orchestrator/quality", np.array(found["final_canvas_scores"], np.float32)
    labels = found["output_ids"]
    losses = []
    for start in (0, 16, 32):
        rows = slice(start, start + 16)
        batch = {"input_ids": ids[rows], "labels": labels[rows]}
        losses.append(float(orchestrator.train_step(batch, optimizer)["loss"]))
    yield "sudoku/orchestrator/losses", np.array(losses)


def stable_rows(name: str) -> dict[str, Any]:
    """A model's prompts, and for each policy the rows that small changes of weights leave alone."""
    model = ImplicitRefinementModel.from_pretrained(name)
    pad = model.special.pad
    prompts = [row[row != pad].tolist() for row in torch.from_numpy(new_prompts(name, model))]
    kinds = [prompts[:TEST_ROWS]] if name == "sudoku" else [None, prompts[:TEST_ROWS]]
    cases = [(policy, kind) for policy in TEST_POLICIES[name] for kind in kinds]
    found = [rows_of(model, *case) for case in cases]
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(TRIALS):
        changed = ImplicitRefinementModel.from_pretrained(name)
        with torch.no_grad():
            for weight in changed.parameters():
                weight.mul_(1 + CHANGE * torch.randn(weight.shape, generator=generator))
        for rows, case in zip(found, cases, strict=True):
            for number, row in enumerate(rows_of(changed, *case)):
                if rows[number] is not None and row["ids"] != rows[number]["ids"]:
                    rows[number] = None
    listed = [
        {"policy": policy, "infill": kind is not None, "rows": rows}
        for (policy, kind), rows in zip(cases, found, strict=True)
    ]
    kept = sum(row is not None for case in listed for row in case["rows"])
    print(f"{name}: {kept} of {TEST_ROWS * len(cases)} rows are stable")
    scored = [row["ids"] for row in listed[0]["rows"] if row is not None][:SCORED_ROWS]
    nats = {kind: [round(x, 5) for x in row] for kind, row in likelihoods(model, scored).items()}
    return {"prompts": prompts[:TEST_ROWS], "cases": listed, "scored": scored, "nats": nats}


def rows_of(
    model: ImplicitRefinementModel, policy: str, prompts: list[list[int]] | None
) -> list[dict[str, Any] | None]:
    """Token ids and quality of each row."""
    how = {"steps": TEST_STEPS, "policy": policy, "seed": SEED}
    samples = model.sample(TEST_ROWS, **how) if prompts is None else model.infill(prompts, **how)
    return [{"ids": row.ids.tolist(), "quality": round(row.quality, 6)} for row in samples.rows]


if __name__ == "__main__":
    main()
