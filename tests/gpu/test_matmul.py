"""Products of f32, f16 and bf16 weights: what the case list cannot say of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyroclast_kernels.cases import expected, mismatches, op_cases
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul.triton import tiles as triton_tiles
from pyroclast_kernels.matmul.triton.tiles import tile_of
from pyroclast_kernels.matmul.triton.values import launch_values
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits
from pyroclast_kernels.triton.weights import DeviceWeight, of_packed

ROUNDS = all_variants("matmul")["triton"].rounds
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# The larger ones take seconds in the interpreter, and say no more.
BF16_CASES = [c for c in op_cases("matmul") if c.format == "bf16" and c.flops < 1 << 24]
# Formats, and the activations that they meet.
PAIRS = [(f, torch.float32) for f in TYPES] + [("bf16", torch.bfloat16)]
# Rows and columns: a stack of six matrices of 16 rows; rows that no stack has; no 16-byte rows.
SHAPES = [(96, 160), (50, 72), (33, 77)]


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + shape[0]))
    return values.to(dtype).to(triton_device.device())


def weight_of(format: str, n_rows: int, n_cols: int) -> DeviceWeight:
    return DeviceWeight(format, n_rows, n_cols, random(n_rows, n_cols, dtype=TYPES[format]))


def product(
    x: torch.Tensor,
    weight: DeviceWeight,
    *,
    n_tokens: int | None = None,
    limit: int | None = None,
    out: torch.Tensor | None = None,
    **changed: Any,
) -> torch.Tensor:
    """The first n_tokens rows of x times the weight, into `out`, rows of NaN unless given."""
    used = len(x) if n_tokens is None else n_tokens
    if out is None:
        out = torch.full((len(x), weight.n_rows), torch.nan, device=x.device)
    arguments = {
        "n_tokens": torch.tensor([used], device=x.device),
        "x": x,
        "weight": weight,
        "bias": None,
        "out": out,
        "n_rows": weight.n_rows,
        "n_cols": weight.n_cols,
        "out_stride": out.stride(0),
        "accumulate": 0,
    }
    launch_values(Limits(used if limit is None else limit), **{**arguments, **changed})
    return out


def assert_close(got: torch.Tensor, x: torch.Tensor, weight: DeviceWeight, rel: float = 0) -> None:
    """Within a float32 dot product's error, tf32's cut of x, and `rel` of the result."""
    assert weight.values is not None
    a, b = weight.values.double().cpu(), x.double().cpu()
    per_sum = 2 * (weight.n_cols + 4) * np.finfo(np.float32).eps
    per_sum += 2.0**-10 if ROUNDS and weight.format == "f16" else 0
    per_sum += 2.0**-8 if ROUNDS and weight.format == "bf16" and x.dtype == torch.float32 else 0
    wanted = b @ a.T
    allowed = per_sum * (b.abs() @ a.abs().T) + rel * wanted.abs()
    assert ((got.double().cpu() - wanted).abs() <= allowed).all()


@pytest.mark.parametrize("case", BF16_CASES, ids=str)
def test_bfloat16_activations(case) -> None:
    """Their tiles come through the copy engine, where rows are aligned."""
    before, _ = expected(case)
    rounded = torch.from_numpy(before["x"]).bfloat16()
    before["x"] = rounded.float().numpy()
    after = {**before, "out": before["out"].copy()}
    all_variants("matmul")["numpy"].bind("bf16")(**after)
    device = triton_device.device()
    out = torch.from_numpy(before["out"]).to(device)
    bias = before["bias"] if before["bias"] is None else torch.from_numpy(before["bias"]).to(device)
    product(
        rounded.to(device),
        of_packed(before["weight"]),
        out=out,
        bias=bias,
        accumulate=before["accumulate"],
    )
    got = {**before, "out": out.cpu().numpy()}
    assert not mismatches(case, before, after, got, ROUNDS), case.reason
    assert not triton_device.counters().any()


@pytest.mark.parametrize(("n_rows", "n_cols"), SHAPES)
@pytest.mark.parametrize(("format", "x_type"), PAIRS)
def test_a_token_has_the_same_bits_alone_and_in_company(
    format: str, x_type: torch.dtype, n_rows: int, n_cols: int
) -> None:
    weight, x = weight_of(format, n_rows, n_cols), random(150, n_cols, dtype=x_type)
    whole = product(x, weight)
    assert_close(whole, x, weight)
    for first, n_tokens, limit in [(149, 1, 1), (3, 1, 40), (9, 5, 5), (77, 5, 133), (80, 70, 70)]:
        got = product(x[first : first + n_tokens], weight, limit=limit)
        assert torch.equal(got, whole[first : first + n_tokens]), (first, n_tokens, limit)


@pytest.mark.parametrize(("format", "x_type"), PAIRS)
@pytest.mark.parametrize("n_tokens", [0, 3, 67])
def test_other_rows_are_neither_read_nor_written(
    format: str, x_type: torch.dtype, n_tokens: int
) -> None:
    weight, x = weight_of(format, 48, 64), random(80, 64, dtype=x_type)
    wanted = product(x, weight)[:n_tokens]
    x[n_tokens:] = torch.nan
    got = product(x, weight, n_tokens=n_tokens, limit=80)
    assert torch.equal(got[:n_tokens], wanted)
    assert got[n_tokens:].isnan().all()


@pytest.mark.parametrize("out_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", TYPES)
def test_rows_of_wider_arrays(format: str, x_type: torch.dtype, out_type: torch.dtype) -> None:
    """As q, k and v are, side by side; and any mixture of types."""
    weight, wide = weight_of(format, 40, 64), random(21, 96, dtype=x_type)
    x = wide[:, 16:80]
    out = torch.full((21, 100), 7.0, dtype=out_type, device=x.device)
    product(x, weight, out=out[:, 24:64], out_stride=100)
    rel = 2.0**-7 if out_type == torch.bfloat16 else 0  # a GPU rounds, the interpreter cuts
    assert_close(out[:, 24:64], x, weight, rel)
    assert (out[:, :24] == 7).all() and (out[:, 64:] == 7).all()


@pytest.mark.parametrize(("format", "x_type"), PAIRS)
def test_bias_and_what_was_there_are_added(format: str, x_type: torch.dtype) -> None:
    weight, x = weight_of(format, 72, 32), random(19, 32, dtype=x_type)
    bias = random(72, dtype=torch.float32)
    plain = product(x, weight)
    there = random(19, 72, dtype=torch.float32, seed=1)
    assert torch.equal(product(x, weight, bias=bias), plain + bias)
    got = product(x, weight, bias=bias, out=there.clone(), accumulate=1)
    assert torch.equal(got, there + (plain + bias)) or torch.equal(got, plain + bias + there)


def test_float16_weights_take_activations_beyond_float16() -> None:
    weight, x = weight_of("f16", 16, 32), random(2, 32, dtype=torch.float32) * 1e9
    got = product(x, weight)
    assert got.isfinite().all()
    assert_close(got, x, weight)


@pytest.mark.parametrize("architecture", [80, 89, 90, 100])
@pytest.mark.parametrize("n_rows", [1, 50, 576, 1024, 4096, 6144, 28672, 50257, 128256])
@pytest.mark.parametrize(("format", "x_type"), PAIRS)
def test_tiles_fit(format: str, x_type: torch.dtype, n_rows: int, architecture: int, monkeypatch):
    monkeypatch.setattr(triton_tiles, "architecture", lambda: architecture)
    monkeypatch.setattr(triton_device, "INTERPRETED", False)
    for n_tokens in (1, 2, 16, 17, 64, 65, 128, 300, 512, 8192):
        tile = tile_of.__wrapped__(format, x_type.itemsize, n_rows, n_tokens, True)
        assert tile.rows % 8 == 0 and tile.rows <= tile.m
        assert tile.rows == tile.m or n_rows % tile.rows == 0
        stage = tile.k * (tile.m * TYPES[format].itemsize + tile.n * x_type.itemsize)
        limit = {80: 163, 90: 227, 100: 227}.get(architecture, 99) << 10
        assert 2 <= tile.n_stages <= 10 and tile.n_stages * stage < limit


def test_few_tokens_go_round_all_multiprocessors(monkeypatch) -> None:
    monkeypatch.setattr(triton_device, "INTERPRETED", False)
    monkeypatch.setattr(triton_tiles, "architecture", lambda: 90)
    for n_rows in (2048, 3072, 4096, 5120, 6144, 8192, 14336, 28672, 128256):
        tile = tile_of.__wrapped__("bf16", 2, n_rows, 1, True)
        n_waves = n_rows / tile.rows / 132
        assert n_waves / -(-n_waves // 1) > 0.92, (n_rows, tile)


_COMPILE = """
import torch
from compile_sm90 import _measured, without_a_gpu
compiled = without_a_gpu(90)
from pyroclast_kernels.matmul.triton.values import launch_gated, launch_values
from pyroclast_kernels.triton.weights import DeviceWeight
from pyroclast_kernels.triton.launch import Limits
for n_tokens, n_rows, n_cols in [(1, 4096, 1024), (32, 28672, 1024), (4096, 4096, 1024)]:
    given = dict(
        n_tokens=torch.ones(1, dtype=torch.int64), n_cols=n_cols,
        x=torch.empty(n_tokens, n_cols, dtype=torch.bfloat16),
        weight=DeviceWeight.empty("bf16", n_rows, n_cols),
    )
    launch_values(
        Limits(n_tokens), **given, bias=None, accumulate=0, n_rows=n_rows, out_stride=n_rows,
        out=torch.empty(n_tokens, n_rows),
    )
    launch_gated(
        Limits(n_tokens), **given, d_ff=n_rows // 2, out_q8=None, activation=0,
        out=torch.empty(n_tokens, n_rows // 2, dtype=torch.bfloat16),
    )
for kernel in compiled:
    numbers = _measured(kernel)
    copies = "cp.async.bulk.tensor.4d" in kernel.asm["ptx"]
    print(numbers.tensor, copies, numbers.stack_bytes, numbers.shared_bytes <= 227 << 10)
"""


def test_on_hopper_tiles_come_by_tma_and_meet_on_its_tensor_cores() -> None:
    """Compiled for it, wherever this runs: the case list's float32 activations do not get there.
    With a gated linear unit and without."""
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", _COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        f"m64n{n}k16 True 0 True" for n in (16, 16, 32, 32, 256, 256)
    ], done.stderr


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n_rows": 41}, "a product of 41 x 64 values needs such a weight, got one of 40 x 64"),
        ({"n_cols": 63}, "a product of 40 x 63"),
        ({"x": torch.zeros(3, 63)}, r"x must be \(n_tokens, 64\).*got torch.float32 \(3, 63\)"),
        ({"x": torch.zeros(64, 3).T}, "columns adjacent"),
        ({"x": torch.zeros(3, 64, dtype=torch.int32)}, "floating point"),
        ({"out_stride": 39}, "rows of out are 40 long, but only 39 apart"),
        ({"limit": 1 << 40}, "2\\^40 results"),
        ({"x": torch.zeros(1).expand(3, 64)}, "columns adjacent"),
        ({"weight": DeviceWeight("q8_0", 40, 64)}, "got one of 40 x 64 in q8_0"),
    ],
)
def test_sizes_that_do_not_fit(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(KernelError, match=words):
        product(**{"x": torch.zeros(3, 64), "weight": weight_of("f32", 40, 64), **changed})
