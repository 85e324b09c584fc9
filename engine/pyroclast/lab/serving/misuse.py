"""Clients as a server meets them: some patient, some slow, some leave, some send nonsense.

Each returns what it saw, in a word; `wrong` in it is a fault of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass

from pyroclast.lab.serving.client import Address, LoadError, Raw, Reader, fetch, post

PATH = "/v1/completions"
_BROKEN = (
    b"{",
    b"",
    b"[]",
    b"\xff\xfe",
    b'{"prompt": 7}',
    b'{"prompt": "a", "max_tokens": -2}',
    b'{"prompt": "a", "max_tokens": 1e99}',
    b'{"prompt": "a", "temperature": "hot"}',
    b'{"prompt": [[]]}',
    b'{"prompt": "a", "model": "none"}',
    b"[" * 5000,
)
_PAUSE_S = (0.02, 0.2)
_HALF_OPEN_S = (0.2, 2.0)
_AGAIN_S = (0.0, 0.5)  # after a refusal


@dataclass(frozen=True)
class Asked:
    """A request, and the text that it gives when it is alone."""

    request: bytes
    text: str


async def patient(address: Address, asked: Asked, _: random.Random) -> str:
    """Reads the whole answer."""
    return _judged(await fetch(address, asked.request), asked)


async def slow(address: Address, asked: Asked, dice: random.Random) -> str:
    """Reads the whole answer, with pauses in which it takes nothing."""
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(lambda: Reader(asked.request), *address)
    try:
        while not reader.ended.done():
            transport.pause_reading()
            await asyncio.sleep(dice.uniform(*_PAUSE_S))
            transport.resume_reading()
            await asyncio.wait([reader.ended], timeout=dice.uniform(*_PAUSE_S))
    finally:
        transport.close()
    return _judged(reader.raw, asked)


def _judged(raw: Raw, asked: Asked) -> str:
    if raw.status == 429:
        return "refused: the queue is full"
    try:
        answer = raw.answer()
    except LoadError as error:
        return f"wrong: {error}"
    if answer.text != asked.text:
        return f"wrong: {answer.text!r} instead of {asked.text!r}"
    return "whole"


async def leaving(address: Address, asked: Asked, dice: random.Random) -> str:
    """Leaves in the middle, or before the first token; half of the time without a goodbye."""
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(lambda: Reader(asked.request), *address)
    await asyncio.wait([reader.ended], timeout=dice.uniform(0, 1))
    if dice.random() < 0.5:
        transport.abort()
    else:
        transport.close()
    return "left"


async def malformed(address: Address, _: Asked, dice: random.Random) -> str:
    """Sends what is no request for a completion."""
    data = dice.choice(_BROKEN)
    head = post(PATH, {}, address).split(b"Content-Length")[0]
    raw = await _to_end(address, head + b"Content-Length: %d\r\n\r\n%b" % (len(data), data))
    return "refused: malformed" if 400 <= raw < 500 else f"wrong: {raw} for {data[:40]!r}"


async def _to_end(address: Address, data: bytes) -> int:
    """The status of the reply."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(data)
        words = (await asyncio.wait_for(reader.readline(), 60)).split()
        await reader.read()
    finally:
        writer.close()
    return int(words[1]) if len(words) > 1 else 0


async def half_open(address: Address, asked: Asked, dice: random.Random) -> str:
    """Sends a part of a request and then nothing."""
    _, writer = await asyncio.open_connection(*address)
    writer.write(asked.request[: dice.randrange(len(asked.request))])
    await asyncio.sleep(dice.uniform(*_HALF_OPEN_S))
    with contextlib.suppress(OSError):
        writer.close()
    return "half open"


# How often each comes.
KINDS = {patient: 60, leaving: 15, slow: 10, malformed: 8, half_open: 7}


async def client(
    address: Address, asked: list[Asked], dice: random.Random, until_s: float
) -> dict[str, int]:
    """One client after the other, until the event loop's clock says so; how often each saw what."""
    loop = asyncio.get_running_loop()
    seen: dict[str, int] = {}
    while loop.time() < until_s:
        [kind] = dice.choices(list(KINDS), list(KINDS.values()))
        try:
            word = await kind(address, dice.choice(asked), dice)
        except (OSError, TimeoutError) as error:
            word = f"wrong: {kind.__name__} met {type(error).__name__}: {error}"
        seen[word] = seen.get(word, 0) + 1
        if word.startswith("refused"):
            await asyncio.sleep(dice.uniform(*_AGAIN_S))
    return seen
