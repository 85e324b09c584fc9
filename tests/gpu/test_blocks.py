"""Triton's products of block-quantized weights, beyond the case list: bits, grids, NaN, outputs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.matmul import BLOCK_FORMATS
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.matmul.triton import blocks as triton_blocks
from pyroclast_kernels.matmul.triton.block_parts import constants, runs
from pyroclast_kernels.matmul.triton.blocks import launch_blocks
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits, host_tensor
from pyroclast_kernels.triton.weights import of_packed
from pyroclast_kernels.weights.packing import PackedWeight, pack_rows

N_ROWS, N_COLS = 40, 512
TWO_RUNS = 1024  # columns
N_TOKENS = 70


@cache
def packed(format: str, n_cols: int = N_COLS) -> PackedWeight:
    weight = PackedWeight.empty(format, N_ROWS, n_cols)
    pack_rows(raw_rows(np.random.default_rng(1), N_ROWS, n_cols, format), weight, 0)
    return weight


def activation(n_tokens: int = N_TOKENS, n_cols: int = N_COLS) -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).standard_normal((n_tokens, n_cols)).astype(np.float32)


def blocks(x: np.ndarray[Any, Any]) -> torch.Tensor:
    return host_tensor(q8_blocks.quantize(x)).to(triton_device.device())


def product(
    format: str,
    x: torch.Tensor,
    limit: int | None = None,
    out: torch.Tensor | None = None,
    **given: Any,
) -> torch.Tensor:
    """On the host."""
    device = triton_device.device()
    if out is None:
        out = torch.full((len(x), N_ROWS), -5.0, device=device)
    n_cols = 32 * x.shape[1]
    given = {"bias": None, "accumulate": 0, "count": len(x)} | given
    launch_blocks(
        Limits(len(x) if limit is None else limit),
        n_tokens=torch.tensor([given.pop("count")], device=device),
        x=x,
        weight=of_packed(packed(format, n_cols)),
        out=out,
        n_rows=N_ROWS,
        n_cols=n_cols,
        out_stride=out.stride(0),
        **given,
    )
    assert not triton_device.counters().any()
    return out.cpu()


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_a_token_has_the_same_bits_in_any_company(format: str) -> None:
    x = blocks(activation())
    whole = product(format, x)
    expected = q8_blocks.dequantize(q8_blocks.quantize(activation()))
    expected = expected @ packed(format).dequantize().T
    np.testing.assert_allclose(whole, expected, atol=2e-3 * np.abs(expected).max())
    for n_tokens, at in ((1, 69), (5, 65)):
        assert torch.equal(product(format, x[at : at + n_tokens]), whole[at : at + n_tokens])


@pytest.mark.parametrize("n_tokens", [17, 40])
def test_so_it_has_in_tiles_between(n_tokens: int) -> None:
    x = blocks(activation())
    assert torch.equal(product("q8_0", x[:n_tokens]), product("q8_0", x)[:n_tokens])


@pytest.mark.parametrize("format", ["q8_0", "q4_1", "q3_k"])
def test_so_it_does_however_the_runs_are_shared(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs(N_ROWS, TWO_RUNS) == (2, 2)
    x = blocks(activation(5, TWO_RUNS))
    whole = product(format, x)
    for n_tokens in (1, 5):
        results = []
        for enough in (0, 1 << 30):  # one program walks the runs; each has its own
            monkeypatch.setattr(triton_blocks, "ENOUGH", enough)
            results.append(product(format, x[:n_tokens]))
        assert torch.equal(*results)
        monkeypatch.setattr(triton_device, "SCRATCH_BYTES", 4)  # no room to share
        assert torch.equal(results[0], product(format, x[:n_tokens]))
        monkeypatch.undo()
        assert torch.equal(results[0], whole[:n_tokens])


@pytest.mark.parametrize("limit", [1, 4, 33, 70])
def test_only_tokens_that_are_there_are_written(limit: int) -> None:
    x = blocks(activation())
    out = product("q5_1", x, limit, count=1)
    assert torch.equal(out[:1], product("q5_1", x[:1]))
    assert (out[1:] == -5).all()
    assert (product("q5_1", x, limit, count=0) == -5).all()


@pytest.mark.parametrize("format", ["q8_0", "q4_1", "q6_k"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nan_stays_with_its_token(format: str, value: float) -> None:
    x = activation(3)
    clean = product(format, blocks(x))
    x[1, 300] = value
    poisoned = product(format, blocks(x))
    assert poisoned[1].isnan().all()
    assert torch.equal(poisoned[[0, 2]], clean[[0, 2]])
    assert product(format, blocks(x[1:2])).isnan().all()


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_bias_sum_and_stride(n_tokens: int) -> None:
    device = triton_device.device()
    x, bias = blocks(activation(n_tokens)), torch.linspace(-3, 4, N_ROWS, device=device)
    plain = product("q4_0", x)
    wide = torch.full((n_tokens, N_ROWS + 24), 0.5, device=device)
    product("q4_0", x, out=wide[:, 8 : 8 + N_ROWS], bias=bias, accumulate=1)
    wanted = torch.full((n_tokens, N_ROWS + 24), 0.5)
    wanted[:, 8 : 8 + N_ROWS] = plain + bias.cpu() + 0.5
    assert torch.equal(wide.cpu(), wanted)


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_bfloat16_is_the_float32_rounded(n_tokens: int) -> None:
    x = blocks(activation(n_tokens))
    out = torch.zeros((n_tokens, N_ROWS), dtype=torch.bfloat16, device=triton_device.device())
    rounded = product("q3_k", x, out=out).float()  # down, in Triton's interpreter
    torch.testing.assert_close(rounded, product("q3_k", x), rtol=2**-7, atol=0)


def test_constants_follow_the_layouts() -> None:
    """n_offsets times a sum that activations carry cancels what codes are above signed ones."""
    offsets = {format: constants(format)["n_offsets"] for format in BLOCK_FORMATS}
    assert {f: n for f, n in offsets.items() if n} == {"q4_0": 1, "q5_0": 2, "q3_k": 1, "q6_k": 8}


@pytest.mark.parametrize(
    ("n_rows", "n_cols", "wanted"),
    [(28672, 4096, (1, 16)), (4096, 4096, (4, 4)), (4096, 14336, (4, 14)), (40, 256, (1, 1))],
)
def test_runs_fill_the_device(n_rows: int, n_cols: int, wanted: tuple[int, int]) -> None:
    assert runs(n_rows, n_cols) == wanted
