"""Experts in Triton: the promises that the CPU's variants keep, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from expert_checks import PRODUCT_CHECKS, ROUTE_CHECKS


@pytest.mark.parametrize("check", PRODUCT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("format", ["q8_0", "q4_k", "f32"])
def test_products(format: str, check: Callable[[str, str], None]) -> None:
    check("triton", format)


@pytest.mark.parametrize("check", ROUTE_CHECKS, ids=lambda check: check.__name__)
def test_route(check: Callable[[str], None]) -> None:
    check("triton")
