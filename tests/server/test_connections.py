"""Connections that a client leaves open: idle, half open, or too many.  Over real sockets."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyroclast.cli.main import main
from pyroclast.server.connections import bounded_protocol
from pyroclast.server.limits import Limits, read_body
from pyroclast.server.run import listen, make_server

WAIT_S = 10
LIMITS = Limits(max_connections=3, header_timeout_s=0.5, body_timeout_s=0.5, keep_alive_s=2)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


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


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    bound = listen("127.0.0.1", 0)
    app: Any = SimpleNamespace(draining=False, n_active=0)
    server = make_server(application, app, limits=LIMITS, shutdown_timeout_s=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join(WAIT_S)
    bound.close()
    assert not thread.is_alive()


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        yield connection


def rest(connection: socket.socket) -> tuple[bytes, float]:
    """All that comes until the server closes the connection, and how long that took."""
    start_s, found = time.monotonic(), b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(4096):
            found += piece
    return found, time.monotonic() - start_s


def get(connection: socket.socket) -> None:
    """Sends a request and reads the whole reply."""
    connection.sendall(GET)
    found = b""
    while not found.endswith(b"\r\n\r\n0"):
        piece = connection.recv(4096)
        assert piece, found
        found += piece
    assert found.startswith(b"HTTP/1.1 200 ")


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


@pytest.fixture(autouse=True)
def free(port: int) -> None:
    wait_until_free(port)


def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    with connected(port) as connection:
        found, took_s = rest(connection)
    assert found == b""
    assert 0.3 < took_s < 5


def test_headers_that_trickle_are_given_up(port: int) -> None:
    """A byte now and then does not set the clock back."""
    with connected(port) as connection:
        start_s = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        assert 0.3 < time.monotonic() - start_s < 5
        found, _ = rest(connection)
    assert found == b"" or found.startswith(b"HTTP/1.1 408 ")


def test_unfinished_headers_are_answered_with_408(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost:")
        found, _ = rest(connection)
    assert found.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in found
    assert b'"message":"the headers did not come within 0.5 seconds"' in found


def test_the_second_request_has_a_deadline_too(port: int) -> None:
    with connected(port) as connection:
        get(connection)
        connection.sendall(GET[:9])
        found, took_s = rest(connection)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert took_s < LIMITS.keep_alive_s


def test_an_idle_connection_stays_open_for_a_while(port: int) -> None:
    """Longer than headers may take, as long as keep_alive_s."""
    with connected(port) as connection:
        get(connection)
        time.sleep(2 * LIMITS.header_timeout_s)
        get(connection)
        found, took_s = rest(connection)
    assert found == b""
    assert 1.5 < took_s < WAIT_S


@pytest.mark.parametrize("head", [POST, POST.replace(b"POST", b"GET")], ids=["POST", "GET"])
def test_a_body_that_does_not_end_is_given_up(port: int, head: bytes) -> None:
    """Whether or not the application waits for it."""
    with connected(port) as connection:
        connection.sendall(head + b"abc")
        _, took_s = rest(connection)
    assert took_s < 6


def test_a_request_in_pieces_is_answered(port: int) -> None:
    with connected(port) as connection:
        for piece in (POST[:20], POST[20:], b"01234", b"56789"):
            connection.sendall(piece)
            time.sleep(0.1)
        found, _ = rest(connection)
    assert found.endswith(b"\r\n\r\n10")


def test_two_requests_at_once_are_answered(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(GET + GET)
        found, _ = rest(connection)
    assert found.count(b"HTTP/1.1 200 ") == 2


def test_one_connection_too_many_is_refused(port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.max_connections):
            open_one = stack.enter_context(connected(port))
            get(open_one)
        with connected(port) as connection:
            found, took_s = rest(connection)
    assert found.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 1" in found
    assert b'"code":"too_many_connections"' in found
    assert took_s < 2
    wait_until_free(port)


def test_connections_leave_descriptors_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    assert bounded_protocol(Limits(max_connections=4096)).limits.max_connections == 896
    assert bounded_protocol(Limits(max_connections=10)).limits.max_connections == 10


def test_help_lists_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = capsys.readouterr().out
    for flag in ("--max-connections", "--request-timeout", "--keep-alive"):
        assert flag in shown
