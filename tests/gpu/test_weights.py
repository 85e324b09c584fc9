"""Weights on the device: what a file's rows hold, to the bit, in every format."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul import BLOCK_FORMATS, FORMATS
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton import weights as triton_weights
from pyroclast_kernels.triton.table_weights import HALVES
from pyroclast_kernels.triton.weights import (
    NIBBLES,
    DeviceWeight,
    of_packed,
    pack_on_device,
    pack_rows,
)
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.blocks import LAYOUTS, read_blocks
from pyroclast_kernels.weights.packing import PackedWeight
from pyroclast_kernels.weights.packing import pack_rows as pack_rows_on_host


def raw_of(format: str, n_rows: int = 7, n_headers: int = 3) -> np.ndarray:
    """Every bit pattern may occur: the odd number of headers leaves half a pair of blocks."""
    n_cols = n_headers * (LAYOUTS[format].columns if format in LAYOUTS else 11)
    rng = np.random.default_rng(n_rows)
    if format in BLOCK_FORMATS:
        size = (n_rows, formats.row_bytes(n_cols, format))
        return rng.integers(0, 256, size, dtype=np.uint8)
    return raw_rows(rng, n_rows, n_cols, format)


def columns_of(weight: DeviceWeight) -> np.ndarray:
    """Codes uint8 (n_rows, n_cols) as blocks.Blocks has them."""
    codes = weight.codes.cpu().view(torch.uint8).numpy()
    if weight.format == "q8_0":
        return codes ^ 128
    if weight.format not in NIBBLES:
        return codes
    pairs = codes.reshape(weight.n_rows, -1, 1, 32) >> np.array([[0], [4]], np.uint8) & 15
    return pairs.reshape(weight.n_rows, -1)


def eighths_of(halves: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # any bit pattern, NaN among them
        return halves.astype(np.float32) / 8


def assert_holds(weight: DeviceWeight, raw: np.ndarray) -> None:
    if weight.values is not None:
        held = weight.values.cpu().view(torch.uint8).numpy()
        np.testing.assert_array_equal(held, raw)
        return
    blocks = read_blocks(raw, weight.format)
    codes, want = columns_of(weight), blocks.codes
    if LAYOUTS[weight.format].table:
        want = np.array(LAYOUTS[weight.format].table, np.int8)[want].view(np.uint8)
    np.testing.assert_array_equal(codes[:, : weight.n_cols], want.reshape(len(raw), -1))
    assert not codes[:, weight.n_cols :].any(), "a missing block is zero"
    if weight.format in HALVES:
        bits = np.ascontiguousarray(blocks.halves).view(np.uint16).astype(np.uint32) << 16
        wide = {"t4_k": eighths_of(blocks.halves), "mxfp4": bits.view(np.float32)}
        np.testing.assert_array_equal(weight.halves.cpu().numpy(), wide[weight.format])
    else:
        halves = weight.halves.cpu().view(torch.int16).numpy()
        np.testing.assert_array_equal(halves, blocks.halves.view(np.int16))
    small = weight.small.cpu().view(torch.uint8).numpy()
    np.testing.assert_array_equal(small, blocks.small.view(np.uint8))
    assert all(tensor.is_contiguous() for tensor in weight.tensors)


@pytest.mark.parametrize("format", FORMATS)
def test_rows_of_a_file(format: str) -> None:
    raw = raw_of(format)
    weight = pack_on_device(torch.from_numpy(raw), format)
    assert_holds(weight, raw)
    assert (weight.n_rows, weight.takes_q8) == (7, format in BLOCK_FORMATS)
    assert weight.n_bytes == sum(t.nbytes for t in weight.tensors)
    assert {t.device.type for t in weight.tensors} == {triton_device.device().type}


@pytest.mark.parametrize("format", FORMATS)
def test_tensors_below_one_another_and_in_runs(format: str, monkeypatch) -> None:
    raw = raw_of(format)
    whole = pack_on_device(torch.from_numpy(raw), format)
    weight = DeviceWeight.empty(format, 7, whole.n_cols)
    monkeypatch.setattr(triton_weights, "_RUN_VALUES", 2 * whole.n_cols)
    pack_rows(torch.from_numpy(raw[5:]), weight, 5)
    pack_rows(torch.from_numpy(raw[:5]), weight, 0)
    assert_holds(weight, raw)


@pytest.mark.parametrize("format", FORMATS)
def test_a_packed_weight_on_the_device(format: str, monkeypatch) -> None:
    raw = raw_of(format, n_rows=19)
    n_cols = pack_on_device(torch.from_numpy(raw), format).n_cols
    packed = PackedWeight.empty(format, 19, n_cols)
    pack_rows_on_host(raw, packed, 0)
    monkeypatch.setattr(triton_weights, "_RUN_VALUES", 8 * n_cols)
    weight = of_packed(packed)
    assert_holds(weight, raw)
    assert of_packed(packed) is weight


def test_a_copy_lives_as_long_as_what_it_copies() -> None:
    packed = PackedWeight.empty("f32", 2, 2)
    kept = weakref.ref(of_packed(packed))
    gc.collect()
    assert kept() is not None
    del packed
    gc.collect()
    assert kept() is None


def test_the_bytes_of_a_block_format_stay_near_the_files() -> None:
    """4-bit codes take 4 bits, and the headers no more than a byte for each 6-bit scale."""
    for format in NIBBLES:
        raw = raw_of(format, n_headers=4)
        assert pack_on_device(torch.from_numpy(raw), format).n_bytes <= raw.nbytes * 1.03


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DeviceWeight.empty("f32", 0, 4), "needs rows and columns, got 0 x 4"),
        (lambda: DeviceWeight.empty("q4_k", 4, 96), "multiple of 256 values, got 96"),
        (lambda: DeviceWeight.empty("q9", 4, 96), "unknown weight format 'q9'; known: f32"),
        (lambda: DeviceWeight.empty("bf16", 1 << 31, 1 << 31), "no room on the device"),
        (lambda: pack_on_device(torch.zeros(8, dtype=torch.uint8), "f16"), "row_bytes"),
        (lambda: pack_on_device(torch.zeros(2, 33, dtype=torch.uint8), "q8_0"), "got 2 x 0"),
        (lambda: pack_on_device(torch.zeros(2, 35, dtype=torch.uint8), "q8_0"), r"\(n_rows, 34\)"),
        (lambda: pack_on_device(torch.zeros(2, 34), "q8_0"), "torch.float32"),
    ],
)
def test_sizes_that_cannot_be(make, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        make()


@pytest.mark.parametrize("offset", [-1, 3])
def test_rows_beyond_a_weight(offset: int) -> None:
    weight = DeviceWeight.empty("q8_0", 4, 32)
    with pytest.raises(KernelError, match=r"do not lie within a weight of 4 rows"):
        pack_rows(torch.zeros(2, 34, dtype=torch.uint8), weight, offset)
