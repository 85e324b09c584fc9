"""Sorting a few candidates in Numba: by falling value, rising index among equals."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.numba.masks import ordered
from pyroclast_kernels.numba.simd import apart, inline, load_i64, outline, store_i64


@inline
def falling_key(value: Any, index: Any) -> Any:
    """An integer that is smaller where the value is greater, or equal and the index smaller."""
    return (np.int64(~ordered(value)) << 32) | index


@inline
def index_of_key(key: int) -> Any:
    return key & 0xFFFFFFFF


@inline
def _merge(source: Any, to: Any, begin: int, middle: int, end: int) -> None:
    """Two sorted runs into one, without a branch that depends on a key."""
    i, j, k = begin, middle, begin
    while i < middle and j < end:
        a, b = load_i64(source, 8 * i), load_i64(source, 8 * j)
        takes_first = a < b
        store_i64(to, 8 * k, a if takes_first else b)
        i, j, k = i + takes_first, j + (not takes_first), k + 1
    while i < middle:
        store_i64(to, 8 * k, load_i64(source, 8 * i))
        i, k = i + 1, k + 1
    while j < end:
        store_i64(to, 8 * k, load_i64(source, 8 * j))
        j, k = j + 1, k + 1


@outline
def sorted_keys(keys: Any, spare: Any, n: int) -> Any:
    """The n keys (int64, no two alike) in rising order: in `keys` or `spare`, whose memory is
    both used."""
    apart()
    width = 1
    while width < n:
        for begin in range(0, n, 2 * width):
            _merge(keys, spare, begin, min(begin + width, n), min(begin + 2 * width, n))
        keys, spare = spare, keys
        width *= 2
    return keys
