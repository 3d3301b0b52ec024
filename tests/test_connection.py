"""What one client's connections may do: size, time and number, over real sockets."""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager

import pytest
from cli_parts import SIXTY, saved_model
from running_server import server_thread

from imadarem.serve import connection
from imadarem.tokenizers import SelfiesTokenizer

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/sample HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
#: The deadlines of a connection in these tests, in seconds.
REQUEST, WRITE, LINGER = 0.6, 0.4, 0.3


@pytest.fixture(scope="module", autouse=True)
def short_deadlines():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "REQUEST_SECONDS", REQUEST)
        patch.setattr(connection, "WRITE_SECONDS", WRITE)
        patch.setattr(connection, "LINGER_SECONDS", LINGER)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory, short_deadlines):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = saved_model(folder, SelfiesTokenizer.from_corpus(SIXTY), SIXTY)
    with server_thread(model, connections=16, body_bytes=20_000) as running:
        yield running


@contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        yield client


def received(client) -> bytes:
    """Everything until the server closes the connection."""
    parts = []
    try:
        while part := client.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def one_answer(client) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    stream = client.makefile("rb")
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, stream.read(length)


def error_of(answer: bytes) -> tuple[int, str]:
    """Status and code of an error; it has the shape and the headers of all errors."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"nosniff" in head and b"default-src 'none'" in head
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message", "hint"} and all(error.values())
    return int(head.split()[1]), error["code"]


def send_until_closed(client, parts) -> int:
    """Send all parts unless the server closes the connection; the number of bytes sent."""
    sent = 0
    try:
        for part in parts:
            client.sendall(part)
            sent += len(part)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent


# --- size


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(HEALTH[:-2] + b"Long: " + b"x" * 20_000_000, id="a header of 20 MB"),
        pytest.param(HEALTH[:-2] + b"A: b\r\n" * 1_000_000, id="a million headers"),
        pytest.param(HEALTH[:-2] + b"A: b\r\n" * 100 + b"\r\n", id="101 headers"),
        pytest.param(b"GET /" + b"x" * 30_000 + HEALTH[12:], id="a long address"),
    ],
)
def test_headers_beyond_the_limits_are_431(server, head):
    with connected(server) as client:
        client.sendall(head)
        assert error_of(received(client)) == (431, "headers_too_large")


def test_a_hundred_headers_are_legal(server):
    with connected(server) as client:
        client.sendall(HEALTH[:-2] + b"A: b\r\n" * 99 + b"\r\n")
        assert one_answer(client)[0] == 200


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\r\n\n",
    ],
)
def test_what_is_not_http_is_400(server, junk):
    with connected(server) as client:
        client.sendall(junk + b"\r\n\r\n")
        assert error_of(received(client)) == (400, "bad_request")


def test_a_request_that_cannot_be_read_is_400_after_one_that_was_answered(server):
    with connected(server) as client:
        client.sendall(HEALTH)
        assert one_answer(client)[0] == 200
        client.sendall(b"nonsense\r\n\r\n")
        assert error_of(received(client)) == (400, "bad_request")


def test_a_body_that_is_too_long_is_413_before_it_ends(server):
    with connected(server) as client:
        client.sendall(POST + b"Content-Length: 1000000000\r\n\r\n" + b" " * 30_000)
        status, body = one_answer(client)
        assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")


def test_a_body_without_end_is_cut_off(server):
    with connected(server) as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        began = time.monotonic()

        def chunks():
            while time.monotonic() - began < 20 * REQUEST:
                yield b"400\r\n" + b" " * 1024 + b"\r\n"

        send_until_closed(client, chunks())
        assert time.monotonic() - began < 20 * REQUEST


def test_a_body_without_a_stated_length_is_413_as_soon_as_it_is_too_long(server):
    with connected(server) as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        client.sendall((b"400\r\n" + b" " * 1024 + b"\r\n") * 30)
        status, body = one_answer(client)
        assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")


def test_trailers_beyond_the_limit_are_431(server):
    with connected(server) as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 100_000)
        assert error_of(received(client)) == (431, "headers_too_large")


def test_requests_sent_at_once_are_answered_one_by_one(server):
    with connected(server) as client:
        client.sendall(HEALTH * 500 + HEALTH[:-2] + b"Connection: close\r\n\r\n")
        assert received(client).count(b"HTTP/1.1 200 OK") == 501


# --- time


def test_a_connection_that_sends_nothing_is_closed(server):
    with connected(server) as client:
        began = time.monotonic()
        assert received(client) == b""
        assert REQUEST - 0.05 < time.monotonic() - began < 10 * REQUEST


@pytest.mark.parametrize(
    "beginning", [b"GET /healthz HT", POST + b"Content-Length: 20\r\n\r\n{", HEALTH + b"GET /"]
)
def test_a_request_that_arrives_too_slowly_is_408(server, beginning):
    with connected(server) as client:
        client.sendall(beginning)
        answer = received(client)
        assert error_of(answer[answer.rindex(b"HTTP/1.1 ") :]) == (408, "request_timeout")


def test_a_byte_now_and_then_does_not_extend_the_time(server):
    with connected(server) as client:
        began = time.monotonic()

        def drops():
            while time.monotonic() - began < 20 * REQUEST:
                time.sleep(REQUEST / 6)
                yield b"x"

        send_until_closed(client, drops())
        assert time.monotonic() - began < 20 * REQUEST


def test_a_client_that_does_not_take_its_answers_is_disconnected(server):
    with connected(server) as client:
        # 40 KB each: more than the buffers of both sockets hold.
        request = HEALTH.replace(b"healthz", b"openapi.json")
        assert send_until_closed(client, (request for _ in range(100_000))) < 100_000 * len(request)


# --- number


def running_jobs(server) -> int:
    with connected(server) as client:
        client.sendall(HEALTH)
        return json.loads(one_answer(client)[1])["jobs"]


def test_idle_connections_make_room_and_those_with_a_request_do_not(server):
    """8 of 16 are for one address: 7 silent ones and a busy one, then 30 more."""
    with connected(server) as busy:
        body = json.dumps({"count": 1000, "steps": 256, "policy": "gate-adaptive"}).encode()
        busy.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while running_jobs(server) == 0:
            pass
        silent = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(30)]
        try:
            with connected(server) as honest:
                honest.sendall(HEALTH)
                assert one_answer(honest)[0] == 200
            assert running_jobs(server) == 1
            # The first of them were closed, the last ones are open.
            silent[0].settimeout(5)
            assert received(silent[0]) == b""
            silent[-1].sendall(HEALTH)
            assert one_answer(silent[-1])[0] == 200
        finally:
            for each in silent:
                each.close()


def test_a_connection_more_than_can_be_busy_is_503(server):
    body = json.dumps({"count": 1000, "steps": 256, "policy": "gate-adaptive"}).encode()
    request = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    busy = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(8)]
    try:
        for each in busy[1:]:
            each.sendall(request)
        busy[0].sendall(HEALTH)
        while json.loads(one_answer(busy[0])[1])["jobs"] < 7:
            busy[0].sendall(HEALTH)
        busy[0].sendall(request)
        time.sleep(0.1)
        with connected(server) as client:
            assert error_of(received(client)) == (503, "too_many_connections")
    finally:
        for each in busy:
            each.close()
