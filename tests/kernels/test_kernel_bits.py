"""`tests/kernel_bits.py` keeps a case of every op and format, and finds bits that differ."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

import kernel_bits
from pyroclast_kernels import features
from pyroclast_kernels.cases import op_cases

needs_avx2 = pytest.mark.skipif(bool(features.why_not("avx2")), reason="needs AVX2")


def records(path: Path) -> list[tuple[Any, ...]]:
    """What write() has written, a tuple for each case."""
    found = []
    with path.open("rb") as file:
        while file.peek(1):
            found.append(pickle.load(file))
    return found


@pytest.fixture
def two_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of ops, as short as possible: one with many formats, one without."""
    monkeypatch.setattr(kernel_bits, "OP_NAMES", ("embed", "l2_norm"))


def test_a_sample_has_every_op_and_format(two_ops: None) -> None:
    found = [(case.op, case.format) for case in kernel_bits.chosen(2)]
    wanted = {(case.op, case.format) for op in ("embed", "l2_norm") for case in op_cases(op)}
    assert set(found) == wanted
    assert max(found.count(key) for key in wanted) == 2
    assert len(list(kernel_bits.chosen(None))) > len(found)


def test_a_format_whose_cases_are_all_too_large_is_no_pass(
    two_ops: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_bits, "LARGEST", 1)
    with pytest.raises(RuntimeError, match=r"embed\.f32 has no case"):
        list(kernel_bits.chosen(2))


@needs_avx2
@pytest.mark.native
def test_other_bits_are_found(
    two_ops: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bits"
    kernel_bits.write(path, "cpp-avx2", 2)
    assert kernel_bits.compare(path, ["cpp-avx2"]) == []
    kept = records(path)
    assert f"{len(kept)} of {len(kept)} cases give the same bits" in capsys.readouterr().out
    with path.open("wb") as file:
        for *record, bits in kept[:-1]:
            pickle.dump((*record, bits), file)
        pickle.dump((*kept[-1][:-1], "0" * 12), file)
    assert kernel_bits.compare(path, ["cpp-avx2"]) == [f"cpp-avx2: {kept[-1][2]} has other bits"]


@needs_avx2
@pytest.mark.native
def test_no_case_at_all_is_no_pass(tmp_path: Path) -> None:
    (tmp_path / "bits").touch()
    assert kernel_bits.compare(tmp_path / "bits", ["cpp-avx2"]) == ["no case was compared"]
