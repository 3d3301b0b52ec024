"""The API over HTTP: real requests to a real server."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from cli_parts import SIXTY, WORDS, saved_model
from running_server import metric, server_thread, sse_events

from imadarem.model import ImplicitRefinementModel
from imadarem.tokenizers import CharTokenizer, SelfiesTokenizer

PUZZLE, SOLVED = "1...4..2..3..4..", "1243431221343421"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    molecules = SelfiesTokenizer.from_corpus(SIXTY)
    words = CharTokenizer.from_corpus(WORDS)
    return {
        "tiny": saved_model(root / "tiny" / "model", molecules, SIXTY),
        "words": saved_model(root / "words", words, WORDS, length_mode="eos", max_seq_len=12),
    }


@pytest.fixture(scope="module")
def server(folders):
    names = [folders["tiny"], f"words={folders['words']}", "sudoku"]
    with server_thread(*names, body_bytes=20_000) as address:
        yield address


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def tiny(folders):
    return ImplicitRefinementModel.from_pretrained(folders["tiny"])


def texts(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [sample["text"] for sample in answer.json()["samples"]]


# --- the same answers as the library's


def test_samples_are_those_of_the_library(client, tiny):
    body = {"count": 5, "seed": 3, "steps": 4, "policy": "margin", "temperature": 0.8}
    drawn = tiny.sample(5, seed=3, steps=4, policy="margin", temperature=0.8)
    assert texts(client.post("/v1/sample", json=body)) == drawn.texts


def test_fillings_are_those_of_the_library_prompt_by_prompt(client, tiny):
    prompts = ["[C][C]<mask><mask>[O]", "[C]<mask>"]
    answer = client.post("/v1/infill", json={"prompts": prompts, "count": 2, "seed": 4})
    repeated = [prompts[0], prompts[0], prompts[1], prompts[1]]
    assert texts(answer) == tiny.infill(repeated, seed=4).texts
    assert [sample["prompt"] for sample in answer.json()["samples"]] == [0, 0, 1, 1]


def test_a_seed_that_the_server_drew_gives_the_answer_again(client):
    first = client.post("/v1/sample", json={"count": 3}).json()
    again = client.post("/v1/sample", json={"count": 3, "seed": first["seed"]}).json()
    assert again == first


def test_an_answer_does_not_depend_on_what_it_was_batched_with(client):
    bodies = [{"count": 1 + n % 3, "seed": n, "steps": 4} for n in range(12)]
    alone = [client.post("/v1/sample", json=each).json() for each in bodies]
    batches = metric(client, "imadarem_batch_rows_count")
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda each: client.post("/v1/sample", json=each).json(), bodies))
    # The longest canvases of this model have an odd length: products round by the batch there.
    for one, other in zip(together, alone, strict=True):
        for sample, same in zip(one["samples"], other["samples"], strict=True):
            assert sample.pop("mean_probability") == pytest.approx(same.pop("mean_probability"))
    assert together == alone
    # The requests did share batches.
    assert metric(client, "imadarem_batch_rows_count") - batches < 12


def test_more_samples_than_a_batch_has_rows_come_in_order(client, tiny):
    answer = client.post("/v1/sample", json={"count": 150, "seed": 1, "steps": 1})
    assert texts(answer) == tiny.sample(150, seed=1, steps=1).texts


# --- traces


def test_a_trace_is_the_librarys_trajectory_with_the_text_of_each_step(client, tiny):
    body = {"length": 9, "seed": 5, "steps": 3, "stream": False}
    answer = client.post("/v1/trace", json=body).json()
    expected = tiny.analyze_refinement_trajectory(length=9, seed=5, steps=3).to_dict()
    assert answer["schema"] == expected["schema"]
    (row,) = answer["rows"]
    assert row["steps"][-1]["text"] == row["text"]
    for step in row["steps"]:
        del step["text"]
    assert row == expected["rows"][0]


def test_a_stream_is_the_same_trace_one_event_a_step(client):
    body = {"text": "[C]<mask><mask><mask>", "seed": 5}
    whole = client.post("/v1/trace", json={**body, "stream": False}).json()
    answer = client.post("/v1/trace", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    received = sse_events(answer.text)
    (row,) = whole["rows"]
    assert [name for name, _ in received] == ["start", *["step"] * len(row["steps"]), "end"]
    assert [json.loads(data) for name, data in received if name == "step"] == row["steps"]
    start = json.loads(received[0][1])
    assert (start["start"], start["given"]) == (row["start"], row["given"])
    assert json.loads(received[-1][1])["text"] == row["text"]


def test_a_recorded_step_is_a_canvas_to_run_on_from(client):
    """A token is fixed, another one masked; what is given stays, the blank is filled."""
    body = {"length": 8, "seed": 2, "steps": 4, "stream": False}
    (row,) = client.post("/v1/trace", json=body).json()["rows"]
    tokens = row["steps"][-1]["tokens"]
    tokens[2], tokens[5] = "[C]", "[MASK]"
    given = [place == 2 for place in range(8)]
    more = {"tokens": tokens, "given": given, "seed": 9, "steps": 4, "stream": False}
    (row,) = client.post("/v1/trace", json=more).json()["rows"]
    assert row["start"] == tokens and row["given"] == given
    assert all(step["tokens"][2] == "[C]" for step in row["steps"])
    assert row["steps"][-1]["tokens"][5] != "[MASK]"


def test_an_end_that_was_written_can_be_sent_back(client):
    """Nothing is written behind it; the blank before it may be another end."""
    body = {"model": "words", "tokens": ["a", "[MASK]", "[EOS]", "", ""], "stream": False}
    body["given"] = [True, False, False, False, False]
    for seed in range(8):
        (row,) = client.post("/v1/trace", json={**body, "seed": seed}).json()["rows"]
        assert row["text"][0] == "a" and 1 <= len(row["text"]) <= 2


def test_a_canvas_without_a_blank_takes_no_step(client):
    body = {"tokens": ["[C]", "[O]"], "stream": False}
    (row,) = client.post("/v1/trace", json=body).json()["rows"]
    assert (row["steps"], row["text"], row["stopping_reason"]) == ([], "CO", "filled")


# --- sudoku, drawings, models


def test_a_sudoku_is_solved_and_checked(client):
    answer = client.post("/v1/solve", json={"puzzle": PUZZLE}).json()
    assert (answer["answer"], answer["verified"], answer["broken"]) == (SOLVED, True, [])


def test_two_policies_trace_the_same_sudoku(client):
    body = {"model": "sudoku", "text": PUZZLE, "stream": False}
    for policy in ("replace", "margin"):
        (row,) = client.post("/v1/trace", json={**body, "policy": policy}).json()["rows"]
        assert "".join(row["steps"][-1]["tokens"]) == SOLVED
        assert row["stopping_reason"] == "verified"


def test_a_digit_that_is_not_given_may_change_in_a_sudoku(client):
    """The second cell is wrong and the model's own; one blank starts the run."""
    tokens = ["1", "3", *SOLVED[2:15], "[MASK]"]
    given = [place not in (1, 15) for place in range(16)]
    body = {"model": "sudoku", "tokens": tokens, "given": given, "stream": False}
    (row,) = client.post("/v1/trace", json=body).json()["rows"]
    assert "".join(row["steps"][-1]["tokens"]) == SOLVED


