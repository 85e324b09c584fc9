"""low_rank in Triton: the promises that the CPU's variants keep, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from low_rank_checks import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_low_rank(check: Callable[[str], None]) -> None:
    check("triton")
