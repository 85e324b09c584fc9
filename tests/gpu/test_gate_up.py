"""Triton's gate_up: the bits of matmul and glu, whatever the company; NaN, outputs, grids."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.activation.triton.kernels import launch_glu
from pyroclast_kernels.cases import Case, op_cases
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.matmul.triton.blocks import launch_blocks
from pyroclast_kernels.matmul.triton.gate_up import launch_gate_up
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits, host_tensor, on_host
from pyroclast_kernels.triton.weights import of_packed
from pyroclast_kernels.weights.packing import PackedWeight, pack_rows

D_FF, N_COLS = 64, 256
SIZES = (
    "1x96x512-gelu-values-q8",
    "9x96x512-gelu_tanh-values-q8",
    "1x32x32-values-q8",
    "25x160x32-values-q8",
    "1x32x256-values-q8",
    "25x160x256-values-q8",
)


@cache
def packed(format: str) -> PackedWeight:
    weight = PackedWeight.empty(format, 2 * D_FF, N_COLS)
    pack_rows(raw_rows(np.random.default_rng(1), 2 * D_FF, N_COLS, format), weight, 0)
    return weight


def blocks(x: np.ndarray[Any, Any]) -> torch.Tensor:
    return host_tensor(q8_blocks.quantize(x)).to(triton_device.device())


def activation(n_tokens: int) -> np.ndarray[Any, Any]:
    x = np.random.default_rng(2).standard_normal((n_tokens, N_COLS)).astype(np.float32)
    return x / np.float32(16)


def fused(
    format: str, x: torch.Tensor, count: int | None = None, dtype: Any = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, Q8_BLOCKs) on the host."""
    device = triton_device.device()
    out = torch.full((len(x), D_FF), -5.0, dtype=dtype, device=device)
    out_q8 = torch.full((len(x), D_FF // 32, 64), 7, dtype=torch.uint8, device=device)
    launch_gate_up(
        Limits(len(x)),
        n_tokens=torch.tensor([len(x) if count is None else count], device=device),
        x=x,
        weight=of_packed(packed(format)),
        out=out,
        out_q8=out_q8,
        d_ff=D_FF,
        n_cols=N_COLS,
        activation=0,
    )
    return out.cpu(), out_q8.cpu()


def apart(limits: Limits, **given: Any) -> None:
    """matmul, then glu."""
    d_ff = given["d_ff"]
    sums = torch.zeros((given["x"].shape[0], 2 * d_ff), device=triton_device.device())
    launch_blocks(
        limits,
        n_tokens=given["n_tokens"],
        x=given["x"],
        weight=given["weight"],
        bias=None,
        out=sums,
        n_rows=2 * d_ff,
        n_cols=given["n_cols"],
        out_stride=2 * d_ff,
        accumulate=0,
    )
    names = ("n_tokens", "out", "out_q8", "d_ff", "activation")
    launch_glu(limits, gate_up=sums, gated=1, **{name: given[name] for name in names})


@pytest.mark.parametrize("case", [c for c in op_cases("gate_up") if c.name in SIZES], ids=str)
def test_same_bits_as_matmul_and_glu(case: Case) -> None:
    one, other = case.make(), case.make()
    other["weight"] = one["weight"]
    on_host(launch_gate_up)(**one)
    on_host(apart)(**other)
    for name in case.outputs:
        if one[name] is not None:
            assert one[name].tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("format", ["q8_0", "q4_1", "q3_k"])
def test_a_token_has_the_same_bits_in_any_company(format: str) -> None:
    x = blocks(activation(70))
    whole = fused(format, x)
    for n_tokens, at in ((1, 69), (5, 65), (33, 20)):
        few = fused(format, x[at : at + n_tokens])
        for a, b in zip(few, whole, strict=True):
            assert torch.equal(a, b[at : at + n_tokens])


@pytest.mark.parametrize("limit", [1, 6, 70])
def test_only_tokens_that_are_there_are_written(limit: int) -> None:
    x = blocks(activation(limit))
    alone, none = fused("q4_0", x, 1), fused("q4_0", x, 0)
    for a, b in zip(alone, fused("q4_0", x[:1]), strict=True):
        assert torch.equal(a[:1], b)
    assert (alone[0][1:] == -5).all()
    assert (alone[1][1:] == 7).all()
    assert (none[0] == -5).all()
    assert (none[1] == 7).all()


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_a_nan_reaches_the_scales_of_its_token_alone(n_tokens: int) -> None:
    x = activation(n_tokens)
    x[-1, 40] = np.nan
    values, q8 = fused("q8_0", blocks(x))
    scales = q8.view(torch.float32)[..., 0]
    assert values[-1].isnan().all()
    assert scales[-1].isnan().all()
    assert values[:-1].isfinite().all()
    assert scales[:-1].isfinite().all()


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_gates_far_from_zero(n_tokens: int) -> None:
    """silu of a very negative gate is 0, not NaN: its exponential is infinite."""
    x = activation(n_tokens) * np.float32(1e6)
    values, _ = fused("q8_0", blocks(x))
    y = q8_blocks.dequantize(q8_blocks.quantize(x)) @ packed("q8_0").dequantize().T
    gate, up = y[:, :D_FF], y[:, D_FF:]
    assert (gate < -1000).any()
    assert values.isfinite().all()
    wanted = np.where(gate > 0, gate * up, 0)
    np.testing.assert_allclose(values, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_bfloat16_is_the_float32_rounded(n_tokens: int) -> None:
    x = blocks(activation(n_tokens))
    rounded, _ = fused("q4_k", x, dtype=torch.bfloat16)
    wanted = fused("q4_k", x)[0]  # rounded down in Triton's interpreter
    torch.testing.assert_close(rounded.float(), wanted, rtol=2**-7, atol=0)