def test_every_listed_policy_can_be_used(client):
    for model in client.get("/v1/models").json()["models"]:
        canvas = {"text": PUZZLE} if model["kind"] == "sudoku" else {"length": 4}
        for policy in model["policies"]:
            body = {"model": model["id"], "policy": policy["name"], "steps": 2, **canvas}
            answer = client.post("/v1/trace", json={**body, "stream": False})
            assert answer.status_code == 200, (policy, answer.text)
            assert policy["about"].endswith(".")


def test_models_say_what_they_know(client, tiny):
    molecules, words, sudoku = client.get("/v1/models").json()["models"]
    assert [m["id"] for m in (molecules, words, sudoku)] == ["tiny", "words", "sudoku"]
    assert [m["kind"] for m in (molecules, words, sudoku)] == ["molecules", "text", "sudoku"]
    assert sudoku["vocabulary"] == list("123456789") and sudoku["sizes"] == [4, 6, 9]
    # Special tokens are not listed.
    assert molecules["vocabulary"] == tiny.tokenizer.tokens[3:]
    assert molecules["default_policy"] == molecules["policies"][0]["name"] == "gate"
    assert sudoku["default_steps"] == 16


def test_a_molecule_is_drawn_from_smiles_and_from_tokens(client):
    ethanol = client.post("/v1/draw", json={"smiles": "CCO"})
    assert ethanol.headers["content-type"] == "image/svg+xml" and "<svg" in ethanol.text
    tokens = ["[C]", "[MASK]", "[C]", "[O]"]
    assert client.post("/v1/draw", json={"tokens": tokens}).text == ethanol.text


