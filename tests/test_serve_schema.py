"""Requests made up from the server's own description, good and bad: none finds a 5xx."""

from __future__ import annotations

from itertools import product

import pytest
import schemathesis
from cli_parts import SIXTY, saved_model
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks
from serve_parts import running

from imadarem.serve.limits import MOST_SAMPLES, MOST_STEPS
from imadarem.tokenizers import SelfiesTokenizer

REFUSED = {"expected-statuses": [400, 404, 413, 415, 422]}


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = saved_model(folder, SelfiesTokenizer.from_corpus(SIXTY), SIXTY)
    with running("--model", model, "--model", "sudoku", PYTHONWARNINGS="error") as served:
        config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": REFUSED}})
        yield schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config)


def says_what_is_wrong(ctx, response, case) -> None:
    """Every refusal has one shape, with words in it."""
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error["code"] and error["hint"]
        assert len(error["message"].split()) > 2


LEGAL = {"count": MOST_SAMPLES, "steps": MOST_STEPS}


def keep_it_short(body) -> None:
    """1,000 samples of 256 steps are legal; a few show as much."""
    for name in ("count", "steps"):
        if isinstance(body, dict) and type(body.get(name)) is int:
            body[name] = 9 if 9 < body[name] <= LEGAL[name] else body[name]


TAKING = [f"/v1/{name}" for name in ("sample", "infill", "trace", "solve", "draw")]
TELLING = ["/v1/models", "/healthz", "/metrics"]
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "mode"),
    [*product(TAKING, [POSITIVE, NEGATIVE]), *product(TELLING, [POSITIVE])],
)
def test_no_request_finds_a_failure(described, route, mode):
    (operation,) = described[route].values()

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case):
        keep_it_short(case.body)
        case.call_and_validate(
            timeout=60,
            additional_checks=[says_what_is_wrong],
            # That a text reads as a prompt, a puzzle or a molecule no schema can say: such a
            # request fits the description and is refused all the same.
            excluded_checks=checks.CHECKS.get_by_names(["positive_data_acceptance"]),
        )

    attempt()
