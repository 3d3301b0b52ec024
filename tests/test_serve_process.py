"""The server as a process: tokens, full queues, deadlines, and how it ends."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from cli_parts import WORDS, saved_model
from serve_parts import counted, running

from imadarem.errors import ConfigError
from imadarem.serve.server import bind, check_exposure
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


@pytest.mark.slow
def test_a_full_queue_a_deadline_and_a_wrong_token_are_told_apart(words):
    """Room for two, and three seconds for each: 429 for the third, 504 for the first."""
    flags = ("--model", words, "--queue", 2, "--seconds", 3)
    with running(*flags, IMADAREM_TOKEN="right") as served:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
            refused = httpx.get(f"{served.url}/v1/models", headers=given)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json()["error"]["code"] == "unauthorized"
        assert httpx.get(f"{served.url}/healthz").status_code == 200
        assert httpx.get(f"{served.url}/metrics").status_code == 401
        with served.client(headers={"Authorization": "Bearer right"}) as client:
            with ThreadPoolExecutor(2) as pool:
                long = [pool.submit(client.post, "/v1/sample", json=LONG) for _ in range(2)]
                wait_for(lambda: counted(client, "imadarem_queue_jobs") == 2)
                third = client.post("/v1/sample", json={"count": 1})
                assert (third.status_code, third.headers["retry-after"]) == (429, "1")
                assert client.post("/v1/trace", json={}).status_code == 429
                late = [job.result() for job in long]
            assert {answer.status_code for answer in late} == {504}
            assert late[0].json()["error"]["code"] == "timeout"
            # Their work is dropped, so that there is room at once.
            wait_for(lambda: counted(client, "imadarem_queue_jobs") == 0)
            assert client.post("/v1/sample", json={"count": 1}).status_code == 200


@pytest.mark.slow
def test_a_stop_finishes_what_runs_and_takes_nothing_new(words):
    with running("--model", words) as served:
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{served.url}/v1/sample", json=asked, timeout=60))

        asked = {**LONG, "count": 6}
        asking = threading.Thread(target=ask)
        with served.client() as client:
            asking.start()
            wait_for(lambda: counted(client, "imadarem_queue_jobs") == 1)
        assert answers == []
        assert served.stop() == 0
        asking.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["samples"]) == 6
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{served.url}/healthz")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "192.168.1.7"])
def test_being_open_to_the_network_takes_a_token_or_a_word(host):
    with pytest.raises(ConfigError, match="IMADAREM_TOKEN.*--without-token"):
        check_exposure(host, None, without_token=False)
    check_exposure(host, "secret", without_token=False)
    check_exposure(host, None, without_token=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_needs_no_token(host):
    check_exposure(host, None, without_token=False)


@pytest.mark.parametrize("token", ["", " ", "two words", "wörter"])
def test_a_token_that_no_header_can_carry_is_refused(token):
    with pytest.raises(ConfigError, match="ASCII"):
        check_exposure("127.0.0.1", token, without_token=False)


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(ConfigError, match=f"port {other.getsockname()[1]}.*--port"):
            bind("127.0.0.1", other.getsockname()[1])


def test_wrong_flags_are_refused_before_a_model_is_loaded(said):
    code, _, told = said("serve", "--host", "0.0.0.0")
    assert code == 2 and "--without-token" in told
    code, _, told = said("serve", "--port", "0", "--model", "nowhere/at/all")
    assert code == 2 and "nowhere/at/all" in told
    code, _, told = said("serve", "--port", "0", "--model", "sudoku", "--model", "sudoku")
    assert code == 2 and "two models have the id 'sudoku'" in told
    code, _, told = said("serve", "--port", "0", "--seconds", "0")
    assert code == 2 and "seconds" in told
