"""What takes longer than a step, and so is done in a thread and not in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

# Encoding this much text takes about as long as a step.
LONG_TEXT_CHARS = 8192


async def run(work: Callable[[], T], in_thread: bool) -> T:
    """The result of `work`, done here or in a thread."""
    return await asyncio.to_thread(work) if in_thread else work()


def is_long(source: Any) -> bool:
    """Whether a prompt, or what it is made of, has more text than is encoded within a step."""
    return _n_chars(source, LONG_TEXT_CHARS) > LONG_TEXT_CHARS


def _n_chars(source: Any, enough: int) -> int:
    """How many characters are in texts, messages and lists of them; counts no further than it
    takes to find `enough`."""
    if isinstance(source, str):
        return len(source)
    if isinstance(source, Mapping):
        source = list(source.values())
    if not isinstance(source, list | tuple):
        return 0
    n_chars = 0
    for each in source:
        n_chars += _n_chars(each, enough)
        if n_chars > enough:
            break
    return n_chars
