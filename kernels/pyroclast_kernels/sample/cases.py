"""The cases of `sample`: kinds of logits under sets of parameters, for tests and benchmarks.

CASES are whole calls in the form that all ops share.  tests/kernels/test_sample_reference.py goes
through the product of LOGITS, SIZES and PARAMS besides, and allows for what float32 sums may
change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyroclast_kernels import cases
from pyroclast_kernels.sample import (
    BIAS,
    OUT,
    PENALTY,
    Array,
    kinds,
    new_rows,
    pack_allowed,
    reference,
    scratch_bytes,
)

LOGITS = kinds.LOGITS

# Kernels add float32 weights, whose exponents y = (logit - max) / temperature carry an error of
# about |y| 2^-23 (3e-6 at the y = -25 below which a weight no longer counts), in blocks of 1024.
CDF_TOLERANCE = 4e-6
LOGPROB_TOLERANCE = 4e-6  # absolute, plus half a unit in the last place of the float32 result
REASON = (
    "ids and ranks are exact; counts and log-probabilities have a float32 sum of weights in them"
)


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


def _make_mixed(vocab_size: int) -> dict[str, Any]:
    """A row for each of PARAMS, on logits of every kind in turn, with penalties on every second,
    biases on every third and a mask on every fourth; then what is scored, alone, or no
    distribution."""
    n_rows, names = len(PARAMS) + 5, list(LOGITS)
    rng = np.random.default_rng(vocab_size)
    rows, index = new_rows(n_rows), np.arange(n_rows)
    for r, params in enumerate(PARAMS):
        for name, value in params.items():
            rows[name][r] = value
    rows["seed"], rows["position"], rows["completion"] = index, 100 + index, index % 3
    rows["n_top"], rows["want_logprob"] = index % 6, index % 5 < 3
    logits = [RowCase(names[r % len(names)], vocab_size).logits(r) for r in range(n_rows)]
    rows["repetition_penalty"], rows["presence_penalty"] = 1.3, 0.4
    rows["frequency_penalty"] = -0.2
    rows["penalty_start"], rows["n_penalties"] = 10 * index, np.where(index % 2, 0, 20)
    rows["bias_start"], rows["n_biases"] = 5 * index, np.where(index % 3, 0, 15)
    n_words = -(-vocab_size // 32)
    rows["allowed_start"] = np.where(index % 4, -1, n_words * index)
    masks: list[Any] = [rng.permutation(vocab_size)[: vocab_size // 2] for _ in index]
    rows["allowed_start"][-5:], rows["want_logprob"][-5:] = -1, 1
    rows["target"][-5], masks[-4] = 7, [vocab_size - 1]
    rows["allowed_start"][-4] = n_words * (n_rows - 4)
    logits[-3][-1], logits[-2][17], logits[-1][:] = np.nan, np.inf, -np.inf
    tokens = rng.permutation(vocab_size)
    return arguments_of(
        np.stack(logits),
        rows,
        penalties=[(tokens[i % 250], i % 2, i % 3) for i in range(10 * n_rows + 10)],
        biases=[(tokens[i % 250], 2.0 * rng.normal()) for i in range(5 * n_rows + 10)],
        allowed=np.concatenate([pack_allowed(mask, vocab_size) for mask in masks]),
    )


def _mixed(vocab_size: int) -> cases.Case:
    return cases.Case(
        op="sample",
        format="f32",
        name=f"mixed-{vocab_size}",
        make=lambda: _make_mixed(vocab_size),
        outputs=("out", "top_ids", "top_logprobs"),
        bound=_bound,
        reason=REASON,
        flops=22 * vocab_size * (len(PARAMS) + 5),
        bytes=8 * vocab_size * (len(PARAMS) + 5),
    )


def relaxed(row: Array, change: float) -> Array:
    """The row with every share and width a little greater (change > 0) or less."""
    row = row.copy()
    for name in ("top_p", "typical_p"):
        if row[name] < 1:
            row[name] = min(max(row[name] + change, 0.0), 1.0)
    row["top_n_sigma"] *= 1 + change
    return row


def _count_slack(arguments: cases.Arguments, n_kept: Array) -> Array:
    """By how much the number of tokens left may differ: as the reference's own, were its cuts
    CDF_TOLERANCE away."""
    n_words = -(-arguments["vocab_size"] // 32)
    slack = np.zeros(len(n_kept))
    for r in np.flatnonzero(n_kept > 1):
        row = arguments["rows"][r]
        start = row["allowed_start"]
        z = reference.adjusted(
            arguments["logits"][r],
            row,
            arguments["penalties"][row["penalty_start"] :][: row["n_penalties"]],
            arguments["biases"][row["bias_start"] :][: row["n_biases"]],
            arguments["allowed"][max(start, 0) :][: n_words if start >= 0 else 0],
        )
        for change in (-CDF_TOLERANCE, CDF_TOLERANCE):
            n = reference.stages(z, relaxed(row, change))[-1].kept.sum()
            slack[r] = max(slack[r], abs(int(n) - int(n_kept[r])))
    return slack


def _bound(arguments: cases.Arguments, expected: Array) -> Array | float:
    if expected.dtype.names:
        (name,) = expected.dtype.names
        expected = expected[name]
        if name == "n_kept":
            return 0.5 + _count_slack(arguments, expected)
    if expected.dtype.kind in "iu":
        return 0.5  # exact
    tolerance: Array = LOGPROB_TOLERANCE + 2.0**-23 * np.abs(expected)
    return tolerance


def _case(logits_name: str, vocab_size: int, **params: Any) -> cases.Case:
    case = RowCase(logits_name, vocab_size, params)
    return cases.Case(
        op="sample",
        format="f32",
        name=str(case),
        make=lambda: _make(case),
        outputs=("out", "top_ids", "top_logprobs"),
        bound=_bound,
        reason=REASON,
        flops=22 * vocab_size,  # an exponential counts as 20
        bytes=8 * vocab_size,  # the logits, for their maximum and for their weights
    )


CASES = [
    _mixed(300),
    _mixed(5003),
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

BENCH_CASES = [case for case in CASES if f"-{VOCAB_SIZE}-" in case.name and case.name[:4] == "wide"]
