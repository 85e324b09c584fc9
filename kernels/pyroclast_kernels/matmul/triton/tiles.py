"""How the products of values.py are cut into tiles: nothing here changes a bit of a result.

Few tokens.  A weight is read once, so what counts is the bytes under way: 4.3 TB/s for 0.8 us are
3.4 MB, 26 KB on each of an H200's 132 multiprocessors.  A program has only `rows` of its tile's 64,
as many as put one program on each multiprocessor or fill the last wave best: 4096 rows are 128
programs of 32, 28672 are 512 of 56.  The others are zero: they cost no traffic, only room in shared
memory.  Alone on its multiprocessor a program of 32 rows keeps 9 stages of 32 x 128 x 2 B under
way, 72 KB; where there are more programs than multiprocessors, two run side by side with 4 stages
of 56 x 128 x 2 B each, 112 KB, and one computes while the other starts or ends.

Many tokens.  A tile of 128 rows and 256 tokens reads (128 + 256) x 2 B from the L2 for each
128 x 256 multiply-adds: 48 B a cycle at the full rate of the tensor cores, where 128 x 128 would
need 64, the most that a multiprocessor takes.  Where there are too few of the large tiles to go
round, smaller ones finish sooner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from pyroclast_kernels.triton import device as triton_device

_N_PROCESSORS = 132
# Shared memory of a multiprocessor by architecture, 99 KiB where it is not named; some of it is
# left to what Triton adds.
_SHARED_KIB = {80: 163, 87: 163, 90: 227, 100: 227, 103: 227}
_SPARE_KIB = 19
_MOST_STAGES = 10
_SMALL = 64 * 128  # results of a tile: two programs with such accumulators share a multiprocessor
_VALUE_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
# Up to so many tokens, the time of a product is that of its weight's way from memory.
_FEW_TOKENS = {"f32": 16, "f16": 64, "bf16": 64}
# (m, n) of a tile for many tokens -> what a multiply-add costs in it: the larger ones read less.
_COSTS = {
    "bf16": {(128, 256): 1.0, (128, 128): 1.2, (64, 128): 1.5},
    "f16": {(128, 128): 1.0, (64, 128): 1.2},
    "f32": {(64, 64): 1.0},
}
# Columns of a stage, for few tokens and for many: whole lines of 128 bytes.
_DEPTHS = {"bf16": (128, 64), "f16": (64, 32), "f32": (32, 32)}
# The interpreter's dot adds up a tile's columns before the sum so far: there depth changes bits.
_INTERPRETED_DEPTH = 256


@dataclass(frozen=True)
class ValueTile:
    """m rows by n tokens, k columns to a stage; `rows` of a result: of each part's share of the m
    rows, so many are used."""

    rows: int
    m: int
    n: int
    k: int
    n_warps: int
    n_stages: int


@cache
def architecture() -> int:
    """The GPU's: 90 for Hopper, which the interpreter passes for."""
    if triton_device.INTERPRETED:
        return 90
    from triton.runtime import driver

    return int(driver.active.get_current_target().arch)


@lru_cache(maxsize=1024)
def tile_of(
    format: str, x_bytes: int, n_rows: int, n_tokens: int, stacked: bool, parts: int = 1,
    whole: bool = False,
) -> ValueTile:  # fmt: skip
    """The tile for up to n_tokens tokens, whose values take x_bytes each, and n_rows rows of each
    part of a weight.  stacked: rows that are not all of a tile's must divide n_rows.  whole: all of
    a tile's rows are used."""
    few = n_tokens <= _FEW_TOKENS[format]
    k = _INTERPRETED_DEPTH if triton_device.INTERPRETED else _DEPTHS[format][0 if few else 1]

    def stage_bytes(m: int, n: int) -> int:
        copies = 4 / 3 if format == "bf16" and x_bytes == 4 else 1  # rounded, it stands there twice
        return int(k * (m * _VALUE_BYTES[format] + n * x_bytes * copies))

    shared = (_SHARED_KIB.get(architecture(), 99) - _SPARE_KIB) << 10
    if few:
        m, n = 64, max(16, 1 << (n_tokens - 1).bit_length())
        rows = m // parts if whole else _rows_of_few(n_rows, n, stacked, parts)
    else:
        shapes = _COSTS[format]
        fitting = [shape for shape in shapes if 2 * stage_bytes(*shape) <= shared]
        m, n = _shape_of_many(fitting or [min(shapes)], format, parts * n_rows, n_tokens)
        rows = m // parts
    n_tiles = -(-n_rows // rows) * -(-n_tokens // n)
    side_by_side = 2 if m * n <= _SMALL and n_tiles > _N_PROCESSORS else 1
    n_stages = shared // side_by_side // stage_bytes(m, n)
    n_stages = max(2, min(_MOST_STAGES, n_stages))
    return ValueTile(rows, m, n, k, 8 if m * n > _SMALL else 4, n_stages)


def _rows_of_few(n_rows: int, n: int, stacked: bool, parts: int) -> int:
    """Rows of a program with which the multiprocessors are done soonest, where each wave takes as
    long as its tile's rows and tokens take to arrive; with fewer than 16 most would be zeros."""
    most = 64 // parts

    def cost(rows: int) -> int:
        return -(-n_rows // (rows * _N_PROCESSORS)) * (parts * rows + n)

    fitting = (r for r in range(most, 8, -8) if r == most or not (stacked and n_rows % r))
    return min(fitting, key=cost)


def _shape_of_many(
    shapes: Iterable[tuple[int, int]], format: str, n_rows: int, n_tokens: int
) -> tuple[int, int]:
    """(m, n) with which the last of the multiprocessors is done soonest."""

    def cost(shape: tuple[int, int]) -> float:
        m, n = shape
        n_tiles = -(-n_rows // m) * -(-n_tokens // n)
        return -(-n_tiles // _N_PROCESSORS) * m * n * _COSTS[format][shape]

    return min(shapes, key=cost)


def other_tiles(
    tile: ValueTile, n_rows: int, parts: int, stacked: bool, whole: bool
) -> list[ValueTile]:
    """What else a product of few tokens may take for that tile of its own: other shares of rows,
    more or less under way, stages half as deep."""
    most = tile.m // parts
    rows = (
        r for r in (most, most // 2, most // 4 * 3) if r == most or not (stacked and n_rows % r)
    )
    found = [replace(tile, rows=r) for r in rows if r >= 16 and (r == most or not whole)]
    found.append(replace(tile, n_stages=max(2, tile.n_stages // 2)))
    if not triton_device.INTERPRETED:  # where depth changes bits
        found.append(replace(tile, k=tile.k // 2, n_stages=min(_MOST_STAGES, 2 * tile.n_stages)))
    return [other for other in dict.fromkeys(found) if other != tile]
