"""Generated requests, valid and invalid, from the OpenAPI description: none is answered 5xx."""

from __future__ import annotations

from itertools import product

import pytest
from cli_parts import SIXTY, saved_model
from hypothesis import HealthCheck, given, settings
from running_server import server_thread

from imadarem.serve.limits import MAX_SAMPLES, MAX_STEPS
from imadarem.tokenizers import SelfiesTokenizer

ERROR_STATUSES = {"expected-statuses": [400, 404, 413, 415, 422, 431]}


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = saved_model(folder, SelfiesTokenizer.from_corpus(SIXTY), SIXTY)
    # Loaded by the process that runs these tests alone: it takes a second.
    import schemathesis

    checks = {"negative_data_rejection": ERROR_STATUSES}
    with server_thread(model, "sudoku") as server:
        config = schemathesis.Config.from_dict({"checks": checks})
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config)


def check_error_shape(ctx, response, case) -> None:
    """Every error has one shape, and a message of several words."""
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error["code"] and error["hint"]
        assert len(error["message"].split()) > 2


LEGAL = {"count": MAX_SAMPLES, "steps": MAX_STEPS}


def shorten(body) -> None:
    """1,000 samples of 256 steps are legal; few samples test the same code."""
    for name in ("count", "steps"):
        if isinstance(body, dict) and type(body.get(name)) is int:
            body[name] = 9 if 9 < body[name] <= LEGAL[name] else body[name]


POST_NAMES = ("sample", "infill", "trace", "solve", "judge", "repair", "draw")
POST_ROUTES = [f"/v1/{name}" for name in POST_NAMES]
GET_ROUTES = ["/v1/models", "/healthz", "/metrics"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "mode"),
    [*product(POST_ROUTES, ["positive", "negative"]), *product(GET_ROUTES, ["positive"])],
)
def test_no_generated_request_is_answered_5xx(described, route, mode):
    from schemathesis import GenerationMode, checks

    (operation,) = described[route].values()

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def attempt(case):
        shorten(case.body)
        case.call_and_validate(
            timeout=60,
            additional_checks=[check_error_shape],
            # A schema cannot say which texts are prompts, puzzles or molecules: a request may
            # match the description and still be an error.
            excluded_checks=checks.CHECKS.get_by_names(["positive_data_acceptance"]),
        )

    attempt()
