"""The cases of `sample`: what tests compare and benchmarks time, one list for both.

A case is a family of logits and one row's parameters.  Cost model: a row reads vocab_size floats
once for the maximum and once for the weights; `flops` counts one exponential as 20.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyroclast_kernels.sample import Array, new_rows

# Kernels add float32 weights, whose exponents y = (logit - max) / temperature carry an error of
# about |y| 2^-23 (3e-6 at the y = -25 below which a weight no longer counts), in blocks of 1024.
CDF_TOLERANCE = 4e-6
LOGPROB_TOLERANCE = 4e-6  # absolute, plus half a unit in the last place of the float32 result


@dataclass(frozen=True)
class Case:
    """Logits of one kind and size under one set of parameters."""

    logits_name: str
    vocab_size: int
    params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = "-".join(f"{name}={value}" for name, value in self.params.items()) or "plain"
        return f"{self.logits_name}-{self.vocab_size}-{shown}"

    @property
    def n_bytes(self) -> int:
        """Read at least: the logits, twice."""
        return 8 * self.vocab_size

    @property
    def flops(self) -> int:
        """One exponential and two additions a token."""
        return 22 * self.vocab_size

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


def test_cases() -> Iterator[Case]:
    """Small, but odd sizes, every kind of logits, every combination of stages."""
    for name in LOGITS:
        for size in SIZES:
            for params in PARAMS:
                yield Case(name, size, params)


def bench_cases() -> Iterator[Case]:
    """A whole vocabulary; the rows of issue 4's table first, then the kinds meant to be slow."""
    table: tuple[dict[str, Any], ...] = (
        {"temperature": 0.0},
        {"temperature": 0.8},
        {"temperature": 0.8, "top_p": 0.95},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
        {"temperature": 0.8, "min_p": 0.05},
    )
    for params in table:
        yield Case("wide", VOCAB_SIZE, params)
    for name in LOGITS:
        yield Case(name, VOCAB_SIZE, {"temperature": 1.0, "top_p": 0.95})
