"""Cases of `rope_table` and `rope`: ragged sequences whose positions cross cache blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyroclast_kernels.attention import cache
from pyroclast_kernels.attention.cache import BLOCK_SIZE
from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.rope import FORMATS


@dataclass(frozen=True)
class Shape:
    """Heads of a model, and a ragged step: (first position, n_tokens) of each sequence."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    spans: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        spans = [f"{n}@{first}" for first, n in self.spans]
        if len(spans) > 4 and len(set(spans)) == 1:
            spans = [f"{len(spans)}x{spans[0]}"]
        return f"{self.n_heads}h{self.n_kv_heads}k{self.head_dim}d-{'+'.join(spans)}"

    @property
    def n_tokens(self) -> int:
        return sum(n for _, n in self.spans)

    @property
    def value_stride(self) -> int:
        return cache.value_stride(self.head_dim)


def paged(shape: Shape, format: str, rng: np.random.Generator) -> Arguments:
    """The arguments that rope and attention share: batch, qkv and caches, blocks shuffled."""
    n_tokens = shape.n_tokens
    max_blocks = max(-(-(first + n) // BLOCK_SIZE) for first, n in shape.spans) + 1
    n_blocks = max_blocks * len(shape.spans) + 2
    tables = rng.permutation(n_blocks)[: max_blocks * len(shape.spans)]
    width = (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim
    k, v = _filled(shape, format, n_blocks, rng)
    positions = np.concatenate([np.arange(first, first + n) for first, n in shape.spans])
    seq_index = np.repeat(np.arange(len(shape.spans)), [n for _, n in shape.spans])
    return {
        "n_tokens": np.array([n_tokens]),
        "n_seqs": np.array([len(shape.spans)]),
        "seq_starts": np.cumsum([0, *(n for _, n in shape.spans)]).astype(np.int32),
        "positions": positions.astype(np.int32),
        "seq_index": seq_index.astype(np.int32),
        "block_tables": tables.reshape(len(shape.spans), max_blocks).astype(np.int32),
        "qkv": rng.standard_normal((n_tokens, width)).astype(np.float32),
        "k_cache": k,
        "v_cache": v,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "block_size": BLOCK_SIZE,
        "max_blocks": max_blocks,
        "value_stride": shape.value_stride,
    }


def _filled(
    shape: Shape, format: str, n_blocks: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Caches whose every position holds normal deviates; values beyond head_dim are zero."""
    heads = (n_blocks, shape.n_kv_heads)
    dtype = cache.DTYPES[format]
    k, v = (np.zeros((*heads, *s), dtype) for s in cache.block_shapes(format, shape.head_dim))
    n_positions = n_blocks * BLOCK_SIZE
    block, slot = np.divmod(np.arange(n_positions), BLOCK_SIZE)
    keys, values = rng.standard_normal(
        (2, n_positions, shape.n_kv_heads, shape.head_dim), np.float32
    )
    cache.write(k, v, block, slot, keys, values, BLOCK_SIZE)
    return k, v


def _inv_freq(half: int) -> Array:
    return (1e4 ** -(np.arange(half) / half)).astype(np.float32)


def _table(n_tokens: int, half: int, amplitude: float) -> Arguments:
    positions = (np.arange(n_tokens + 1) * 977).astype(np.int32)
    return {
        "n_tokens": np.array([n_tokens]),
        "positions": positions,
        "inv_freq": _inv_freq(half),
        "out": np.full((n_tokens + 1, 2, half), 7, np.float32),
        "half_dim": half,
        "amplitude": amplitude,
    }


ORDER = (
    "n_tokens", "positions", "seq_index", "block_tables", "table", "qkv", "k_cache", "v_cache",
    "n_heads", "n_kv_heads", "head_dim", "rotary_dim", "block_size", "max_blocks", "value_stride",
    "temperature", "temperature_length",
)  # fmt: skip


def _rope(
    shape: Shape, format: str, rotary_dim: int, temperature: float, temperature_length: int
) -> Arguments:
    rng = np.random.default_rng(shape.n_tokens)
    arguments = paged(shape, format, rng)
    arguments |= rotation(arguments["positions"], rotary_dim, temperature, temperature_length)
    return {name: arguments[name] for name in ORDER}


def rotation(
    positions: Array, rotary_dim: int, temperature: float, temperature_length: int
) -> Arguments:
    """The arguments of rope that say how it rotates tokens at these positions."""
    angles = positions[:, None] * _inv_freq(rotary_dim // 2)
    return {
        "table": np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
        "rotary_dim": rotary_dim,
        "temperature": temperature,
        "temperature_length": temperature_length,
    }


def _bound(arguments: Arguments, expected: Array) -> Array | float:
    """Two products and a sum: 3 eps of the pair's length; a float16 cell rounds once more.  The
    temperature's factor is off by an eps itself, and its product by half of one.
    Cells in bf16 and q8_0 are compared bit for bit: the same operations in the same order, which
    no variant that knows these formats fuses."""
    if expected.dtype in (np.uint8, np.uint16):
        return 0.0
    length = 10.0  # the normal deviates of the cases stay below 5
    half_step = 2.0**-10 * np.abs(expected.astype(np.float64))
    error = 3 * EPS * length + (half_step if expected.dtype == np.float16 else 0.0)
    if arguments["temperature"] > 0:
        steps = 1 + int(arguments["positions"].max()) // arguments["temperature_length"]
        error = 1.5 * (1 + arguments["temperature"] * np.log(steps)) * error
    return error


def _position_bytes(shape: Shape, format: str) -> int:
    """Of a key and a value of one kv head in the cache."""
    sizes = cache.block_shapes(format, shape.head_dim)
    cells = sum(int(np.prod(size)) for size in sizes)
    return cells * np.dtype(cache.DTYPES[format]).itemsize // BLOCK_SIZE


def _rope_case(
    shape: Shape,
    format: str,
    rotary_dim: int | None = None,
    temperature: float = 0.0,
    temperature_length: int = 1,
) -> Case:
    """rotary_dim None: the whole head."""
    dim = shape.head_dim if rotary_dim is None else rotary_dim
    return Case(
        op="rope",
        format=format,
        name=str(shape)
        + f"-rotary{dim}" * (dim < shape.head_dim)
        + f"-temperature{temperature:g}by{temperature_length}" * (temperature > 0),
        make=lambda: _rope(shape, format, dim, temperature, temperature_length),
        outputs=("qkv", "k_cache", "v_cache"),
        bound=_bound,
        reason="3 eps of the pair's length, and one rounding to the cache's format",
        flops=6 * shape.n_tokens * (shape.n_heads + shape.n_kv_heads) * dim,
        bytes=shape.n_tokens * shape.head_dim * (8 * shape.n_heads + 12 * shape.n_kv_heads + 4)
        + shape.n_tokens * shape.n_kv_heads * _position_bytes(shape, format),
    )


def _table_case(n_tokens: int, half: int, amplitude: float = 1.0) -> Case:
    return Case(
        op="rope_table",
        format="f32",
        name=f"{n_tokens}x{half}" + f"-amplitude{amplitude:g}" * (amplitude != 1),
        make=lambda: _table(n_tokens, half, amplitude),
        outputs=("out",),
        bound=lambda arguments, expected: EPS * amplitude,
        reason="amplitude times a float64 cosine, both rounded to float32: two half ulps",
        flops=80 * n_tokens * half,  # a sine or cosine counts as 40
        bytes=8 * n_tokens * half,
    )


_SHAPES = [
    Shape(1, 1, 2, ((0, 1),)),
    Shape(9, 3, 64, ((0, 5), (31, 2), (100, 1))),
    Shape(14, 2, 24, ((63, 3),)),
    Shape(2, 1, 80, ((31, 2),)),  # in q8_0 groups of 32, 32 and 16 dimensions
    Shape(32, 8, 64, ((7, 40),)),
]
_QUERIES = Shape(6, 0, 24, ((31, 2),))  # alone, where a layer reads another's cache

# (rotary_dim, temperature, temperature_length): heads that rotate in part, down to nothing, and
# queries that grow with their position.
_ROTATIONS: list[tuple[Shape, tuple[int, float, int]]] = [
    (Shape(9, 3, 64, ((0, 5), (31, 2), (100, 1))), (16, 0.0, 1)),
    (Shape(4, 2, 80, ((31, 2),)), (20, 0.0, 1)),  # no half of a head, nor of a rest, fills a vector
    (Shape(2, 1, 48, ((30, 40),)), (46, 0.0, 1)),
    (Shape(3, 1, 64, ((0, 3), (40, 2))), (0, 0.0, 1)),
    (Shape(9, 3, 64, ((0, 5), (31, 2), (100, 1))), (64, 0.5, 16)),
    (Shape(2, 1, 24, ((0, 1), (95, 3))), (8, 0.7, 32)),
    (Shape(2, 1, 64, ((7, 40),)), (0, 0.1, 3)),
]

CASES = [
    *(_table_case(n, half) for n, half in [(1, 1), (5, 32), (33, 12)]),
    *(_table_case(7, 12, amplitude) for amplitude in (1.25, 1.19023)),
    *(_rope_case(shape, f) for f in FORMATS for shape in _SHAPES),
    *(_rope_case(shape, f, *how) for f in FORMATS for shape, how in _ROTATIONS),
    # The reference cannot look at a cache of nothing in q8_0.
    *(_rope_case(_QUERIES, f) for f in FORMATS if f != "q8_0"),
]

# Llama 1B's heads: one token of 16 sequences, and a prompt.
_BENCH_SHAPES = [
    Shape(32, 8, 64, tuple((512, 1) for _ in range(16))),
    Shape(32, 8, 64, ((0, 512),)),
]
BENCH_CASES = [
    *(_table_case(n, 32) for n in (1, 512)),
    *(_rope_case(shape, f) for f in FORMATS for shape in _BENCH_SHAPES),
]