# --- errors


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("sample", {"count": 0}, 422, "count"),
        ("sample", {"count": 1001}, 422, "1000"),
        ("sample", {"count": "4"}, 422, "count"),
        ("sample", {"cuont": 4}, 422, "cuont"),
        ("sample", {"seed": -1}, 422, "seed"),
        ("sample", {"length": 4000}, 422, "max_seq_len"),
        ("sample", {"policy": "gat"}, 422, 'did you mean "gate"'),
        ("sample", {"temperature": 0, "top_k": 3}, 422, "no effect"),
        ("sample", {"model": "word"}, 404, 'did you mean "words"'),
        ("sample", {"model": "/etc/passwd"}, 404, "Served: tiny, words, sudoku"),
        ("sample", {"model": "sudoku"}, 422, "/v1/solve"),
        ("sample", {"cuont": 4, "seeed": 1}, 422, "and 1 more"),
        ("sample", {"model": "\ud800"}, 422, "model"),
        ("sample", [], 422, "the body"),
        ("infill", {"prompts": []}, 422, "prompts"),
        ("infill", {"prompts": ["[C][O]"]}, 422, "has no blank"),
        ("infill", {"prompts": ["[C]<mask>[Xx]"]}, 422, "[Xx]"),
        ("infill", {"prompts": ["[C]" * 99 + "<mask>"]}, 422, "100 tokens"),
        ("infill", {"prompts": ["<mask>" * 200]}, 422, "1200 characters"),
        ("infill", {"prompts": ["[C]<mask>"] * 50, "count": 30}, 422, "1000"),
        ("trace", {"length": 4, "text": "[C]"}, 422, "Choose one"),
        ("trace", {"given": [True]}, 422, "no tokens"),
        ("trace", {"tokens": ["[C]"], "given": []}, 422, "0 flags"),
        ("trace", {"tokens": ["[MASK]"], "given": [True]}, 422, "cannot be given"),
        ("trace", {"tokens": ["[Cc]", "[MASK]"]}, 422, 'did you mean "[C'),
        ("trace", {"tokens": ["", "[MASK]"]}, 422, "after the end"),
        ("trace", {"tokens": ["[EOS]", "[MASK]"]}, 422, "[EOS]"),
        ("trace", {"model": "sudoku", "tokens": ["1", "[MASK]"]}, 422, "16, 36, 81"),
        ("solve", {"puzzle": "1" * 15}, 422, "16"),
        ("solve", {"puzzle": "11" + "." * 14}, 422, "row 1 has the digit 1 twice"),
        ("solve", {"puzzle": PUZZLE, "model": "tiny"}, 422, "not a sudoku model"),
        ("draw", {"smiles": "C(("}, 422, "not a molecule"),
        ("draw", {"smiles": "C", "tokens": ["[C]"]}, 422, "either"),
        ("draw", {"tokens": ["[MASK]"]}, 422, "not a molecule"),
    ],
)
def test_an_error_says_what_is_wrong(client, path, body, status, words):
    sent = json.dumps(body).encode()
    answer = client.post(f"/v1/{path}", content=sent, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, words in error["message"]) == (status, True), answer.text
    assert set(error) == {"code", "message", "hint"} and error["hint"]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "not_json"),
        (b"\xff\xfe", JSON, 400, "not_json"),
        (b"[" * 10_000, JSON, 400, "bad_request"),
        (b'{"temperature": NaN}', JSON, 422, "invalid"),
        (b'{"seed": ' + b"9" * 5_000 + b"}", JSON, 400, "bad_request"),
        (b'{"\\ud800": 1}', JSON, 422, "invalid"),
        (b" " * 30_000, JSON, 413, "body_too_large"),
        (b" " * 5_000_000, JSON, 413, "body_too_large"),
        (b"count=1", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {}, 415, "unsupported_media_type"),
        (b"{}", {**JSON, "Host": "evil.example"}, 403, "forbidden"),
    ],
)
def test_a_body_that_is_not_a_request_is_an_error(client, content, headers, status, code):
    answer = client.post("/v1/sample", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_unknown_addresses_and_methods_have_the_same_shape_of_error(client):
    for path in (
        "/v1/nothing",
        "/v1/models/",
        "/static",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    wrong = client.get("/v1/sample")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["code"] == "method_not_allowed"


def test_the_page_loads_nothing_from_other_sites(client):
    page = client.get("/")
    assert page.status_code == 200 and "<title>Imadarem" in page.text
    assert "http://" not in page.text and "https://" not in page.text


def test_every_answer_has_the_security_headers(client):
    answers = [
        *(client.get(path) for path in ("/", "/healthz", "/v1/models", "/static/base.css", "/no")),
        client.get("/v1/sample"),
        client.post("/v1/sample", content=b"{", headers=JSON),
        client.post("/v1/sample", json={"count": 0}),
        client.post("/v1/draw", json={"smiles": "C"}),
        client.get("/", headers={"Host": "evil.example"}),
        client.get("/", headers={"Long": "x" * 30_000}),
        client.get("/static/base.css", headers={"Range": "bytes=9-1"}),
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 200, 200, 200, 404, 405, 400, 422, 200, 403, 431, 200]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


# --- a client that disconnects


@pytest.mark.parametrize("stream", [False, True])
def test_the_job_of_a_client_that_disconnects_is_dropped(client, server, stream):
    """Otherwise the next client would wait for 1,000 rows or 256 steps."""
    path, body = "/v1/sample", {"model": "words", "count": 1000, "steps": 256}
    if stream:
        path, body = "/v1/trace", {"model": "words", "steps": 256, "policy": "gate-adaptive"}
    before = metric(client, "imadarem_cancelled_jobs_total")
    with server.client() as other:
        with (
            other.stream("POST", path, json=body, timeout=60)
            if stream
            else pytest.raises(httpx.ReadTimeout) as answer
        ):
            if stream:
                next(answer.iter_lines())
            else:
                other.post(path, json=body, timeout=0.3)
    end = time.monotonic() + 60
    while metric(client, "imadarem_queue_jobs") or not (
        metric(client, "imadarem_cancelled_jobs_total") > before
    ):
        assert time.monotonic() < end, "the job is still here"
        time.sleep(0.02)
