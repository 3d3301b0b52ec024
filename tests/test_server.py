"""The server: queue, deadlines, tokens, host names, and how it starts and ends."""

from __future__ import annotations

import logging
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from cli_parts import WORDS, saved_model
from processes import finish
from running_server import metric, server_process, server_thread

from imadarem.errors import ConfigError
from imadarem.serve import request_guard
from imadarem.serve.limits import Limits
from imadarem.serve.server import bind, check_exposure, fit_to_descriptors, host_names
from imadarem.tokenizers import CharTokenizer

#: Some seconds of work for a tiny model, in batches of a quarter of a second.
LONG = {"count": 1000, "steps": 256, "policy": "gate-adaptive", "seed": 0}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "words"
    tokenizer = CharTokenizer.from_corpus(WORDS)
    return saved_model(folder, tokenizer, WORDS, length_mode="eos", max_seq_len=40)


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_full_queue_is_429_and_a_deadline_504(words):
    """Room for two, and a second for each: 429 for the third, 504 for the first."""
    with server_thread(words, queue_jobs=2, seconds=1.0) as running, running.client() as client:
        with ThreadPoolExecutor(2) as pool:
            long = [pool.submit(client.post, "/v1/sample", json=LONG) for _ in range(2)]
            wait_for(lambda: metric(client, "imadarem_queue_jobs") == 2)
            third = client.post("/v1/sample", json={"count": 1})
            assert (third.status_code, third.headers["retry-after"]) == (429, "1")
            assert client.post("/v1/trace", json={}).status_code == 429
            late = [job.result() for job in long]
        assert {answer.status_code for answer in late} == {504}
        assert late[0].json()["error"]["code"] == "timeout"
        # Their jobs are dropped, so there is room at once.
        wait_for(lambda: metric(client, "imadarem_queue_jobs") == 0)
        assert client.post("/v1/sample", json={"count": 1}).status_code == 200


@pytest.fixture(scope="module")
def locked(words):
    """A server with a token."""
    with server_thread(words, token="right") as running:
        yield running


def test_the_api_needs_the_token_and_the_page_does_not(locked, monkeypatch):
    monkeypatch.setattr(request_guard, "WRONG_TOKEN_SECONDS", 0.0)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
        answer = httpx.get(f"{locked.url}/v1/models", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["error"]["code"] == "unauthorized"
    for path, status in {"/healthz": 200, "/": 200, "/metrics": 401}.items():
        assert httpx.get(locked.url + path).status_code == status
    right = {"Authorization": "Bearer right"}
    assert httpx.get(f"{locked.url}/v1/models", headers=right).status_code == 200


def test_wrong_tokens_are_answered_late_and_later_when_many_are_tried_at_once(locked, monkeypatch):
    monkeypatch.setattr(request_guard, "WRONG_TOKEN_SECONDS", 0.3)

    def seconds(token: str | None) -> float:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        began = time.monotonic()
        httpx.get(f"{locked.url}/v1/models", headers=headers)
        return time.monotonic() - began

    with ThreadPoolExecutor(4) as pool:
        # They wait for 1, 2, 3 and 4 times 0.3 seconds.
        waited = sorted(pool.map(seconds, ["wrong"] * 4))
    assert waited[0] > 0.29 and waited[-1] > 1.1
    assert min(seconds("right") for _ in range(5)) < 0.29
    assert min(seconds(None) for _ in range(5)) < 0.29


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8000", "[::1]:80", "192.168.1.7", "LOCALHOST."]
)
def test_requests_by_address_or_own_name_are_answered(locked, host):
    assert httpx.get(f"{locked.url}/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io"])
def test_requests_by_a_foreign_name_are_403_with_and_without_a_token(locked, host):
    answer = httpx.get(f"{locked.url}/healthz", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_allowed_host_names_are_those_given_and_the_machines_own():
    names = host_names("0.0.0.0", ("proxy.example",))
    assert {"proxy.example", socket.gethostname()} <= names


@pytest.mark.slow
def test_a_stop_finishes_running_requests_and_accepts_no_new_ones(words, tmp_path):
    with server_process("--model", words, output=tmp_path / "printed") as (process, running):
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{running.url}/v1/sample", json=body, timeout=60))

        body = {**LONG, "count": 2}
        asking = threading.Thread(target=ask)
        # A connection on which nothing is sent does not delay the stop.
        with running.client() as client, socket.create_connection(("127.0.0.1", running.port)):
            asking.start()
            wait_for(lambda: metric(client, "imadarem_queue_jobs") == 1)
            assert answers == []
            process.terminate()  # as a service manager does
            assert finish(process) == 0
        asking.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["samples"]) == 2
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.url}/healthz")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "192.168.1.7"])
def test_listening_for_other_machines_takes_a_token_or_a_flag(host):
    with pytest.raises(ConfigError, match="IMADAREM_TOKEN.*--without-token"):
        check_exposure(host, None, without_token=False)
    check_exposure(host, "secret", without_token=False)
    check_exposure(host, None, without_token=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_needs_no_token(host):
    check_exposure(host, None, without_token=False)


@pytest.mark.parametrize("token", ["", " ", "two words", "wörter"])
def test_a_token_that_a_header_cannot_carry_is_an_error(token):
    with pytest.raises(ConfigError, match="ASCII"):
        check_exposure("127.0.0.1", token, without_token=False)


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(ConfigError, match=f"port {other.getsockname()[1]}.*--port"):
            bind("127.0.0.1", other.getsockname()[1])


# 256 descriptors stay free for what is no counted connection. Where that leaves too few, a
# quarter of all is for connections.
@pytest.mark.parametrize(
    ("soft", "hard", "connections"),
    [(20_000, 20_000, 512), (256, 4_096, 512), (768, 768, 512), (700, 700, 444), (256, 256, 64)],
)
def test_connections_leave_descriptors_in_reserve(monkeypatch, caplog, soft, hard, connections):
    chosen = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: chosen.append(pair))
    with caplog.at_level(logging.WARNING, logger="imadarem.serve"):
        assert fit_to_descriptors(Limits()).connections == connections
    assert chosen == ([(min(768, hard), hard)] if soft < 768 else [])
    assert ("ulimit -n" in caplog.text) == (connections < 512)


def test_wrong_flags_are_errors_before_a_model_is_loaded(said):
    code, _, stderr = said("serve", "--host", "0.0.0.0")
    assert code == 2 and "--without-token" in stderr
    code, _, stderr = said("serve", "--port", "0", "--model", "nowhere/at/all")
    assert code == 2 and "nowhere/at/all" in stderr
    code, _, stderr = said("serve", "--port", "0", "--model", "sudoku", "--model", "sudoku")
    assert code == 2 and "two models have the id 'sudoku'" in stderr
    code, _, stderr = said("serve", "--port", "0", "--seconds", "0")
    assert code == 2 and "seconds" in stderr
