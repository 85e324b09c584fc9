"""Residual streams and sparse gates: what every variant promises, and the definition of a cut."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from altup_checks import CASES, CHECKED
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.sparse_gate.reference import sparse_gate

VARIANTS = {  # Triton's are in tests/gpu
    op: [
        name
        for name, variant in all_variants(op).items()
        if variant.launch is None and not variant.unavailable and name != "numpy"
    ]
    for op in CASES
}


@pytest.mark.native
@pytest.mark.parametrize(
    ("op", "variant", "check"),
    [(op, variant, check) for op, check in CHECKED for variant in VARIANTS[op]],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_altup(op: str, variant: str, check: Callable[[str, str], None]) -> None:
    check(op, variant)


def test_a_share_of_a_normal_gate_is_left() -> None:
    gate = np.random.default_rng(0).standard_normal((1, 20_000)).astype(np.float32) * 3 + 1
    before = gate.copy()
    deviations = NormalDist().inv_cdf(0.95)
    sparse_gate(np.array([1]), gate, 20_000, 20_000, deviations)
    assert abs(np.count_nonzero(gate) / 20_000 - 0.05) < 0.005
    cut = before.mean() + deviations * before.std()
    np.testing.assert_allclose(gate, np.maximum(before - cut, 0), atol=1e-4)
