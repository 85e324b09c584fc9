"""norm, residual and qk_norm in Triton: the CPU's promises, and bfloat16, a format of the GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from norm_checks import CHECKED, run
from pyroclast_kernels.cases import EPS, op_cases
from pyroclast_kernels.triton.device import INTERPRETED

# What a number loses as bfloat16, with its 8 bits: the interpreter of Triton 3.6 does not round.
LOST = 2.0**-7 if INTERPRETED else 2.0**-8


@pytest.mark.parametrize(
    ("op", "check"),
    CHECKED,
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_norms(op: str, check: Callable[[str, str], None]) -> None:
    check(op, "triton")


def cut(x: Any) -> Any:
    """float32 to bfloat16, as uint16, by dropping bits."""
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def as_float(bfloat16: Any) -> Any:
    return (bfloat16.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize(
    ("op", "name", "inputs"),
    [
        ("norm", "2x17-layer-bias", ("x", "weight", "bias")),
        ("residual", "2x45-rms-bias", ("y", "weight", "bias")),
        ("residual", "3x77", ("y",)),
        ("qk_norm", "3x4h2k24d", ("q_weight", "k_weight")),
    ],
)
def test_bfloat16_inputs_are_their_values(op: str, name: str, inputs: tuple[str, ...]) -> None:
    [case] = [case for case in op_cases(op) if case.name == name]
    short = {each: cut(case.make()[each]) for each in inputs}
    long = {each: as_float(value) for each, value in short.items()}
    [output] = {"norm": ["out"], "residual": ["x"], "qk_norm": ["qkv"]}[op]
    got, wanted = (run(op, "triton", case.make() | given)[output] for given in (short, long))
    # The threads may hold other columns, so the sum of a layer norm may run in another order.
    np.testing.assert_allclose(got, wanted, rtol=16 * EPS, atol=16 * EPS)


@pytest.mark.parametrize(("op", "name"), [("residual", "3x77"), ("qk_norm", "3x4h2k24d")])
def test_what_is_changed_in_place_may_be_bfloat16(op: str, name: str) -> None:
    [case] = [case for case in op_cases(op) if case.name == name]
    [changed] = case.outputs
    given = cut(case.make()[changed])
    exact = run(op, "triton", case.make() | {changed: as_float(given)})[changed]
    got = as_float(run(op, "triton", case.make() | {changed: given})[changed])
    assert (np.abs(got - exact) <= (LOST + 16 * EPS) * np.abs(exact)).all()
