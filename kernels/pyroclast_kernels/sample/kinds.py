"""Kinds of logits that the cases of `sample` and `softmax` are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pyroclast_kernels.sample import Array


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
