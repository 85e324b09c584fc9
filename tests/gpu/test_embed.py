"""Rows of the embedding in Triton: what the case list cannot say of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyroclast_kernels.embed.triton_rows import launch_embed
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul import BLOCK_FORMATS, FORMATS
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits
from pyroclast_kernels.triton.weights import DeviceWeight, pack_on_device
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.blocks import LAYOUTS


def raw_of(format: str, n_rows: int, n_headers: int) -> np.ndarray:
    n_cols = n_headers * (LAYOUTS[format].columns if format in LAYOUTS else 41)
    return raw_rows(np.random.default_rng(n_headers), n_rows, n_cols, format)


def embed(
    token_ids: list[int],
    weight: DeviceWeight,
    out: torch.Tensor,
    n_tokens: int,
    limit: int,
    scale: float = 1.0,
    accumulate: int = 0,
) -> None:
    device = triton_device.device()
    launch_embed(
        Limits(limit),
        n_tokens=torch.tensor([n_tokens], device=device),
        token_ids=torch.tensor(token_ids, dtype=torch.int32, device=device),
        weight=weight,
        out=out,
        n_cols=weight.n_cols,
        scale=scale,
        accumulate=accumulate,
    )


@pytest.mark.parametrize("format", FORMATS)
def test_rows_longer_than_a_program_and_no_other_rows(format: str) -> None:
    """An odd number of headers, in several programs; the grid is wider than the tokens."""
    n_headers = {32: 37, 256: 5}.get(LAYOUTS[format].columns, 37) if format in LAYOUTS else 37
    raw = raw_of(format, 11, n_headers)
    weight = pack_on_device(torch.from_numpy(raw), format)
    assert weight.n_cols > 1024
    out = torch.full((6, weight.n_cols), torch.nan, device=triton_device.device())
    token_ids = [10, 0, 3, 3, 1 << 30, -1]  # the last two are left over from another step
    embed(token_ids, weight, out, n_tokens=4, limit=6)
    wanted = formats.dequantize(raw[token_ids[:4]], format)
    np.testing.assert_array_equal(out[:4].cpu().numpy(), wanted)
    assert out[4:].isnan().all()


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_every_bit_pattern_of_a_block(format: str) -> None:
    """Infinite scales and all: what a damaged file says is what comes out."""
    rng = np.random.default_rng(9)
    raw = rng.integers(0, 256, (8, formats.row_bytes(512, format)), dtype=np.uint8)
    out = torch.zeros(8, 512, device=triton_device.device())
    weight = pack_on_device(torch.from_numpy(raw), format)
    with np.errstate(all="ignore"):  # the interpreter computes with NumPy
        embed(list(range(8)), weight, out, 8, 8)
        np.testing.assert_array_equal(out.cpu().numpy(), formats.dequantize(raw, format))


def test_an_output_of_bfloat16() -> None:
    raw = raw_of("bf16", 5, 2)
    weight = pack_on_device(torch.from_numpy(raw), "bf16")
    out = torch.zeros(2, weight.n_cols, dtype=torch.bfloat16, device=triton_device.device())
    embed([4, 1], weight, out, 2, 2)
    assert weight.values is not None
    assert torch.equal(out, weight.values[[4, 1]])


def test_a_factor_and_a_sum_in_bfloat16() -> None:
    """Computed in float32, rounded once at the end."""
    raw = raw_of("bf16", 5, 2)
    weight = pack_on_device(torch.from_numpy(raw), "bf16")
    assert weight.values is not None
    there = torch.randn(2, weight.n_cols, dtype=torch.bfloat16, device=triton_device.device())
    out = there.clone()
    embed([4, 1], weight, out, 2, 2, scale=2.5, accumulate=1)
    wanted = there.float() + weight.values[[4, 1]].float() * 2.5
    torch.testing.assert_close(out.float(), wanted, rtol=2.0**-7, atol=0.0)


def test_nothing_to_do() -> None:
    weight = pack_on_device(torch.from_numpy(raw_of("q8_0", 3, 1)), "q8_0")
    out = torch.full((1, 32), 5.0, device=triton_device.device())
    embed([0], weight, out, 0, 0)
    assert (out == 5).all()


@pytest.mark.parametrize("out", [torch.zeros(2, 33), torch.zeros(2, 64)[:, :32]])
def test_widths_that_do_not_fit(out: torch.Tensor) -> None:
    weight = pack_on_device(torch.from_numpy(raw_of("q8_0", 3, 1)), "q8_0")
    with pytest.raises(KernelError, match="rows of 32 columns need a weight and an output"):
        embed([0, 1], weight, out, 2, 2)
