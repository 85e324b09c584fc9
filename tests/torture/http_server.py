"""`pyroclast serve` with clients that send nonsense, leave early, read slowly, or never finish: no
answer is a fault of the server, and /health answers."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import socket
import struct
import threading
import time
from typing import Any

from torture.campaign import Kind, Record
from torture.nursery import Nursery
from torture.tiny_model import tiny_path

_CODE = "from pyroclast.cli.main import main\nmain(argv)\n"
_PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages")
_MAX_WAIT_S = 30.0
_FIELDS = (
    "n",
    "stop",
    "temperature",
    "tools",
    "response_format",
    "logprobs",
    "tool_choice",
    "logit_bias",
)
_VALUES = (None, True, -1, 0, 2**63, 1e308, "", "x" * 5000, [], {}, [[1]], {"a": [None]}, "\ud800")


def run(seed: int, deadline: float, record: Record) -> None:
    """Cases until the deadline, on one server."""
    number = 0
    with Nursery() as nursery:
        words = ("serve", tiny_path(), "--port", 0, "--threads", 2, "--json")
        nursery.start(_CODE, *words, "--served-model-name", "m")
        if not nursery.said("url"):
            raise AssertionError(f"the server did not start: {nursery.end(1)}")
        port = int(re.findall(r":(\d+)", nursery.output())[0])
        while time.monotonic() < deadline or not number:
            rng = random.Random(f"{seed} {number}")
            with record.case():
                for what in _case(rng, port):
                    record.finding(what)
            number += 1
        with record.case():
            nursery.send(signal.SIGTERM)
            ended = nursery.end(_MAX_WAIT_S)
            if ended.code != 0 or "Traceback" in ended.err:
                record.finding(f"the server's end: {ended}")


def _case(rng: random.Random, port: int) -> list[str]:
    """A few clients at once, then /health."""
    found: list[str] = []
    clients = [
        threading.Thread(target=_client, args=(random.Random(rng.random()), port, found))
        for _ in range(rng.randint(1, 6))
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(_MAX_WAIT_S)
    if any(client.is_alive() for client in clients):
        found.append("a client waits for ever")
    with _connected(port) as health:
        health.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = _read(health)
    if not answer.startswith(b"HTTP/1.1 200"):
        found.append(f"/health said {answer[:300]!r}")
    return found


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=_MAX_WAIT_S)


def _client(rng: random.Random, port: int, found: list[str]) -> None:
    path, body = rng.choice(_PATHS), _body(rng)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    length = len(body) if rng.random() < 0.9 else rng.choice([0, 5, len(body) + 9, 10**12, -1])
    sent = f"{head}Content-Length: {length}\r\nConnection: close\r\n\r\n".encode() + body
    try:
        with _connected(port) as client:
            if rng.random() < 0.15:  # it never finishes its request
                client.sendall(sent[: rng.randrange(len(sent))])
                return
            client.sendall(sent)
            if length > len(body):
                client.shutdown(socket.SHUT_WR)
            if rng.random() < 0.3:  # it leaves early, with or without a word
                client.recv(rng.randint(1, 400))
                if rng.random() < 0.5:
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
            answer = _read(client, slow=rng.random() < 0.2)
    except OSError:  # the server hung up on nonsense
        return
    if re.match(rb"HTTP/1.1 5", answer) and not re.match(rb"HTTP/1.1 503", answer):
        found.append(f"{path} with {body[:600]!r}: {answer[:600]!r}")


def _read(client: socket.socket, *, slow: bool = False) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(64 if slow else 65536):
            answer += part
            if slow:
                time.sleep(0.001)
    return answer


def _body(rng: random.Random) -> bytes:
    """A request that is right, or wrong in a field or two, or in its bytes."""
    messages: Any = [{"role": "user", "content": "the and"}]
    body: dict[str, Any] = {"model": "m", "max_tokens": rng.randint(1, 40), "seed": 1}
    body |= {"prompt": "the and", "messages": messages, "input": "the and"}
    body["stream"] = rng.random() < 0.5
    for name in rng.sample([*_FIELDS, *body], rng.choice([0, 0, 1, 2])):
        body[name] = rng.choice(_VALUES)
    data = json.dumps(body).encode()
    if rng.random() < 0.2:
        data = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


SERVER = Kind("server", run, memory_bytes=None)
