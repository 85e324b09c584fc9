"""low_rank: a token's bits depend on the token alone, and a step without adapters costs nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from low_rank_checks import CHECKS
from pyroclast_kernels.selection import all_variants

# NumPy's products are those of BLAS, whose bits promise nothing; Triton's are in tests/gpu.
VARIANTS = [
    name
    for name, variant in all_variants("low_rank").items()
    if name != "numpy" and variant.launch is None and not variant.unavailable
]


@pytest.mark.native
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("variant", VARIANTS)
def test_low_rank(variant: str, check: Callable[[str], None]) -> None:
    check(variant)


def test_every_technology_of_the_cpu_is_tested() -> None:
    assert {"numba"} <= set(VARIANTS)
