"""What the shipped models write, to the token: recorded once, the same on every processor.

``python scripts/golden.py tests/golden.json --rows`` records anew after a model was exchanged.
Rows are left out (null) where a rounding could turn a draw.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from imadarem import ImplicitRefinementModel
from imadarem.evaluation.likelihood import row_bounds
from imadarem.evaluation.ordered_likelihood import ordered_log_likelihood
from imadarem.sampling.policies import POLICIES

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
SEED, STEPS = 7, 3


@cache
def shipped(name: str) -> ImplicitRefinementModel:
    return ImplicitRefinementModel.from_pretrained(name)


CASES = [(name, case["policy"]) for name in GOLDEN for case in GOLDEN[name]["cases"]]


@pytest.mark.parametrize(("name", "policy"), dict.fromkeys(CASES))
def test_a_shipped_model_writes_what_was_recorded(name: str, policy: str) -> None:
    model, prompts = shipped(name), GOLDEN[name]["prompts"]
    cases = [case for case in GOLDEN[name]["cases"] if case["policy"] == policy]
    for case in cases:
        how: dict[str, Any] = {"steps": STEPS, "policy": policy, "seed": SEED}
        n = len(case["rows"])
        samples = model.infill(prompts, **how) if case["infill"] else model.sample(n, **how)
        for number, (row, recorded) in enumerate(zip(samples.rows, case["rows"], strict=True)):
            if recorded is not None:
                where = f"row {number}, {'infill' if case['infill'] else 'sample'}"
                assert row.ids.tolist() == recorded["ids"], where
                assert row.quality == pytest.approx(recorded["quality"], abs=1e-4), where


@pytest.mark.parametrize("name", GOLDEN)
def test_a_shipped_model_gives_rows_the_likelihood_that_was_recorded(name: str) -> None:
    model, rows, nats = shipped(name), GOLDEN[name]["scored"], GOLDEN[name]["nats"]
    bound = row_bounds(model, rows, model.special, canvases=4, seed=SEED)
    exact = ordered_log_likelihood(model, rows, model.special, "left-to-right", steps=STEPS)
    assert bound.tolist() == pytest.approx(nats["bound"], rel=1e-4, abs=1e-4)
    assert exact.neg().tolist() == pytest.approx(nats["left-to-right"], rel=1e-4, abs=1e-4)


def test_most_rows_of_every_policy_are_recorded() -> None:
    assert {policy for _, policy in CASES} == POLICIES.keys()
    rows = [row for model in GOLDEN.values() for case in model["cases"] for row in case["rows"]]
    assert sum(row is not None for row in rows) > 0.8 * len(rows)
