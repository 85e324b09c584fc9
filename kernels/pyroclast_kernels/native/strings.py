"""Strings as GGUF files have them: each behind its length, uint64 in 8 bytes, little-endian; and
the pairs of tokens in them.

Native code takes a third to a fifth of Python's time.  Without NumPy, as `tokenize` needs none.
"""

from __future__ import annotations

import importlib
from typing import Any


def load_executor() -> Any:
    """The native module of the executor, of file loading and of strings, or None where there was no
    compiler (`pyroclast doctor` tells)."""
    name = "pyroclast_kernels._executor"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


_native = load_executor()


def step_over(data: bytes, start: int, count: int) -> tuple[int, int]:
    """(How many of at most `count` strings lie whole in data from start on, where the last of them
    ends.)  (0, start) where native code was left out."""
    return (0, start) if _native is None else _native.step_over_strings(data, start, count)


def decode(data: bytes, count: int) -> list[str] | None:
    """`count` strings of UTF-8 that data consists of.  None where it does not, or where native code
    was left out."""
    return None if _native is None else _native.decode_strings(data, count)


def split_pairs(lines: list[str]) -> list[tuple[str, str]] | None:
    """Each line as what stands before and behind its first space; a first character that is one
    belongs to what stands before.  None where a line has no other space, or where native code was
    left out."""
    return None if _native is None else _native.split_pairs(lines)
