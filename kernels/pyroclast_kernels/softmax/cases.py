"""The cases of `softmax`: logits of every kind that `sample` is tested on, and its options."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.cases import Arguments, Array, Case
from pyroclast_kernels.sample import pack_allowed
from pyroclast_kernels.sample.cases import LOGITS, SIZES, VOCAB_SIZE, RowCase

# A weight 2^y has the relative error of its float32 exponent, |y| 2^-23, and of the polynomial;
# y reaches -125 before the weight is 0.  Logarithms: half a unit in the last place of each term.
RELATIVE_TOLERANCE = 125 * 2.0**-23 + 4e-7
SMALLEST = 2.0**-124  # weights below may be 0
LOG_TOLERANCE = 2.0**-22


def logits_of(name: str, n_cols: int, n_rows: int = 1) -> Array:
    """Float32 (n_rows, n_cols): logits of one kind."""
    return np.stack([RowCase(name, n_cols).logits(seed) for seed in range(n_rows)])


def arguments_of(
    logits: Array,
    *,
    temperatures: Any = None,
    bias: Array | None = None,
    allowed: Array | None = None,
    log: bool = False,
) -> Arguments:
    """The op's arguments, with 3 spare columns in `out` that must keep their 77."""
    n_rows, n_cols = logits.shape
    out = np.full((n_rows, n_cols + 3), 77.0, np.float32)
    return {
        "logits": logits,
        "n_rows": np.array([n_rows], np.int64),
        "temperatures": None if temperatures is None else np.array(temperatures, np.float64),
        "bias": bias,
        "allowed": allowed,
        "out": out,
        "n_cols": n_cols,
        "logits_stride": logits.strides[0] // 4,
        "out_stride": out.strides[0] // 4,
        "log": int(log),
    }


def _make(
    name: str, n_cols: int, temperature: float, bias: bool, allowed: bool, log: bool
) -> Arguments:
    rng = np.random.default_rng(n_cols)
    masks = [pack_allowed(rng.permutation(n_cols)[: max(1, n_cols // 2)], n_cols) for _ in range(2)]
    return arguments_of(
        logits_of(name, n_cols, 2),
        temperatures=[temperature, 1.0],
        bias=rng.normal(0.0, 3.0, n_cols).astype(np.float32) if bias else None,
        allowed=np.stack(masks) if allowed else None,
        log=log,
    )


def _bound(arguments: Arguments, expected: Array) -> Array:
    if arguments["log"]:
        return LOG_TOLERANCE * (2.0 + np.abs(expected))
    bound: Array = RELATIVE_TOLERANCE * expected + SMALLEST
    return bound


def _case(
    name: str,
    n_cols: int,
    temperature: float,
    bias: bool = False,
    allowed: bool = False,
    log: bool = False,
) -> Case:
    options = "-bias" * bias + "-allowed" * allowed + "-log" * log
    return Case(
        op="softmax",
        format="f32",
        name=f"{name}-{n_cols}-t={temperature:g}{options}",
        make=lambda: _make(name, n_cols, temperature, bias, allowed, log),
        outputs=("out",),
        bound=_bound,
        reason="float32 exponents",
        flops=2 * 22 * n_cols,  # an exponential counts as 20
        bytes=2 * 8 * n_cols,
    )


CASES = [
    *(_case(name, n, t) for name in LOGITS for n in SIZES for t in (0.0, 0.3, 2.0)),
    *(_case(name, n, t, log=True) for name in LOGITS for n in SIZES for t in (0.0, 0.5)),
    *(_case(name, n, 0.7, bias=True) for name in LOGITS for n in SIZES),
    *(_case(name, n, 0.7, allowed=True) for name in LOGITS for n in SIZES),
    *(_case(name, n, 0.7, True, True, True) for name in LOGITS for n in SIZES),
    _case("wide", VOCAB_SIZE, 0.8),
    _case("wide", VOCAB_SIZE, 0.8, log=True),
]

BENCH_CASES = [
    _case("wide", VOCAB_SIZE, 0.8),
    _case("wide", VOCAB_SIZE, 0.8, log=True),
    _case("wide", VOCAB_SIZE, 0.8, True, True),
]
