"""The draws of every variant of `sample` follow the distribution, and one definition."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from pyroclast.lab.speed.sample_call import run_sample
from pyroclast_kernels import sample
from pyroclast_kernels.sample import cases, reference
from sample_rows import OTHERS, VARIANTS, drawn, rows_of

# ---- statistics ----------------------------------------------------------------------------------


def chi_square_sigmas(counts: Any, probs: Any) -> float:
    """How many standard deviations of its distribution the statistic lies above its mean
    (Wilson and Hilferty's transform); tokens with fewer than 10 expected are taken together."""
    expected = probs * counts.sum()
    rare = expected < 10
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    k = len(expected) - 1
    if k == 0:
        return 0.0
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    return float(((statistic / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k)))


STATISTICS = cases.RowCase("normal", 120).logits()[None]


def first_of_each_technology() -> set[str]:
    """The best variant that runs here of each technology: C++, Cython, Numba."""
    firsts = {name.partition("-")[0]: name for name in reversed(OTHERS)}
    return set(firsts.values())


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("params", cases.PARAMS, ids=str)
def test_a_million_draws_follow_the_distribution(variant: str, params: dict[str, Any]) -> None:
    row = rows_of(**params)[0]
    if row["temperature"] == 0:
        probs = np.eye(1, 120, int(np.argmax(STATISTICS)))[0]
    else:
        kept = reference.stages(STATISTICS[0], row)[-1].kept
        w = reference.weights(STATISTICS[0], kept, float(row["temperature"]))
        probs = w / w.sum()
    # The others give (nearly) the same tokens: see test_every_variant_draws_the_same_text.
    n = 200_000 if variant in first_of_each_technology() else 50_000
    n = 1_000_000 if variant == OTHERS[0] else n
    counts = drawn(variant, STATISTICS, n, seed=3, **params)
    assert counts[probs == 0].sum() == 0
    assert chi_square_sigmas(counts, probs) < 4.0


def test_the_chi_square_test_sees_a_wrong_temperature() -> None:
    counts = drawn(OTHERS[0] if OTHERS else "numpy", STATISTICS, 100_000, temperature=1.05)
    w = reference.weights(STATISTICS[0], np.ones(120, bool), 1.0)
    assert chi_square_sigmas(counts, w / w.sum()) > 6.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_cold_approaches_greedy_and_heat_uniform(variant: str) -> None:
    n = 2048 if variant == "numpy" else 16384
    best = int(np.argmax(STATISTICS))
    shares = [drawn(variant, STATISTICS, n, temperature=t)[best] / n for t in (1e-3, 0.3, 1, 3)]
    assert shares[0] > 0.99
    assert shares == sorted(shares, reverse=True)
    hot = drawn(variant, STATISTICS, n, temperature=1e6)
    assert chi_square_sigmas(hot, np.full(120, 1 / 120)) < 4.0


@cache
def drawn_plainly(variant: str) -> Any:
    return drawn(variant, STATISTICS, 2048)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.5),
        ("top_p", 0.5),
        ("top_k", 20),
        ("min_p", 0.2),
        ("typical_p", 0.5),
        ("top_n_sigma", 1.0),
    ],
)
def test_each_parameter_changes_the_draws(variant: str, name: str, value: float) -> None:
    changed = drawn(variant, STATISTICS, 2048, **{name: value})
    assert np.abs(drawn_plainly(variant) - changed).sum() > 200


# ---- one draw, one definition --------------------------------------------------------------------


def neutral_rows(vocab_size: int) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Parameters that change nothing, each with the inputs that it needs."""
    everything = sample.pack_allowed(np.arange(vocab_size), vocab_size)
    return {
        "logprob": ({"want_logprob": 1}, {}),
        "top logprobs": ({"want_logprob": 1, "n_top": 5}, {}),
        "top_k": ({"top_k": vocab_size}, {}),
        "bias": ({"n_biases": 1}, {"biases": [(7, 0.0)]}),
        "penalty": ({"n_penalties": 1}, {"penalties": [(7, 1, 1)]}),
        "mask": ({"allowed_start": 0}, {"allowed": everything}),
    }


@cache
def numbers_of_seeds(n: int, position: int) -> Any:
    """float64 (n,): the random number of each seed, slow in Python."""
    return np.array([reference.uniform(seed, position) for seed in range(n)])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scale", [0.05, 3.0, 12.0])
@pytest.mark.parametrize("vocab_size", [5003, 20001])
def test_what_changes_nothing_changes_no_draw(variant: str, scale: float, vocab_size: int) -> None:
    """Rows whose random number falls next to a step of the cumulative distribution: there another
    order of additions, or weights about another maximum, draws another token."""
    z = (np.random.default_rng(2).standard_normal(vocab_size) * scale).astype(np.float32)
    w = reference.weights(z, np.ones(vocab_size, bool), 1.0)
    steps = np.cumsum(w) / w.sum()
    u = numbers_of_seeds(40000, position=3)
    after = np.searchsorted(steps, u)
    near = np.minimum(np.abs(steps[after] - u), np.abs(steps[np.maximum(after - 1, 0)] - u))
    rows = rows_of(200, position=3)
    rows["seed"] = np.argsort(near)[:200]
    logits = np.lib.stride_tricks.as_strided(z, (200, vocab_size), (0, 4))
    plain = run_sample(variant, logits, rows).out["token_id"].copy()
    for name, (params, inputs) in neutral_rows(vocab_size).items():
        changed = rows.copy()
        for field, value in params.items():
            changed[field] = value
        drawn = run_sample(variant, logits, changed, **inputs).out["token_id"]
        assert (drawn == plain).all(), name
