"""What the torture kind `limits` takes for a finding."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from torture.limits import judge
from torture.nursery import Ended


@pytest.mark.parametrize(
    ("case", "code", "out", "err", "is_finding"),
    [
        ("memory 0.5", 0, "8 tokens\n", "", False),
        ("memory 0.5", 0, "refused: too little memory\n", "", False),
        ("memory 0.5", 0, "7 tokens\n", "", True),
        ("memory 0.5", 0, "8 tokens\n", "a warning", True),
        ("threads 0.5", 1, "", "Traceback", True),
        ("memory 0.5", 127, "", "cannot allocate memory for thread-local data: ABORT", True),
        ("memory 0.5", -6, "", "", True),
    ],
)
def test_findings(case: str, code: int, out: str, err: str, is_finding: bool) -> None:
    record = Mock()
    judge(case, Ended(code, out, err), record)
    assert record.finding.called == is_finding
