"""Guidance finds what chance does not: a fault behind five comparisons."""

from __future__ import annotations

import base64
import importlib.util
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from torture.campaign import Kind, replay, torture
from torture.guided import guided, why_not
from torture.guided_kinds import guided_kinds
from torture.record import Finding

_MODULE = """
def read(data):
    if len(data) == 9 and data[0] >> 4 == 7:
        if data[2] >> 4 == 1:
            if data[4] >> 4 == 15:
                if data[6] >> 4 == 3:
                    if data[8] >> 4 == 9:
                        raise KeyError("deep")
"""


class Deep:
    """Hands its inputs to the module."""

    def draw(self, dice: Random) -> bytes:
        return dice.randbytes(9)

    def change(self, dice: Random, data: bytes) -> bytes:
        raise ValueError

    def check(self, payload: bytes) -> None:
        sys.modules["torture_deep"].read(payload)


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "torture_deep.py"
    path.write_text(_MODULE)
    spec = importlib.util.spec_from_file_location("torture_deep", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "torture_deep", module)
    return module


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_guidance_finds_a_fault_behind_comparisons(deep: Any) -> None:
    kind = guided("deep", Deep, ("torture_deep",))
    found = (torture(kind, seed, 8).findings for seed in range(5))
    [finding] = next(filter(None, found))
    assert "KeyError: 'deep'" in finding.what
    chance = Random(1)
    for _ in range(20_000):
        deep.read(chance.randbytes(9))  # chance does not


@pytest.mark.parametrize("kind", guided_kinds(), ids=lambda kind: kind.name)
def test_each_is_replayed_by_its_input(kind: Kind) -> None:
    outcome = replay(
        Finding(kind.name, 1, 1, "planted", "", base64.b64encode(b"{}").decode()), kind
    )
    assert outcome.findings == []
    assert outcome.cases == 1
