"""Connections that a client leaves open: idle, half open, or too many.  Over real sockets.

Each server has one limit that is short, and the others hold for a minute: so what ends soon was
ended by that one, and a machine that stands still for seconds meets no other."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyroclast.server import limits as limits_module
from pyroclast.server.errors import HttpError
from pyroclast.server.limits import Limits, check_json, read_body
from pyroclast.server.metrics import Metrics
from pyroclast.server.run import listen, make_server

WAIT_S = 60
SOON_S = WAIT_S / 2
PATIENT = Limits(header_timeout_s=WAIT_S, body_timeout_s=WAIT_S, keep_alive_s=WAIT_S)
LIMITS = {
    "patient": PATIENT,
    "crowded": dataclasses.replace(PATIENT, max_connections=3),
    "headers": dataclasses.replace(PATIENT, header_timeout_s=0.5),
    "bodies": dataclasses.replace(PATIENT, body_timeout_s=0.5),
    "idle": dataclasses.replace(PATIENT, keep_alive_s=1),
}
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
# The application answers a GET without its body.
EARLY = POST.replace(b"POST", b"GET")
EARLY_CHUNKED = b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
METRICS = Metrics()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Reads a POST's body, and answers with its length; a GET is answered without reading."""
    if scope["type"] != "http":
        return
    body = b""
    if scope["method"] == "POST":
        body = await read_body(receive, Limits(body_timeout_s=WAIT_S), None)
    length = str(len(body)).encode()
    head = [(b"content-length", str(len(length)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": length})


@contextlib.contextmanager
def serving(limits: Limits) -> Iterator[int]:
    bound = listen("127.0.0.1", 0)
    app: Any = SimpleNamespace(draining=False, n_active=0, metrics=METRICS)
    server = make_server(application, app, limits=limits, shutdown_timeout_s=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join(WAIT_S)
    bound.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serving(limits)) for name, limits in LIMITS.items()}


@pytest.fixture
def port(ports: dict[str, int]) -> int:
    return ports["patient"]


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(4096):
            found += piece
    return found


def reply_to(connection: socket.socket, request: bytes) -> bytes:
    """Sends a request and reads the whole reply, or what comes of it."""
    found = b""
    with contextlib.suppress(ConnectionError):
        connection.sendall(request)
        while not is_whole(found) and (piece := connection.recv(4096)):
            found += piece
    return found


def is_whole(reply: bytes) -> bool:
    head, _, body = reply.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


def get(connection: socket.socket, request: bytes = GET) -> None:
    found = reply_to(connection, request)
    assert found.startswith(b"HTTP/1.1 200 ") and found.endswith(b"\r\n\r\n0")


@contextlib.contextmanager
def used(port: int, request: bytes = GET) -> Iterator[socket.socket]:
    """A connection that has had a reply: another one where the machine stood still before the
    request was out."""
    deadline = time.monotonic() + WAIT_S
    while True:
        with connected(port) as connection:
            if reply_to(connection, request).startswith(b"HTTP/1.1 200 "):
                yield connection
                return
        assert time.monotonic() < deadline


def refused(status: int) -> float:
    """How many refusals with this status have been counted."""
    name = "pyroclast:requests_refused_total"
    return METRICS.registry.get_sample_value(name, {"status": str(status)}) or 0.0


def wait_until_free(port: int) -> None:
    """Until the connections of the test before are gone."""
    deadline = time.monotonic() + WAIT_S
    while True:
        with connected(port) as connection, contextlib.suppress(OSError):
            connection.sendall(GET)
            if connection.recv(12) == b"HTTP/1.1 200":
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_connection_that_says_nothing_is_closed(ports: dict[str, int]) -> None:
    start_s = time.monotonic()
    with connected(ports["headers"]) as connection:
        found = rest(connection)
    assert found == b""
    assert 0.3 < time.monotonic() - start_s < SOON_S


def test_headers_that_trickle_are_given_up(ports: dict[str, int]) -> None:
    """A byte now and then does not set the clock back."""
    start_s = time.monotonic()
    with connected(ports["headers"]) as connection:
        with contextlib.suppress(OSError):
            for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
            pytest.fail("all of it was taken")
        assert time.monotonic() - start_s > 0.3
        found = rest(connection)
    assert found == b"" or found.startswith(b"HTTP/1.1 408 ")


def test_unfinished_headers_are_answered_with_408(ports: dict[str, int]) -> None:
    before = refused(408)
    for _ in range(9):  # what says nothing for half a second, in a busy machine, is only closed
        with connected(ports["headers"]) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost:")
            if found := rest(connection):
                break
    assert found.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in found
    assert b'"message":"the headers did not come within 0.5 seconds"' in found
    assert refused(408) == before + 1


def test_the_second_request_has_a_deadline_too(ports: dict[str, int]) -> None:
    with used(ports["headers"]) as connection:
        start_s = time.monotonic()
        connection.sendall(GET[:9])
        found = rest(connection)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - start_s < SOON_S


def test_an_idle_connection_stays_open_for_longer_than_headers_may_take(
    ports: dict[str, int],
) -> None:
    with used(ports["headers"]) as connection:
        time.sleep(2 * LIMITS["headers"].header_timeout_s)
        get(connection)


def test_an_idle_connection_stays_open_for_a_while(ports: dict[str, int]) -> None:
    """As long as keep_alive_s."""
    with connected(ports["idle"]) as connection:
        start_s = time.monotonic()
        get(connection)
        found = rest(connection)
    assert found == b""
    assert 0.75 < time.monotonic() - start_s < SOON_S


def test_a_connection_is_of_use_after_a_body_that_follows_its_reply(port: int) -> None:
    with connected(port) as connection:
        get(connection, EARLY)
        connection.sendall(b"0123456789")
        time.sleep(0.1)
        get(connection, EARLY)


def test_a_connection_is_closed_after_a_body_that_follows_its_reply(ports: dict[str, int]) -> None:
    """uvicorn stops its timer at the first byte of the body, and starts it at a reply only."""
    with connected(ports["idle"]) as connection:
        start_s = time.monotonic()
        get(connection, EARLY)
        with contextlib.suppress(ConnectionError):  # where the machine stood still, and it is over
            connection.sendall(b"0123456789")
        found = rest(connection)
    assert found == b""
    assert 0.75 < time.monotonic() - start_s < SOON_S


def test_headers_after_a_late_body_have_their_own_deadline(ports: dict[str, int]) -> None:
    with used(ports["headers"], EARLY) as connection:
        start_s = time.monotonic()
        connection.sendall(b"0123456789" + GET[:9])
        found = rest(connection)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - start_s < SOON_S


@pytest.mark.parametrize("begun", [b"", b"5\r\n01234\r\n"])
def test_garbage_after_a_reply_only_closes(
    port: int, begun: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(port) as connection:
        get(connection, EARLY_CHUNKED)
        start_s = time.monotonic()
        connection.sendall(begun + b"no chunk\r\n")
        found = rest(connection)
    assert found == b""
    assert time.monotonic() - start_s < SOON_S
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_is_no_http_is_refused_and_counted(port: int) -> None:
    before = refused(400)
    with connected(port) as connection:
        connection.sendall(b"no request at all\r\n\r\n")
        found = rest(connection)
    assert found.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b'"type":"invalid_request_error"' in found
    assert refused(400) == before + 1


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["cut", "whole"])
def test_headers_that_are_too_long_are_refused(port: int, end: bytes) -> None:
    """Whether or not they come in one piece, which h11 does not check."""
    headers = b"".join(b"x-%d: %b\r\n" % (i, b"a" * 100) for i in range(330))
    with connected(port) as connection:
        connection.sendall(GET[:-2] + headers + b"x: y" + end)
        found = rest(connection)
    assert found.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"at most 32768 bytes" in found


def test_headers_just_below_the_limit_are_read(port: int) -> None:
    with connected(port) as connection:
        get(connection, GET[:-2] + b"x: " + b"a" * 32_000 + b"\r\n\r\n")


def test_a_slow_body_that_makes_progress_has_more_time(
    ports: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the timeout and its grace of a second.  Where the machine stood still for half of
    that time, it was no fault to give up: then again."""
    monkeypatch.setattr(limits_module, "MIN_BYTES_PER_S", 1)
    for _ in range(20):
        with connected(ports["bodies"]) as connection:
            connection.sendall(POST)
            last_s, longest_s = time.monotonic(), 0.0
            with contextlib.suppress(ConnectionError):
                for byte in b"0123456789":
                    time.sleep(0.2)
                    connection.sendall(bytes([byte]))
                    now_s = time.monotonic()
                    last_s, longest_s = now_s, max(longest_s, now_s - last_s)
            found = reply_to(connection, b"")
        if found.endswith(b"\r\n\r\n10"):
            return
        assert max(longest_s, time.monotonic() - last_s) > 0.75, found
    pytest.fail("the machine stood still twenty times")


def test_a_body_that_trickles_is_given_up(ports: dict[str, int]) -> None:
    """One byte at a time makes progress, but is too slow."""
    with connected(ports["bodies"]) as connection:
        connection.sendall(POST.replace(b"10", b"999"))
        with contextlib.suppress(OSError):
            for _ in range(500):
                connection.sendall(b"a")
                time.sleep(0.1)
            pytest.fail("all of it was taken")


@pytest.mark.parametrize("head", [POST, EARLY], ids=["POST", "GET"])
def test_a_body_that_does_not_end_is_given_up(ports: dict[str, int], head: bytes) -> None:
    """Whether or not the application waits for it."""
    with connected(ports["bodies"]) as connection:
        start_s = time.monotonic()
        connection.sendall(head + b"abc")
        rest(connection)
    assert time.monotonic() - start_s < SOON_S


def test_a_request_in_pieces_is_answered(port: int) -> None:
    with connected(port) as connection:
        for piece in (POST[:20], POST[20:], b"01234"):
            connection.sendall(piece)
            time.sleep(0.1)
        found = reply_to(connection, b"56789")
    assert found.endswith(b"\r\n\r\n10")


def test_two_requests_at_once_are_answered(ports: dict[str, int]) -> None:
    with connected(ports["idle"]) as connection:
        connection.sendall(GET + GET)
        found = rest(connection)
    assert found.count(b"HTTP/1.1 200 ") == 2


def test_one_connection_too_many_is_refused(ports: dict[str, int]) -> None:
    before = refused(503)
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS["crowded"].max_connections):
            open_one = stack.enter_context(connected(ports["crowded"]))
            get(open_one)
        start_s = time.monotonic()
        with connected(ports["crowded"]) as connection:
            found = rest(connection)
    assert found.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 1" in found
    assert b'"code":"too_many_connections"' in found
    assert time.monotonic() - start_s < SOON_S
    assert refused(503) > before
    wait_until_free(ports["crowded"])


def test_a_body_may_have_so_many_values_and_no_more() -> None:
    limits = Limits(max_body_brackets=4, max_body_commas=2)
    check_json(b'{"a": ["[", {}], 1', limits)
    with pytest.raises(HttpError, match=r'at most 4 "\[" and "\{", .* got 5') as brackets:
        check_json(b'{"a": ["[", {}], "b": "{"}', limits)
    with pytest.raises(HttpError, match=r"at most 2 commas, .* got 3") as commas:
        check_json(b'[1, ",", 2]', limits)
    with pytest.raises(HttpError, match=r"at most 1 colons, .* got 3") as colons:
        check_json(b'{"a": 1, ":": 2', Limits(max_body_colons=1))
    assert {each.value.status for each in (brackets, commas, colons)} == {413}
