"""The beginning of a request's prompt as text, by which a router sends it to the replica that has
cached it.  Approximate: nothing is rendered, and only where to compute depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

# In the order in which chat templates write them.  Prompts with different salts share no cache.
_FIELDS = ("cache_salt", "system", "instructions", "tools", "messages", "input", "prompt")
# A shorter prompt has a cache block or two to reuse: it goes where there is room.
_MIN_CHARS = 256
# Prompts that are alike so far are alike for a router, too.
_MAX_CHARS = 8192
# A front reads bodies between the pieces of other replies, so it must not read for long.  More than
# most contexts hold:
_MAX_BODY_BYTES = 1 << 20
_MAX_VALUES = 4 * _MAX_CHARS  # lists and empty texts among them


def prefix_text(body: bytes) -> str | None:
    """The first _MAX_CHARS characters; None for a body without a prompt, with a short one, or too
    long to be read here."""
    if len(body) > _MAX_BODY_BYTES:
        return None
    try:
        fields = msgspec.json.decode(body) if body else None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None  # the replica says what is wrong
    if not isinstance(fields, dict):
        return None
    # All replicas have one model, but prompts with different adapters share no cache either.
    adapter = str(fields.get("model")).partition(":")[2][:_MAX_CHARS]
    pieces: list[str] = [adapter]
    n_chars = len(adapter)
    for name in _FIELDS:
        for piece in _texts(fields.get(name)):
            pieces.append(piece[: _MAX_CHARS - n_chars])
            n_chars += len(pieces[-1])
            if n_chars >= _MAX_CHARS:
                return "".join(pieces)
    return "".join(pieces) if n_chars >= _MIN_CHARS else None


def _texts(value: Any) -> Iterator[str]:
    """The texts in a JSON value, in order; token ids as such."""
    waiting = [value]
    for _ in range(_MAX_VALUES):
        if not waiting:
            return
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, int) and not isinstance(each, bool):
            yield f"{each},"
        elif isinstance(each, dict):
            waiting += reversed(each.values())
        elif isinstance(each, list):
            waiting += reversed(each)
