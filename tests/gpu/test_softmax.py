"""softmax in Triton, where the op's case list does not look: rows of many parts, extremes,
neighbours, rows apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.sample import pack_allowed
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.softmax import MIN_TEMPERATURE
from pyroclast_kernels.softmax.cases import (
    LOG_TOLERANCE,
    RELATIVE_TOLERANCE,
    SMALLEST,
    arguments_of,
)
from pyroclast_kernels.softmax.reference import softmax as reference
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits

SOFTMAX: Any = all_variants("softmax")["triton"].bind("f32")


def softmax(logits: Any, **options: Any) -> Any:
    """float32 (n_rows, n_cols); nothing beyond a row is written."""
    given = arguments_of(logits, **options)
    with np.errstate(all="ignore"):  # the interpreter is NumPy, a GPU says nothing
        SOFTMAX(**given)
    assert (given["out"][:, logits.shape[1] :] == 77.0).all()
    return given["out"][:, : logits.shape[1]]


def wanted(logits: Any, **options: Any) -> Any:
    given = arguments_of(logits, **options)
    with np.errstate(all="ignore"):
        reference(**given)
    return given["out"][:, : logits.shape[1]]


def assert_near(got: Any, expected: Any, log: bool = False) -> None:
    size = np.abs(expected)
    bound = LOG_TOLERANCE * (2 + size) if log else RELATIVE_TOLERANCE * size + SMALLEST
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        assert (same | (np.abs(got - expected) <= bound)).all()


def random_logits(n_rows: int, n_cols: int, seed: int = 0) -> Any:
    rng = np.random.default_rng([n_rows, n_cols, seed])
    return rng.normal(0.0, 4.0, (n_rows, n_cols)).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_random_rows_with_random_options(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_cols, log = int(rng.choice([3, 31, 2047, 2048, 2049, 4096, 6147])), bool(seed % 2)
    logits = random_logits(3, n_cols, seed)
    logits[rng.random(logits.shape) < 0.2] = -np.inf
    masks = [pack_allowed(np.flatnonzero(rng.random(n_cols) < 0.7), n_cols) for _ in range(3)]
    options = {
        "temperatures": rng.choice([0.0, 1e-5, 0.2, 1.0, 1.7, 50.0, 1e30], 3),
        "bias": rng.normal(0.0, 2.0, n_cols).astype(np.float32) if rng.random() < 0.5 else None,
        "allowed": np.stack(masks) if rng.random() < 0.5 else None,
        "log": log,
    }
    assert_near(softmax(logits, **options), wanted(logits, **options), log)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_row_without_a_distribution_is_nan_throughout(log: bool, temperature: float) -> None:
    logits = random_logits(5, 5000)
    logits[0, 4999], logits[1, 0], logits[2] = np.nan, np.inf, -np.inf
    logits[3, 3000:] = -np.inf
    got = softmax(logits, temperatures=[temperature] * 5, log=log)
    assert np.isnan(got[:3]).all() and not np.isnan(got[3:]).any()


def test_what_is_not_allowed_spoils_nothing() -> None:
    logits = random_logits(1, 3000)
    logits[0, 7], logits[0, 2500] = np.nan, np.inf
    allowed = pack_allowed(np.setdiff1d(np.arange(3000), [7, 2500]), 3000)[None]
    got = softmax(logits, allowed=allowed)
    assert abs(got.sum() - 1) < 1e-5 and got[0, 7] == got[0, 2500] == 0
    nothing = np.zeros_like(allowed)
    assert np.isnan(softmax(logits, allowed=nothing)).all()


@pytest.mark.parametrize("log", [False, True])
def test_greedy_takes_the_first_of_equals(log: bool) -> None:
    logits = random_logits(2, 7000)
    logits[0, [2040, 2050, 6999]] = 99.0
    logits[1, [6500, 5000, 4100]] = 99.0
    got = softmax(logits, temperatures=[0.0, MIN_TEMPERATURE / 2], log=log)
    other, best = (-np.inf, 0.0) if log else (0.0, 1.0)
    for row, column in ((0, 2040), (1, 4100)):
        assert got[row, column] == best
        assert (np.delete(got[row], column) == other).all()


@pytest.mark.parametrize("log", [False, True])
def test_logits_as_far_apart_as_floats_go(log: bool) -> None:
    logits = np.array([[3e38, -3e38, 2.9999e38, -np.inf, 0.0]], np.float32)
    for temperature in (1.0, 2.0, 1e37, 1e300):
        options = {"temperatures": [temperature], "log": log}
        assert_near(softmax(logits, **options), wanted(logits, **options), log)


def test_every_parameter_counts() -> None:
    logits, bias = random_logits(1, 300), random_logits(1, 300, seed=1)[0]
    allowed = pack_allowed(np.arange(0, 300, 2), 300)[None]
    plain = softmax(logits)
    assert_near(softmax(logits, temperatures=[1.0]), plain)
    for options in ({"temperatures": [2.0]}, {"bias": bias}, {"allowed": allowed}, {"log": True}):
        assert np.abs(softmax(logits, **options) - plain).max() > 0.01, options


def test_a_row_alone_has_the_bits_it_has_among_others() -> None:
    logits, temperatures = random_logits(4, 4500), np.array([0.7, 0.0, 1.3, 2.0])
    for log in (False, True):
        together = softmax(logits, temperatures=temperatures, log=log)
        for row in range(4):
            alone = softmax(logits[[row]], temperatures=temperatures[[row]], log=log)
            assert alone.tobytes() == together[row].tobytes()


def test_in_place_with_rows_apart_and_more_room_than_rows() -> None:
    space = np.full((4, 2200), 77.0, np.float32)
    space[:, :2100] = random_logits(4, 2100)
    expected = wanted(space[:2, :2100].copy())
    given = arguments_of(space[:2, :2100])
    given.update(logits=space, out=space, out_stride=2200, logits_stride=2200)
    kept = space[2:].copy()
    SOFTMAX(**given)
    assert_near(space[:2, :2100], expected)
    assert (space[:, 2100:] == 77.0).all() and (space[2:] == kept).all()


def test_no_rows() -> None:
    given = arguments_of(random_logits(1, 40))
    given["n_rows"][0] = 0
    SOFTMAX(**given)
    assert (given["out"] == 77.0).all()


def test_more_rows_than_there_is_room_for() -> None:
    launch = all_variants("softmax")["triton"].launch
    assert launch is not None
    n_rows = triton_device.SCRATCH_BYTES // 16 + 1  # of two parts, 8 bytes each
    given = arguments_of(random_logits(1, 4096))
    with pytest.raises(KernelError, match="fewer rows"):
        launch("f32")(Limits(n_rows), **given)
