"""Residual streams and sparse gates in Triton: the promises that the CPU's variants keep, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from altup_checks import CHECKED


@pytest.mark.parametrize(
    ("op", "check"),
    CHECKED,
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_altup(op: str, check: Callable[[str, str], None]) -> None:
    check(op, "triton")
