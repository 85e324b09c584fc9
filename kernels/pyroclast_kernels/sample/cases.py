"""The cases of `sample`: kinds of logits under sets of parameters, for tests and benchmarks.

CASES are whole calls in the form that all ops share.  tests/test_sample.py goes through the product
of LOGITS, SIZES and PARAMS besides, and allows for what float32 sums may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyroclast_kernels import cases
from pyroclast_kernels.sample import BIAS, OUT, PENALTY, Array, new_rows, scratch_bytes

# Kernels add float32 weights, whose exponents y = (logit - max) / temperature carry an error of
# about |y| 2^-23 (3e-6 at the y = -25 below which a weight no longer counts), in blocks of 1024.
CDF_TOLERANCE = 4e-6
LOGPROB_TOLERANCE = 4e-6  # absolute, plus half a unit in the last place of the float32 result


@dataclass(frozen=True)
class RowCase:
    """Logits of one kind and size under one set of parameters."""

    logits_name: str
    vocab_size: int
    params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = "-".join(f"{name}={value}" for name, value in self.params.items()) or "plain"
        return f"{self.logits_name}-{self.vocab_size}-{shown}"

    def logits(self, seed: int = 0) -> Array:
        """Float32 (vocab_size,)."""
        rng = np.random.default_rng([seed, self.vocab_size])
        return LOGITS[self.logits_name](rng, self.vocab_size).astype(np.float32)

    def row(self, seed: int = 0, position: int = 0) -> Array:
        """ROW (1,) with the case's parameters."""
        rows = new_rows(1)
        for name, value in {**self.params, "seed": seed, "position": position}.items():
            rows[name] = value
        return rows


def _model_like(rng: np.random.Generator, n: int) -> Array:
    """A few tokens far above a broad bulk, as a language model gives them."""
    logits = rng.normal(0.0, 2.5, n)
    best = rng.permutation(n)[: max(1, n // 1000)]
    logits[best] += rng.exponential(5.0, len(best))
    return logits


def _steps(rng: np.random.Generator, n: int) -> Array:
    """Long runs of equal values."""
    return np.floor(rng.normal(0.0, 2.0, n))


def _narrow(rng: np.random.Generator, n: int) -> Array:
    """Nearly equal: neighbouring floats, with one outlier that spoils an even histogram."""
    logits = 1.0 + rng.integers(0, 64, n) * 2.0**-23
    logits[n // 2] = 8.0
    return logits


def _ladder(rng: np.random.Generator, n: int) -> Array:
    """Differences of every magnitude: a bulk whose neighbours halve their distance again and
    again, the worst for a histogram that cuts ranges evenly.
    """
    return -np.exp2(-rng.uniform(0.0, 120.0, n))


def _far(rng: np.random.Generator, n: int) -> Array:
    """Huge spread: all but one weight are 0."""
    return rng.normal(0.0, 1e4, n)


def _holes(rng: np.random.Generator, n: int) -> Array:
    """Nine of ten tokens at -inf."""
    logits = rng.normal(0.0, 3.0, n)
    logits[rng.permutation(n)[: n * 9 // 10]] = -np.inf
    return logits


LOGITS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "model": _model_like,
    "normal": lambda rng, n: rng.normal(0.0, 1.0, n),
    "wide": lambda rng, n: rng.normal(0.0, 4.0, n),
    "flat": lambda rng, n: np.zeros(n) * rng.random(),
    "falling": lambda rng, n: np.sort(rng.normal(0.0, 3.0, n))[::-1],
    "rising": lambda rng, n: np.sort(rng.normal(0.0, 3.0, n)),
    "steps": _steps,
    "narrow": _narrow,
    "ladder": _ladder,
    "far": _far,
    "holes": _holes,
}

PARAMS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 1.5},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 1000},
    {"top_k": 20000},
    {"top_p": 0.0},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.9999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"typical_p": 0.0},
    {"typical_p": 0.9},
    {"top_n_sigma": 1.0},
    {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.2, "typical_p": 0.9, "top_p": 0.8},
    {
        "temperature": 0.9,
        "top_n_sigma": 3.0,
        "min_p": 0.001,
        "top_k": 2000,
        "typical_p": 0.95,
        "top_p": 0.9,
    },
)

SIZES = (1, 2, 17, 64, 1000, 5003)
VOCAB_SIZE = 128_256  # Llama 3's: what the benchmarks use


def row_cases() -> Iterator[RowCase]:
    """Small, but odd sizes, every kind of logits, every combination of stages."""
    for name in LOGITS:
        for size in SIZES:
            for params in PARAMS:
                yield RowCase(name, size, params)


def arguments_of(
    logits: Array,
    rows: Array,
    *,
    penalties: Any = (),
    biases: Any = (),
    allowed: Any = (),
    max_top: int = 8,
    max_parts: int = 16,
) -> dict[str, Any]:
    """The op's arguments for logits (n_rows, vocab_size), with fresh outputs and scratch memory."""
    n_rows, vocab_size = logits.shape
    scratch_stride = -(-scratch_bytes(vocab_size) // 64) * 64
    raw = np.empty(max_parts * scratch_stride + 64, np.uint8)
    start = -raw.ctypes.data % 64
    scratch = raw[start : start + max_parts * scratch_stride].reshape(max_parts, scratch_stride)
    return {
        "logits": logits,
        "n_rows": np.array([n_rows], np.int64),
        "rows": rows,
        "penalties": np.array(list(penalties), PENALTY),
        "biases": np.array(list(biases), BIAS),
        "allowed": np.array(allowed, np.uint32),
        "out": np.zeros(n_rows, OUT),
        "top_ids": np.zeros((n_rows, max_top), np.int32),
        "top_logprobs": np.zeros((n_rows, max_top), np.float32),
        "scratch": scratch,
        "vocab_size": vocab_size,
        "logits_stride": logits.strides[0] // 4,
        "max_top": max_top,
        "scratch_stride": scratch_stride,
    }


def _make(case: RowCase) -> dict[str, Any]:
    row = case.row(seed=1)
    row["want_logprob"], row["n_top"] = 1, min(5, case.vocab_size)
    return arguments_of(case.logits()[None], row)


def _case(logits_name: str, vocab_size: int, **params: Any) -> cases.Case:
    case = RowCase(logits_name, vocab_size, params)
    return cases.Case(
        op="sample",
        format="f32",
        name=str(case),
        make=lambda: _make(case),
        outputs=("out", "top_ids", "top_logprobs"),
        bound=lambda _, expected: LOGPROB_TOLERANCE + 2.0**-23 * np.abs(expected),
        reason="ids are exact; a log-probability has a float32 sum of weights in it",
        flops=22 * vocab_size,  # an exponential counts as 20
        bytes=8 * vocab_size,  # the logits, for their maximum and for their weights
    )


CASES = [
    _case("model", 1000),
    _case("model", 5003, temperature=0.8, top_k=50, top_p=0.95),
    # The rows of the table in bench/sampling.py
    _case("wide", VOCAB_SIZE, temperature=0.0),
    _case("wide", VOCAB_SIZE, temperature=0.8),
    _case("wide", VOCAB_SIZE, temperature=0.8, top_p=0.95),
    _case("wide", VOCAB_SIZE, temperature=0.8, top_k=50, top_p=0.95),
    _case("wide", VOCAB_SIZE, temperature=0.8, min_p=0.05),
    # ... and what could be slow
    *(_case(name, VOCAB_SIZE, top_p=0.95) for name in LOGITS),
]
