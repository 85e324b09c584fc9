"""A load client over plain sockets: it notes when each event of a stream came, and costs little.

Client and server share the cores of the machine, so nothing is parsed while streams run: the client
keeps the bytes of every read with the time of the read.  `Raw.answer` parses them afterwards.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from time import perf_counter
from typing import Any

from pyroclast.errors import PyroclastError

Address = tuple[str, int]
_HEAD_END = b"\r\n\r\n"
_DONE = b"data: [DONE]\n"
_N_TAIL = 64  # bytes at the end of a read in which the last event is looked for
_STREAM_S = 600.0


class LoadError(PyroclastError):
    """A server did not answer as it should."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One stream: when it was asked for, when each token came, and its text."""

    sent_s: float
    times_s: list[float]  # of each event with text, in order
    n_tokens: int  # as the server counts them
    text: str
    finish_reason: str | None

    @property
    def first_s(self) -> float:
        """Seconds to the first token."""
        return self.times_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between tokens."""
        return [b - a for a, b in pairwise(self.times_s)]


@dataclass(slots=True)
class Raw:
    """The bytes of one reply, with the time of each read."""

    sent_s: float
    reads: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The HTTP status; 0 if none has come."""
        words = self.reads[0][1].split(b" ", 2) if self.reads else []
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    def answer(self) -> Answer:
        """The stream in it; LoadError if it is none, or not whole."""
        if self.status != 200:
            raise LoadError(f"the server answered {b''.join(d for _, d in self.reads)[:500]!r}")
        times_s: list[float] = []
        pieces: list[str] = []
        n_tokens, finish_reason = 0, None
        for at, line in self._lines():
            if line == b"data: [DONE]":
                return Answer(self.sent_s, times_s, n_tokens, "".join(pieces), finish_reason)
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if "choices" not in event:
                raise LoadError(f"the stream brought {event}")
            n_tokens = (event.get("usage") or {}).get("completion_tokens", n_tokens)
            for choice in event["choices"]:
                finish_reason = choice["finish_reason"] or finish_reason
                if choice["text"]:
                    times_s.append(at)
                    pieces.append(choice["text"])
        raise LoadError(f"the stream ended after {len(times_s)} tokens, without [DONE]")

    def _lines(self) -> Iterator[tuple[float, bytes]]:
        """(when its end was read, line) for each line of the body."""
        whole = b"".join(data for _, data in self.reads)
        ends = list(accumulate(len(data) for _, data in self.reads))
        head = whole.index(_HEAD_END)
        chunked = b"transfer-encoding: chunked" in whole[:head].lower()
        body, line = head + len(_HEAD_END), b""
        for begin, end in _chunks(whole, body) if chunked else [(body, len(whole))]:
            at = begin
            while (stop := whole.find(b"\n", at, end)) >= 0:
                read = self.reads[bisect_right(ends, stop)]
                yield read[0], (line + whole[at:stop]).rstrip(b"\r")
                at, line = stop + 1, b""
            line += whole[at:end]


def _chunks(whole: bytes, begin: int) -> Iterator[tuple[int, int]]:
    """Where the data of each HTTP chunk begins and ends."""
    while (stop := whole.find(b"\r\n", begin)) >= 0:
        n_bytes = int(whole[begin:stop].split(b";")[0] or b"0", 16)
        if not n_bytes:
            return
        yield stop + 2, stop + 2 + n_bytes
        begin = stop + 2 + n_bytes + 2


class Reader(asyncio.Protocol):
    """Collects one reply; `ended` is set with its last event, or with the connection's end."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.raw = Raw(0.0)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.raw.sent_s = perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.raw.reads.append((perf_counter(), data))
        self._tail = (self._tail + data)[-_N_TAIL:]
        if _DONE in self._tail:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # a reply that is not whole tells of itself
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def post(path: str, body: dict[str, Any], address: Address) -> bytes:
    """The bytes of a request that closes its connection."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
        "Content-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def fetch(address: Address, request: bytes) -> Raw:
    """The whole reply."""
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(lambda: Reader(request), *address)
    try:
        await asyncio.wait_for(reader.ended, _STREAM_S)
    finally:
        transport.close()
    return reader.raw


def load(address: Address, requests: Sequence[bytes], n_clients: int) -> tuple[list[Answer], float]:
    """The answers to `requests`, asked by `n_clients` clients that each have one under way; and the
    seconds from the first request to the last byte."""
    replies: list[Raw] = [Raw(0.0)] * len(requests)
    left = iter(range(len(requests)))

    async def client() -> None:
        for i in left:
            replies[i] = await fetch(address, requests[i])

    async def clients() -> float:
        start_s = perf_counter()
        await asyncio.gather(*(client() for _ in range(n_clients)))
        return perf_counter() - start_s

    seconds = asyncio.run(clients())
    return [each.answer() for each in replies], seconds
