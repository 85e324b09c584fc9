"""`softmax`: the reference's own properties, and every variant against it."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from pyroclast.lab.speed.sample_call import C_KERNEL, usable_variants
from pyroclast_kernels.cases import expected, mismatches
from pyroclast_kernels.program import pack_arguments
from pyroclast_kernels.sample import pack_allowed
from pyroclast_kernels.selection import Selection, all_variants
from pyroclast_kernels.softmax import cases

VARIANTS = usable_variants("softmax")
OTHERS = [name for name in VARIANTS if name != "numpy"]


def run(variant: str, arguments: dict[str, Any], n_parts: int = 1) -> Any:
    """Runs the op; returns `out` without its spare columns."""
    kernel = Selection(f"softmax={variant}").kernel("softmax")
    if kernel.function:
        kernel.function(**arguments)
    else:
        slots = pack_arguments(kernel, arguments)
        for part in range(n_parts):
            C_KERNEL(kernel.address)(slots.ctypes.data, part, n_parts)
    return arguments["out"][:, : arguments["n_cols"]]


def softmax(variant: str, logits: Any, n_parts: int = 1, **options: Any) -> Any:
    arguments = cases.arguments_of(logits, **options)
    found = run(variant, arguments, n_parts)
    assert (arguments["out"][:, logits.shape[1] :] == 77.0).all(), "wrote beyond the row"
    return found


# ---- every variant against the reference ----------------------------------------------------


@pytest.mark.parametrize("variant", OTHERS)
def test_equals_the_reference(variant: str) -> None:
    for case in cases.CASES:
        before, after = expected(case)
        got = deepcopy(before)
        run(variant, got)
        assert not mismatches(case, before, after, got), str(case)


@pytest.mark.parametrize("variant", OTHERS)
def test_rows_do_not_depend_on_each_other_or_on_parts(variant: str) -> None:
    logits = cases.logits_of("model", 1000, 5)
    temperatures = [0.5, 1.0, 2.0, 0.0, 3.0]
    together = softmax(variant, logits, temperatures=temperatures)
    for n_parts in (2, 3, 8):
        parts = softmax(variant, logits, n_parts, temperatures=temperatures)
        assert np.array_equal(parts, together)
    for r, temperature in enumerate(temperatures):
        alone = softmax(variant, logits[r : r + 1], temperatures=[temperature])
        assert np.array_equal(alone[0], together[r])


@pytest.mark.parametrize("variant", OTHERS)
def test_variants_of_one_bit_group_agree_to_the_bit(variant: str) -> None:
    groups = {name: all_variants("softmax")[name].bit_group for name in OTHERS}
    logits = cases.logits_of("model", 5003)
    mine = softmax(variant, logits, temperatures=[0.7])
    for other in OTHERS:
        if groups[other] == groups[variant]:
            assert np.array_equal(softmax(other, logits, temperatures=[0.7]), mine)


# ---- what every variant, the reference included, must show ------------------------------------


def entropy(p: Any) -> float:
    p = p[p > 0].astype(np.float64)
    return float(-np.sum(p * np.log(p)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_sums_to_one_and_heat_flattens(variant: str) -> None:
    logits = cases.logits_of("normal", 1000)
    rows = [softmax(variant, logits, temperatures=[t])[0] for t in (0.0, 0.1, 0.5, 1.0, 2.0, 1e6)]
    assert all(abs(p.sum(dtype=np.float64) - 1.0) < 1e-5 for p in rows)
    entropies = [entropy(p) for p in rows]
    assert entropies == sorted(entropies)
    assert entropies[0] == 0.0
    assert abs(entropies[-1] - math.log(1000)) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_temperature_divides_logits(variant: str) -> None:
    logits = cases.logits_of("normal", 257)
    halved = softmax(variant, logits, temperatures=[2.0])
    assert np.allclose(halved, softmax(variant, logits * np.float32(0.5)), rtol=1e-5)
    assert not np.allclose(halved, softmax(variant, logits))


@pytest.mark.parametrize("variant", VARIANTS)
def test_known_values(variant: str) -> None:
    logits = np.log(np.array([[1.0, 2.0, 5.0]])).astype(np.float32)
    assert np.allclose(softmax(variant, logits), [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-6)
    logs = softmax(variant, logits, log=True)
    assert np.allclose(logs, np.log([[1 / 8, 2 / 8, 5 / 8]]), rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shift_changes_nothing(variant: str) -> None:
    logits = cases.logits_of("steps", 1000)
    shifted = logits + np.float32(1024)  # exact: the steps are whole numbers
    assert np.array_equal(softmax(variant, shifted), softmax(variant, logits))


@pytest.mark.parametrize("variant", VARIANTS)
def test_temperature_zero_takes_the_first_of_equals(variant: str) -> None:
    logits = np.array([[0.0, 3.0, 1.0, 3.0]], np.float32)
    assert softmax(variant, logits, temperatures=[0.0]).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    logs = softmax(variant, logits, temperatures=[0.0], log=True)
    assert logs.tolist() == [[-np.inf, 0.0, -np.inf, -np.inf]]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 16, 41])
def test_not_finite_rows_are_nan(variant: str, bad: float, place: int) -> None:
    logits = np.zeros((2, 42), np.float32)
    logits[0, place] = bad
    p = softmax(variant, logits)
    assert np.isnan(p[0]).all()
    assert np.allclose(p[1], 1 / 42)


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks(variant: str) -> None:
    logits = np.zeros((1, 40), np.float32)
    logits[0, 7] = -np.inf
    one = softmax(variant, logits, allowed=pack_allowed([33], 40)[None])
    assert one[0, 33] == 1.0
    assert one.sum() == 1.0
    assert np.isnan(softmax(variant, logits, allowed=pack_allowed([7], 40)[None])).all()
    assert np.isnan(softmax(variant, np.full((1, 3), -np.inf, np.float32))).all()
    assert softmax(variant, logits)[0, 7] == 0.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_place(variant: str) -> None:
    logits = cases.logits_of("model", 100)
    want = softmax(variant, logits)
    arguments = cases.arguments_of(logits.copy())
    arguments |= {"out": arguments["logits"], "out_stride": 100}
    assert np.array_equal(run(variant, arguments), want)
