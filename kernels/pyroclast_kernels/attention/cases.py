"""Cases of `attention`: one token and many, odd groups, split boundaries, windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.attention import FORMATS, SPLIT, cache
from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.q8_blocks import BLOCK, Q8_BLOCK
from pyroclast_kernels.rope.cases import Shape, paged

MAX_SPLIT_TOKENS = 4  # cases with more tokens than this take the path of many tokens


def _attention(
    shape: Shape,
    format: str,
    window: int,
    quantized: bool,
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: float | None = None,
) -> Arguments:
    """scale None: 1 / sqrt(head_dim).  sinks: about which number they lie."""
    rng = np.random.default_rng([shape.n_tokens, shape.head_dim])
    arguments = paged(shape, format, rng)
    n_tokens, width = shape.n_tokens, shape.n_heads * shape.head_dim
    longest = max(first + n for first, n in shape.spans)
    max_splits = -(-longest // SPLIT)
    cells = (MAX_SPLIT_TOKENS * shape.n_heads, max_splits, shape.value_stride + 2)
    arguments |= {
        "out": np.full((n_tokens + 1, width), 7, np.float32),
        "out_q8": np.zeros((n_tokens + 1, width // BLOCK), Q8_BLOCK) if quantized else None,
        "scratch": np.zeros(cells, np.float32),
        "counters": np.zeros(cells[0], np.int32),
        "window": window,
        "scale": shape.head_dim**-0.5 if scale is None else scale,
        "softcap": softcap,
        "sinks": None if sinks is None else _sinks(shape, sinks),
        "max_splits": max_splits,
        "max_split_tokens": MAX_SPLIT_TOKENS,
    }
    order = (
        "n_tokens", "n_seqs", "seq_starts", "positions", "block_tables", "qkv", "k_cache",
        "v_cache", "out", "out_q8", "scratch", "counters", "n_heads", "n_kv_heads", "head_dim",
        "block_size", "max_blocks", "value_stride", "window", "scale", "softcap",
        "sinks", "max_splits", "max_split_tokens",
    )  # fmt: skip
    return {name: arguments[name] for name in order}


def _sinks(shape: Shape, about: float) -> Array:
    rng = np.random.default_rng(shape.n_heads)
    return (about + rng.standard_normal(shape.n_heads)).astype(np.float32)


def _bound(arguments: Arguments, expected: Array) -> float:
    """A score's error shifts its exponent; the weighted mean then moves by as much of max |v|.

    A cap damps the error of a score, and adds that of a quotient, a tanh of 3 ulp and a product.  A
    sink only makes weights smaller.
    bf16: rounding each weight moves the mean by at most 2^-9 of max |v|, and its divisor too.
    q8_0: a query is off by 2^-16 of its largest value; n weights by up to half a step of 2^-15 of
    the largest each, which add up like independent errors: six standard deviations."""
    head_dim, longest = arguments["head_dim"], int(arguments["positions"].max()) + 1
    spread = arguments["scale"] * np.sqrt(head_dim)  # the standard deviation of scores
    score_error = (head_dim + 2) * EPS * np.sqrt(head_dim) * 4 * spread  # |q||k| scale, |v| < 5
    score_error += 5 * EPS * arguments["softcap"]
    mean_error = (longest / 16 + 16) * EPS
    if arguments["k_cache"].dtype == np.uint16:
        mean_error += 2 * 2.0**-9
    if arguments["k_cache"].dtype == np.uint8:
        score_error += 2.0**-16 * 5 * 6 * spread  # a sum of head_dim such errors
        mean_error += 6 * 2.0**-16 * np.sqrt(longest / 3)
    return float(5 * (2 * score_error + mean_error))


def _rounded(arguments: Arguments, expected: Array) -> float:
    """For variants that round operands to the cache's 16 bits: with f16 a query is off by up to
    2^-11 of itself, and head_dim such errors add up like independent ones, six standard deviations;
    an exponential by as much, and the divisor too."""
    bound = _bound(arguments, expected)
    if arguments["k_cache"].dtype != np.float16:
        return bound  # with bf16 the reference rounds queries, and _bound allows for the rest
    spread = arguments["scale"] * np.sqrt(arguments["head_dim"])
    return float(bound + 5 * (2 * 6 / np.sqrt(3) * spread + 2) * 2.0**-11)


def _case(
    shape: Shape,
    format: str,
    window: int = 0,
    quantized: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: float | None = None,
) -> Case:
    n_pairs = sum(min(p + 1, window or p + 1) for f, n in shape.spans for p in range(f, f + n))
    cell = np.dtype(cache.DTYPES[format]).itemsize
    block_bytes = sum(int(np.prod(s)) * cell for s in cache.block_shapes(format, shape.head_dim))
    longest = sum(first + n for first, n in shape.spans)
    return Case(
        op="attention",
        format=format,
        name=str(shape)
        + f"-window{window}" * (window > 0)
        + "-q8" * quantized
        + f"-scale{scale}" * (scale is not None)
        + f"-cap{softcap:g}" * (softcap > 0)
        + f"-sinks{sinks}" * (sinks is not None),
        make=lambda: _attention(shape, format, window, quantized, scale, softcap, sinks),
        outputs=("out", "out_q8", "counters"),
        bound=_bound,
        reason="score error (d + 2) eps |q||k| scale, doubled by the quotient, times max |v|; "
        "in bf16 and q8_0 the rounding of queries and weights on top",
        rounded=_rounded,
        flops=4 * n_pairs * shape.n_heads * shape.head_dim,
        bytes=longest * shape.n_kv_heads * block_bytes // cache.BLOCK_SIZE,
    )


_SHAPES = [
    Shape(1, 1, 2, ((0, 1),)),
    Shape(9, 3, 64, ((0, 1),)),
    Shape(9, 3, 64, ((511, 1), (512, 1), (1100, 1))),  # around the edges of a split, several
    Shape(9, 3, 64, ((600, 1),)),
    Shape(14, 2, 24, ((40, 3),)),  # a group of 7, a head that does not fill its vectors
    Shape(9, 3, 64, ((0, 45), (30, 7), (600, 1))),  # prefill and decode side by side
    Shape(4, 4, 80, ((500, 40),)),  # a tile that straddles two splits
    Shape(40, 1, 16, ((3, 2), (9, 6))),  # more query heads than a group of rows
    Shape(100, 1, 8, ((0, 2), (33, 5))),  # more query heads than a tile has rows
    Shape(3, 3, 128, ((0, 17),)),  # no group, 17 tokens
    Shape(7, 1, 80, ((1530, 9), (0, 33))),  # a tile that ends in another split than it begins
    Shape(4, 2, 256, ((510, 3), (1023, 1))),  # few tokens beside an edge
    Shape(2, 1, 512, ((510, 3), (40, 17))),  # the largest head
]

# Scales, caps and sinks, alone and with each other and a window: small scores and scores far above
# the cap, sinks amid the scores (whose exponentials sum to some e^7) and where they decide all or
# nothing, few tokens and many, one split and several.
_SCORING: list[tuple[Shape, dict[str, Any]]] = [
    (Shape(9, 3, 64, ((600, 1), (40, 7))), {"scale": 0.25}),
    (Shape(6, 2, 80, ((600, 1), (40, 7))), {"scale": 0.05}),
    (Shape(9, 3, 64, ((600, 1),)), {"scale": 0.5, "softcap": 2.0}),
    (Shape(9, 3, 64, ((0, 45), (30, 7), (600, 1))), {"scale": 0.5, "softcap": 3.0}),
    (Shape(14, 2, 24, ((90, 60),)), {"softcap": 1.5, "window": 33}),
    (Shape(4, 2, 256, ((510, 3), (1023, 1))), {"scale": 0.25, "softcap": 4.0}),
    (Shape(9, 3, 64, ((1100, 1), (5, 1))), {"sinks": 7.0}),
    (Shape(8, 1, 64, ((1200, 6), (3, 9))), {"sinks": 3.0, "window": 128}),
    (Shape(9, 3, 64, ((600, 1), (40, 7))), {"sinks": -60.0}),
    (Shape(9, 3, 64, ((600, 1), (40, 7))), {"sinks": 60.0}),
    (Shape(40, 1, 16, ((700, 3), (9, 6))), {"softcap": 2.0, "sinks": 6.0}),
    (Shape(4, 2, 80, ((1200, 2),)), {"scale": 0.3, "softcap": 5.0, "sinks": 8.0, "window": 600}),
    (Shape(4, 2, 256, ((500, 40),)), {"softcap": 2.5, "sinks": 5.0, "window": 100}),
]

# The comparison of 8-bit outputs wants the float32 values to agree to 1e-5, which rounding weights
# to bf16 does not allow: tests/kernels/test_attention.py
# compares those with the float32 output instead.
_FLOAT_FORMATS = ("f32", "f16")

CASES = [
    *(_case(shape, f) for f in FORMATS for shape in _SHAPES),
    *(_case(Shape(9, 3, 64, ((70, 9),)), f, 33) for f in FORMATS),
    *(_case(Shape(9, 3, 64, ((1200, 2),)), f, 600) for f in FORMATS),
    *(_case(Shape(6, 2, 48, ((1500, 24),)), f, 500) for f in FORMATS),
    *(_case(Shape(9, 3, 64, ((5, 6),)), f, 0, True) for f in _FLOAT_FORMATS),
    *(_case(Shape(9, 3, 64, ((600, 1),)), f, 0, True) for f in _FLOAT_FORMATS),
    *(_case(shape, f, **scoring) for f in FORMATS for shape, scoring in _SCORING),
]

# Decoding one token after 512 and 4096, the same for 8 sequences, and a chunk of a prompt at these
# depths, with the heads of Llama 1B; in the usual formats also those of SmolLM2 135M and Llama 8B.
# Chunks are short, or NumPy would take too long.
_SPANS = [((512, 1),), ((4096, 1),), ((512, 1),) * 8, ((512, 128),), ((4096, 32),)]
_LLAMA_1B = (32, 8, 64)
_LAYOUTS = [("f16", (9, 3, 64)), ("f16", _LLAMA_1B), ("bf16", (32, 8, 128)), ("f32", _LLAMA_1B)]
BENCH_CASES = [_case(Shape(*heads, spans), f) for f, heads in _LAYOUTS for spans in _SPANS]
