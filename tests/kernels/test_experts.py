"""Experts: the bits of matmul, whoever else is in the step, and no index out of range."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from expert_checks import PRODUCT_CHECKS, ROUTE_CHECKS
from pyroclast_kernels.selection import all_variants

pytestmark = pytest.mark.native


def variants(op: str) -> list[str]:
    """Those that run here; Triton's are in tests/gpu."""
    return [
        name
        for name, variant in all_variants(op).items()
        if variant.launch is None and not variant.unavailable
    ]


# One format of each kind: what Numba compiles for the others of a kind differs in the decoding of
# a block alone, which test_kernels.py compares.
_NUMBA_FORMATS = ("f32", "q8_0", "q4_k", "iq4_nl")
# NumPy's products are those of BLAS, whose bits promise nothing.
PRODUCTS = [
    pytest.param(name, format, id=f"{name}-{format}")
    for name in variants("expert_down")
    if name != "numpy"
    for format in all_variants("expert_down")[name].formats
    if name != "numba" or format in _NUMBA_FORMATS
]


@pytest.mark.parametrize("check", PRODUCT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("variant", "format"), PRODUCTS)
def test_products(variant: str, format: str, check: Callable[[str, str], None]) -> None:
    check(variant, format)


@pytest.mark.parametrize("check", ROUTE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("variant", variants("route"))
def test_route(variant: str, check: Callable[[str], None]) -> None:
    check(variant)


def test_every_technology_of_the_cpu_is_tested() -> None:
    assert {"numba"} <= set(variants("expert_down")) & set(variants("route"))
