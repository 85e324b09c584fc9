"""Limits on the size and duration of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pyroclast.server.errors import HttpError
from pyroclast.server.sse import Receive

MIN_BYTES_PER_S = 10_000  # of a body, on average


@dataclass(frozen=True, slots=True)
class Limits:
    """Each bounds one thing that a client can bring; exceeding it is 408, 413, 431 or 503."""

    max_body_bytes: int = 16 << 20
    max_body_commas: int = 1 << 20  # see check_json
    max_body_brackets: int = 1 << 17  # "[" and "{"
    max_body_colons: int = 1 << 18  # a key costs as much as several numbers
    max_header_bytes: int = 32 << 10
    max_connections: int = 4096
    header_timeout_s: float = 30.0  # from the connection, or from their first byte
    body_timeout_s: float = 30.0  # without a byte of it; see BodyDeadline
    keep_alive_s: int = 75  # between a reply and the next request


DEFAULTS = Limits()


class BodyDeadline:
    """When a body is given up: `timeout_s` after its last piece, and sooner if it arrives at less
    than MIN_BYTES_PER_S, counted from `timeout_s` after its headers."""

    def __init__(self, timeout_s: float, now_s: float) -> None:
        self._timeout_s = timeout_s
        self._begin_s = self._last_s = now_s
        self._n_bytes = 0

    def received(self, n_bytes: int, now_s: float) -> None:
        """A piece of the body."""
        self._n_bytes += n_bytes
        if n_bytes:
            self._last_s = now_s

    @property
    def at_s(self) -> float:
        """The time of the deadline, as far as it is known now."""
        slowest_s = self._begin_s + self._n_bytes / MIN_BYTES_PER_S
        return min(self._last_s, slowest_s) + self._timeout_s


async def read_body(receive: Receive, limits: Limits, declared: str | None) -> bytes:
    """The whole body; HttpError 413 as soon as it is too long, 408 if it comes too slowly."""
    if declared is not None and declared.isdecimal() and int(declared) > limits.max_body_bytes:
        raise _too_long(limits)
    now = asyncio.get_running_loop().time
    deadline = BodyDeadline(limits.body_timeout_s, now())
    pieces, n_bytes = [], 0
    while True:
        try:
            async with asyncio.timeout_at(deadline.at_s):
                message = await receive()
        except TimeoutError:
            raise _too_slow(limits) from None
        if message["type"] == "http.disconnect":
            raise HttpError(499, "the client closed the connection")
        piece = message.get("body", b"")
        n_bytes += len(piece)
        deadline.received(len(piece), now())
        if n_bytes > limits.max_body_bytes:
            raise _too_long(limits)
        pieces.append(piece)
        if not message.get("more_body", False):
            raw = b"".join(pieces)
            check_json(raw, limits)
            return raw


def check_json(raw: bytes, limits: Limits) -> None:
    """HttpError 413 for a body that may have so many JSON values that decoding it would stop every
    thread, and so /health, for longer than 100 ms: the decoder holds the GIL from its first byte to
    its last.  16 MiB of empty lists took 2 s.  Counts without decoding, so texts count, too."""
    _check_counts([raw.count(each) for each in (b"[", b"{", b",", b":")], limits)


def check_json_texts(texts: Sequence[str], limits: Limits = DEFAULTS) -> None:
    """The same for JSON inside the texts of a body, where escapes may hide it."""
    _check_counts([sum(text.count(each) for text in texts) for each in "[{,:"], limits)


def _check_counts(counts: list[int], limits: Limits) -> None:
    n_lists, n_objects, n_commas, n_colons = counts
    for what, n, limit in (
        ('"[" and "{"', n_lists + n_objects, limits.max_body_brackets),
        ("commas", n_commas, limits.max_body_commas),
        ("colons", n_colons, limits.max_body_colons),
    ):
        if n > limit:
            raise _too_many(what, n, limit)


def _too_many(what: str, n: int, limit: int) -> HttpError:
    return HttpError(
        413,
        f"a body has at most {limit} {what}, those inside texts counted, got {n}; send it as "
        "several requests",
    )


def _too_slow(limits: Limits) -> HttpError:
    return HttpError(
        408,
        f"the body came too slowly: it may pause for {limits.body_timeout_s:g} seconds, and must "
        f"have {MIN_BYTES_PER_S:,} bytes a second on average",
    )


def _too_long(limits: Limits) -> HttpError:
    return HttpError(413, f"a body has at most {limits.max_body_bytes} bytes")
