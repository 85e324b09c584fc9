"""Long rows, whose weights are added up before the maximum logit is known: estimates that fail.

A kernel may estimate the maximum logit from every 64th vector of 16.  Here it lies elsewhere, far
above, or the row holds what no weight can be made of; results must be the reference's all the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyroclast.lab.speed.sample_call import run_sample, usable_variants
from pyroclast.lab.speed.softmax_call import run_softmax
from pyroclast_kernels import sample
from pyroclast_kernels.sample import cases, reference
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.softmax import cases as softmax_cases

SIZES = (16384, 20001, 40_977)  # the shortest row that is estimated, and tails of 1 and 17


def _bulk(n: int) -> Any:
    return np.random.default_rng(n).normal(0.0, 2.0, n).astype(np.float32)


def _outlier_last(n: int) -> Any:
    x = _bulk(n)
    x[-1] = 60.0
    return x


def _outliers_rising(n: int) -> Any:
    """The estimate is raised again and again, each time by more than a block allows."""
    x = _bulk(n)
    x[1000::1024] += np.arange(len(x[1000::1024])) * 15.0
    return x


def _steep(n: int) -> Any:
    return np.linspace(-40.0, 40.0, n).astype(np.float32)


def _hidden_top(n: int) -> Any:
    """Everything the estimate looks at is low."""
    x = _bulk(n)
    x[np.arange(n) % 1024 < 16] -= 30.0
    return x


ROWS = {
    "outlier-last": _outlier_last,
    "outliers-rising": _outliers_rising,
    "steep": _steep,
    "falling": lambda n: _steep(n)[::-1].copy(),
    "hidden-top": _hidden_top,
    "huge": lambda n: _bulk(n) * np.float32(1e34),
    "flat": lambda n: np.full(n, -3.5, np.float32),
}
TEMPERATURES = (0.01, 0.3, 1.0, 50.0)


@pytest.mark.parametrize("variant", usable_variants("sample"))
@pytest.mark.parametrize("kind", ROWS)
def test_draws_are_the_references(variant: str, kind: str) -> None:
    for n in SIZES:
        z = ROWS[kind](n)
        for temperature in TEMPERATURES:
            rows = sample.new_rows(8)
            rows["temperature"], rows["seed"] = temperature, np.arange(8)
            same = np.lib.stride_tricks.as_strided(z, (8, n), (0, 4))
            out = run_sample(variant, same, rows).out
            weights = reference.weights(z, np.ones(n, bool), temperature)
            assert (out["status"] == sample.OK).all()
            assert (out["n_kept"] == n).all()
            for seed in range(8):
                low, high = reference.cdf_interval(weights, int(out["token_id"][seed]))
                u = reference.uniform(seed, 0)
                assert low - cases.CDF_TOLERANCE <= u <= high + cases.CDF_TOLERANCE


@pytest.mark.parametrize("variant", usable_variants("softmax"))
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("log", [False, True])
def test_softmax_is_the_references(variant: str, kind: str, log: bool) -> None:
    for n in SIZES:
        for temperature in TEMPERATURES:
            options = {"temperatures": [temperature], "log": log}
            want = run_softmax("numpy", ROWS[kind](n)[None], **options)
            got = run_softmax(variant, ROWS[kind](n)[None], **options)
            if log:
                bound = softmax_cases.LOG_TOLERANCE * (2.0 + np.abs(want))
            else:
                bound = softmax_cases.RELATIVE_TOLERANCE * want + softmax_cases.SMALLEST
            with np.errstate(invalid="ignore"):  # -inf is one where it must be
                assert ((got == want) | (np.abs(got - want) <= bound)).all()


@pytest.mark.parametrize("variant", usable_variants("sample"))
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_what_is_not_finite_is_seen_wherever_it_is(variant: str, bad: float) -> None:
    n = SIZES[-1]
    for place in (0, 15, 16, 1023, 1024, 20_000, n - 18, n - 17, n - 2, n - 1):
        z = _bulk(n)
        z[place] = bad
        out = run_sample(variant, z[None], sample.new_rows(1)).out[0]
        assert (out["status"], out["token_id"]) == (sample.NOT_FINITE, -1)


@pytest.mark.parametrize("variant", usable_variants("softmax"))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_softmax_of_what_is_not_finite_is_nan(variant: str, bad: float) -> None:
    n = SIZES[-1]
    for place in (0, 1024, n - 17, n - 1):
        z = _bulk(n)
        z[place] = bad
        assert np.isnan(run_softmax(variant, z[None])).all()


@pytest.mark.parametrize("variant", usable_variants("sample"))
def test_impossible_tokens_are_not_counted(variant: str) -> None:
    n = SIZES[-1]
    for place in (0, 5000, n - 17, n - 1):
        z = _bulk(n)
        z[place] = -np.inf
        assert run_sample(variant, z[None], sample.new_rows(1)).out["n_kept"][0] == n - 1
    nothing = np.full((1, n), -np.inf, np.float32)
    assert run_sample(variant, nothing, sample.new_rows(1)).out["status"][0] == (
        sample.NOTHING_ALLOWED
    )


@pytest.mark.parametrize("kind", ROWS)
def test_variants_of_one_bit_group_agree_to_the_bit(kind: str) -> None:
    z = ROWS[kind](SIZES[-1])[None]
    for temperature in TEMPERATURES:
        found: dict[str, bytes] = {}
        for variant in usable_variants("softmax"):
            group = all_variants("softmax")[variant].bit_group
            bits = run_softmax(variant, z, temperatures=[temperature]).tobytes()
            assert found.setdefault(group, bits) == bits
