"""Memory in huge pages: pieces side by side, private, kept by whoever holds one."""

from __future__ import annotations

import gc
import mmap

import numpy as np
import pytest

from pyroclast_kernels import huge_pages
from pyroclast_kernels.huge_pages import HUGE_PAGE, HugePages, map_pages
from pyroclast_kernels.weights.packing import PackedWeight
from smaps import vm_flags


def test_pieces_lie_side_by_side_on_whole_lines():
    pages = HugePages()
    a, b, c = pages.zeros((3, 7)), pages.zeros((2, 5), np.float32), pages.zeros((1,))
    starts = [each.ctypes.data for each in (a, b, c)]
    assert (a.shape, b.shape, b.dtype) == ((3, 7), (2, 5), np.float32)
    assert starts[0] % HUGE_PAGE == 0
    assert np.diff(starts).tolist() == [64, 64]
    a[:], b[:], c[:] = 1, 2, 3
    assert (a.sum(), b.sum(), c.sum()) == (21, 20, 3)


def test_what_does_not_fit_the_rest_begins_a_chunk(monkeypatch):
    monkeypatch.setattr(huge_pages, "_CHUNK", 2 * HUGE_PAGE)
    pages = HugePages()
    first = pages.zeros((HUGE_PAGE + 64,))
    alone = pages.zeros((3 * HUGE_PAGE,))  # longer than a chunk: it leaves the rest as it is
    second = pages.zeros((HUGE_PAGE - 64,))
    third = pages.zeros((64,))
    assert second.ctypes.data == first.ctypes.data + HUGE_PAGE + 64
    assert third.ctypes.data % HUGE_PAGE == alone.ctypes.data % HUGE_PAGE == 0
    assert not any(each.any() for each in (first, alone, second, third))


def test_a_piece_outlives_its_pages():
    pages = HugePages()
    piece = pages.zeros((1000,))
    piece[:] = 7
    del pages
    gc.collect()
    assert (piece == 7).all()


@pytest.mark.parametrize(("huge", "flag"), [(True, "hg"), (False, "nh")])
def test_the_system_is_asked_for_private_pages(huge, flag):
    """Shared memory ("sh" in smaps), which mmap gives by default, has a switch of its own."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system has no such advice")
    data = map_pages(3 * HUGE_PAGE, huge)
    flags = vm_flags(data)
    assert flag in flags
    assert "sh" not in flags


def test_weights_of_a_model_share_pages():
    pages = HugePages()
    a = PackedWeight.empty("q4_0", 64, 64, pages)
    b = PackedWeight.empty("q8_0", 64, 64, pages)
    assert b.data.ctypes.data == a.data.ctypes.data + a.n_bytes
