"""Judging and repairing over HTTP: the library's answers, its limits, and clients that leave."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from running_server import ServerAddress, metric, server_thread

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import is_molecule

#: A branch that is not closed, a ring that is not closed, and a molecule.
ROWS = ["CCN(CCc1ccccc1", "CC(=O)Nc1cccc(Cl)c2", "CC(=O)Nc1ccc(O)cc1"]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerAddress]:
    with server_thread("smiles", "sudoku") as address:
        yield address


@pytest.fixture(scope="module")
def client(server: ServerAddress) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def smiles() -> ImplicitRefinementModel:
    return ImplicitRefinementModel.from_pretrained("smiles")


def answered(client: httpx.Client, route: str, **body: object) -> list[dict]:
    answer = client.post(f"/v1/{route}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def test_judgements_are_those_of_the_library(client, smiles):
    for row, judgement in zip(
        answered(client, "judge", rows=ROWS), smiles.judge(ROWS), strict=True
    ):
        assert "".join(row["tokens"]) == row["text"]
        assert (row["replacements"], row["insertions"]) == (None, None)
        for name in ("surprise", "wrong", "missing", "right"):
            assert row[name] == pytest.approx(getattr(judgement, name))


def test_the_likely_tokens_of_each_place_are_listed_on_request(client):
    (row,) = answered(client, "judge", rows=[ROWS[2]], alternatives=2)
    assert len(row["replacements"]) == len(row["tokens"])
    assert len(row["insertions"]) == len(row["tokens"]) + 1
    for listed in [*row["replacements"], *row["insertions"]]:
        first, second = (each["probability"] for each in listed)
        assert 1 >= first >= second > 0 and first + second < 1 + 1e-6
    # The last token of a paracetamol closes the ring: the token is nearly certain.
    assert row["replacements"][-1][0]["token"] == "1"


@pytest.mark.parametrize("check", ["none", "rdkit"])
def test_repairs_are_those_of_the_library_alone_and_together(client, smiles, check):
    checker = is_molecule if check == "rdkit" else None
    expected = smiles.repair(ROWS, checker=checker, budget=30, threshold=0.4)
    bodies = [{"rows": [row], "check": check, "budget": 30, "threshold": 0.4} for row in ROWS]
    with ThreadPoolExecutor(3) as pool:
        alone = [
            rows[0] for rows in pool.map(lambda body: answered(client, "repair", **body), bodies)
        ]
    together = answered(client, "repair", rows=ROWS, check=check, budget=30, threshold=0.4)
    for rows in (alone, together):
        for row, repair in zip(rows, expected, strict=True):
            assert (row["text"], row["reason"]) == (repair.text, repair.reason)
            assert [edit["position"] for edit in row["edits"]] == [e.position for e in repair.edits]
    assert together[2]["text"] == ROWS[2] and not together[2]["changed"]
    if check == "rdkit":
        assert all(is_molecule(row["text"]) for row in together if row["reason"] == "checked")


def test_protected_tokens_do_not_change(client):
    tokens = len(ROWS[0])
    (row,) = answered(client, "repair", rows=[ROWS[0]], protected=[[*range(tokens)]], check="rdkit")
    # Every token stands; one may be added in front or behind.
    assert all(
        edit["kind"] == "insert" and edit["position"] in (0, tokens) for edit in row["edits"]
    )


@pytest.mark.parametrize(
    ("route", "body", "status", "words"),
    [
        ("judge", {"rows": []}, 422, "rows"),
        ("judge", {"rows": [""]}, 422, "rows[0]"),
        ("judge", {"rows": ["C"] * 101}, 422, "100"),
        ("judge", {"rows": ["CC[Xe]"]}, 422, "[Xe]"),
        ("judge", {"rows": ["C" * 73]}, 422, "73 tokens"),
        ("judge", {"rows": ["C" * 9_000]}, 422, "9000 characters"),
        ("judge", {"rows": ["C"], "alternatives": 21}, 422, "alternatives"),
        ("judge", {"rows": ["1" * 16], "model": "sudoku"}, 422, "/v1/solve"),
        ("repair", {"rows": ["C"], "check": "os:system"}, 422, "check"),
        ("repair", {"rows": ["C" * 401], "check": "rdkit"}, 422, "401 characters"),
        ("repair", {"rows": ["C"], "protected": [[1]]}, 422, "position 1 of it"),
        ("repair", {"rows": ["C"], "protected": []}, 422, "for 0 rows"),
        ("repair", {"rows": ["C"], "threshold": 1.5}, 422, "threshold"),
        ("repair", {"rows": ["C"], "model": "smile"}, 404, "Served: smiles, sudoku"),
    ],
)
def test_an_error_says_what_is_wrong(client, route, body, status, words):
    answer = client.post(f"/v1/{route}", json=body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_others_are_answered_meanwhile_and_a_client_that_leaves_is_dropped(client, server):
    """A hundred rows that no budget is enough for: the queue is free again in a second or two."""
    rows = ["(" * 50] * 100
    before = metric(client, "imadarem_cancelled_jobs_total")
    body = {"rows": rows, "check": "rdkit", "budget": 500}
    with server.client() as other, pytest.raises(httpx.ReadTimeout):
        other.post("/v1/repair", json=body, timeout=0.5)
    began = time.monotonic()
    assert client.get("/healthz").status_code == 200
    assert time.monotonic() - began < 0.2
    while metric(client, "imadarem_cancelled_jobs_total") == before:
        time.sleep(0.02)
    while metric(client, "imadarem_queue_jobs"):
        assert time.monotonic() - began < 30, "the job is still here"
        time.sleep(0.02)


def test_the_models_say_whether_they_have_a_judge(client):
    models = client.get("/v1/models").json()["models"]
    assert {model["id"]: model["judge"] for model in models} == {"smiles": True, "sudoku": False}
