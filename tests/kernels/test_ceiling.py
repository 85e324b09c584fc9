"""The ceilings: that every pattern reads what it says, and that the best one counts."""

import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyroclast_kernels import ceiling
from pyroclast_kernels.ceiling import HUGE_PAGE, READ_PATTERNS, ReadPattern
from pyroclast_kernels.matmul import MATRIX_VARIANT_FEW
from pyroclast_kernels.program import make_executor
from pyroclast_kernels.registry import get_op
from smaps import vm_flags

# No multiple of any number of streams, stripes or parts, in lines of 64 bytes.
SIZE = (2 << 20) + 4096 * 37

pytestmark = pytest.mark.native


def machine(n_threads: int, patterns=READ_PATTERNS) -> ceiling.CeilingMeter:
    executor = make_executor(n_threads)
    if executor is None or not ceiling.kernels():
        pytest.skip("no native build")
    return ceiling.CeilingMeter(executor, SIZE, patterns)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("pattern", READ_PATTERNS, ids=str)
def test_every_word_is_read_once(pattern, n_threads):
    """A sum of random words does not come out right if one is left out or read twice."""
    found = machine(n_threads)
    run, sums = found.reading(pattern)
    data = found._pages(pattern.page)
    data[:] = np.random.default_rng(1).integers(0, 256, len(data), dtype=np.uint8)
    run()
    expected = int(data.view(np.uint32).sum(dtype=np.uint64)) & 0xFFFFFFFF
    assert len(sums) == n_threads * pattern.parts_per_thread
    assert int(sums.sum()) & 0xFFFFFFFF == expected
    data[-1] ^= 1  # the very last byte counts
    run()
    assert int(sums.sum()) & 0xFFFFFFFF != expected


def test_patterns_differ_in_every_way():
    for field in ("page", "n_streams", "distance", "stripe", "parts_per_thread"):
        assert len({getattr(pattern, field) for pattern in READ_PATTERNS}) > 1, field
    assert len(set(map(str, READ_PATTERNS))) == len(READ_PATTERNS)
    assert str(ReadPattern(4096, 4, 512)) == "4 streams, prefetch 512, 4K pages"
    longest = ReadPattern(HUGE_PAGE, 1, 0, 65536, 16)
    assert str(longest) == "1 streams, prefetch 0, 2M pages, stripes of 64K, 16 parts"


@pytest.mark.parametrize(("page", "flag"), [(4096, "nh"), (HUGE_PAGE, "hg")])
def test_pages_are_asked_for(page, flag):
    """The kernel notes the advice for the range of addresses ("hg", "nh" in smaps)."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system has no such advice")
    data = ceiling.pages(SIZE, page)
    assert len(data) == SIZE
    assert data.ctypes.data % HUGE_PAGE == 0
    assert flag in vm_flags(data)


def test_the_best_pattern_counts_and_is_named(monkeypatch):
    found = machine(2)
    slow, timed = 1.0, []
    reading, best = found.reading, READ_PATTERNS[17]

    def noted(pattern):
        timed.append(pattern)
        return reading(pattern)

    monkeypatch.setattr(found, "reading", noted)
    monkeypatch.setattr(ceiling, "_seconds", lambda _: slow / 2 if timed[-1] == best else slow)
    gbs, how = found.read_gbs(repeats=2)
    assert gbs == pytest.approx(found._size / (slow / 2) / 1e9)
    assert how == str(best)
    assert timed == [*READ_PATTERNS, *READ_PATTERNS]
    timed.clear()
    assert found.read_gbs(repeats=1) == (gbs, how)
    assert best in timed and len(timed) < 10  # from then on the best ones alone


def test_memory_that_no_pattern_reads_is_let_go():
    both = [ReadPattern(4096, 1, 0), ReadPattern(HUGE_PAGE, 1, 0)]
    found = machine(1, both)
    found.read_gbs(1)
    assert set(found._memory) == {4096, HUGE_PAGE}
    found._patterns = [replace(both[0], n_streams=2)]
    found.read_gbs(1)
    assert set(found._memory) == {4096}


def test_arithmetic_that_the_cpu_lacks_counts_as_none():
    found = machine(1)
    assert found.arithmetic_gops("fma", 1) > 0
    assert found.arithmetic_gops("none", 1) == 0


def test_matrix_registers_have_a_ceiling_of_their_own():
    """16 cycles for 16 x 16 sums of 32 products, where multiply-adds do 16 or 32 a cycle: the
    registers do 16 to 32 times as much."""
    found = machine(1)
    matmul = get_op("matmul").variants.get("cpp-amxbf16")
    runs = matmul is not None and not matmul.unavailable
    assert ("amxbf16" in ceiling.kernels()) == runs
    if runs:
        ratio = found.arithmetic_gops("amxbf16") / found.arithmetic_gops("fma")
        assert ratio > 4


def test_few_tokens_are_as_many_as_in_the_kernel():
    root = Path(__file__).parents[2]
    source = root / "kernels/pyroclast_kernels/matmul/cpp/bf16_matrices.cpp"
    assert f"constexpr int kFewTokens = {MATRIX_VARIANT_FEW};" in source.read_text()


def test_registers_that_the_system_does_not_lend_are_left_alone(monkeypatch):
    monkeypatch.setattr(
        ceiling.features, "why_not_beside_level", lambda mark: "no" * ("amx" in mark)
    )
    assert "amxbf16" not in ceiling.kernels()
