"""How the experts of a step are shared among parts, in Numba: see experts/cpp/experts.h."""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.experts.numba.tiles import TILE, tile_of
from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import (
    at,
    inline,
    load_i32,
    load_i64,
    load_pointer,
    paste,
    stack,
    store_i64,
)

# Byte offsets of both argument structs.
N_TOKENS, X, WEIGHT, BIAS, ORDER, STARTS = range(0, 48, 8)
# As in C++: a panel is read once from memory, then from L2 for each further tile of pairs; what
# reading a row's weights costs, in tokens' products with it.
_PANEL_BYTES = 512 * 1024
_READ_COST = 3


@inline
def _cost_of(starts: Any, expert: int) -> int:
    n = int(load_i32(starts, 4 * expert + 4)) - int(load_i32(starts, 4 * expert))
    return n + _READ_COST if n > 0 else 0


@inline
def _item_at(place: int, before: int, cost: int, n_items: int) -> int:
    """The first item of an expert that begins at `place` or later."""
    return min(n_items, (max(0, place - before) + cost - 1) // cost)


@inline
def _point(pointers: Any, args: Any, pairs: Any, n: int, divisor: int, row_bytes: int) -> None:
    """The addresses of n pairs' activations."""
    for m in range(n):
        row = int(load_i32(pairs, 4 * m)) // divisor
        store_i64(pointers, 8 * m, load_i64(args, X) + row * row_bytes)


@paste
def _share(args: Any, expert: int, begin: int, end: int, sizes: Any, work: Any) -> None:
    """An expert's items [begin, end): panel of items -> tile of pairs -> item."""
    (_, divisor, row_bytes, item_bytes), (kind, item) = sizes, work
    starts = load_pointer(args, STARTS)
    first, last = int(load_i32(starts, 4 * expert)), int(load_i32(starts, 4 * expert + 4))
    step, pointers = max(1, _PANEL_BYTES // item_bytes), stack(64)
    for panel in range(begin, end, step):
        done = first
        while done < last:
            n, pairs = tile_of(last - done), at(load_pointer(args, ORDER), 4 * done)
            _point(pointers, args, pairs, n, divisor, row_bytes)
            for i in range(panel, min(panel + step, end)):
                item(args, expert, i, pairs, n, pointers, kind)
            done += n


@paste
def run(args: Any, part: int, n_parts: int, n_experts: int, sizes: Any, work: Any) -> None:
    """Calls item(args, expert, number, pairs, n, pointers, kind) for this part's items.

    sizes: (items of an expert, pairs that share a row of x, bytes of that row, bytes of an item);
    work: (kind, item), since Numba takes a tuple that begins with a function for one of
    functions by address, which it cannot cache."""
    n_items = sizes[0]
    if load_i64(load_pointer(args, N_TOKENS), 0) == 0:
        return
    starts, total, before = load_pointer(args, STARTS), 0, 0
    for e in range(n_experts):
        total += _cost_of(starts, e) * n_items
    begin, end = split_begin(total, part, n_parts), split_begin(total, part + 1, n_parts)
    for e in range(n_experts):
        cost = _cost_of(starts, e)
        if cost > 0:
            first = _item_at(begin, before, cost, n_items)
            last = _item_at(end, before, cost, n_items)
            if first < last:
                _share(args, e, first, last, sizes, work)
            before += cost * n_items


assert TILE * 8 <= 64, "the pointers of a tile fit their stack"
