"""softmax in Triton: a row is cut into parts of 2048 columns, a program each, so that a single row
of 128,256 logits keeps 63 multiprocessors busy.  Two launches:

_parts: the maximum of each part and the sum of its weights e^((z - maximum) / temperature),
        or, at temperature 0, the column where the maximum comes first.
_rows:  every program merges the parts of its row, in one order, and writes its own columns.

Nothing is shared but what the first launch leaves (8 bytes a part): no atomics, and the bits of a
row depend on the row alone (Milakov and Gimelshein 2018 merge sums in this way).  Both launches
read the logits: of a column that is 12 bytes, and 8 from memory while the logits fit into the L2
cache (64 rows of 128,256 are 33 MB of an H200's 60), so 64 rows take 66 MB of traffic.  A bias or
a mask is applied twice rather than stored.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from pyroclast_kernels import softmax
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.triton import device as triton_device

if TYPE_CHECKING:
    from pyroclast_kernels.triton.launch import Limits

_N_BLOCKS = tl.constexpr(64)  # of 32 columns, in a part
_MIN_TEMPERATURE = tl.constexpr(softmax.MIN_TEMPERATURE)
_TWICE_LOG2_E = tl.constexpr(2.8853900817779268)
_PART = 32 * _N_BLOCKS.value
_PARTIAL_BYTES = 8
_N_WARPS = 4


@triton.jit
def _adjusted(logits, bias, allowed, row, n_cols, logits_stride):
    """(float32 (64, 32): logits + bias, -inf where not allowed or beyond the row, and the columns)
    of this program's part."""
    block = tl.program_id(1) * _N_BLOCKS + tl.arange(0, _N_BLOCKS)
    column = block[:, None] * 32 + tl.arange(0, 32)
    z = tl.load(logits + row * logits_stride + column, column < n_cols, float("-inf"))
    if bias is not None:
        z += tl.load(bias + column, column < n_cols, 0.0)
    if allowed is not None:
        n_words = (n_cols + 31) // 32
        word = tl.load(allowed + row * n_words + block, block < n_words, 0)
        z = tl.where((word[:, None] >> tl.arange(0, 32)) & 1 != 0, z, float("-inf"))
    return z, column


@triton.jit
def _temperature(temperatures, row):
    """float64; 1 where none are given."""
    if temperatures is None:
        return tl.full((), 1.0, tl.float64)
    return tl.load(temperatures + row)


@triton.jit
def _finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def _half_below(z, maximum):
    """(z - maximum) / 2, which float32 holds wherever it holds z and maximum."""
    return tl.fma(z, 0.5, -0.5 * maximum)


@triton.jit
def _weights(z, maximum, temperature):
    """e^((z - maximum) / temperature), of a finite maximum; 0 at -inf, however hot."""
    scale = (1.0 / temperature * _TWICE_LOG2_E).to(tl.float32)
    return tl.where(z == float("-inf"), 0.0, tl.exp2(_half_below(z, maximum) * scale))


@triton.jit
def _parts(n_rows, logits, temperatures, bias, allowed, partials, n_cols, logits_stride):
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(n_rows):
        return
    z, column = _adjusted(logits, bias, allowed, row, n_cols, logits_stride)
    temperature = _temperature(temperatures, row)
    # A NaN counts as +inf, which makes the row NaN: a maximum of itself would pass over it.
    maximum = tl.max(tl.where(z <= float("inf"), z, float("inf")))
    if temperature < _MIN_TEMPERATURE:
        first = tl.min(tl.where(z == maximum, column, n_cols))
        share = first.to(tl.float32, bitcast=True)
    else:
        base = tl.where(_finite(maximum), maximum, 0.0)
        share = tl.sum(_weights(z, base, temperature))
    partial = partials + 2 * (row * tl.num_programs(1) + tl.program_id(1))
    tl.store(partial, maximum)
    tl.store(partial + 1, share)


@triton.jit
def _log_probabilities(z, maximum, temperature, total):
    """(z - maximum) / temperature - log(total)."""
    scale = (2.0 / temperature).to(tl.float32)
    x = tl.fma(_half_below(z, maximum), scale, -tl.log(total).to(tl.float32))
    return tl.where(z == float("-inf"), z, x)


@triton.jit
def _rows(
    n_rows,
    logits,
    temperatures,
    bias,
    allowed,
    partials,
    out,
    n_cols,
    logits_stride,
    out_stride,
    log: tl.constexpr,
    max_parts: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(n_rows):
        return
    z, column = _adjusted(logits, bias, allowed, row, n_cols, logits_stride)
    temperature = _temperature(temperatures, row)
    part, n_parts = tl.arange(0, max_parts), tl.num_programs(1)
    partial = partials + 2 * (row * n_parts + part)
    tops = tl.load(partial, part < n_parts, float("-inf"))
    shares = tl.load(partial + 1, part < n_parts, 0.0)
    maximum = tl.max(tops, axis=0)
    base = tl.where(_finite(maximum), maximum, 0.0)
    if temperature < _MIN_TEMPERATURE:
        firsts = tl.where(tops == maximum, shares.to(tl.int32, bitcast=True), n_cols)
        chosen = column == tl.min(firsts, axis=0)
        y = tl.where(chosen, 0.0, float("-inf")) if log else tl.where(chosen, 1.0, 0.0)
    else:
        merged = shares.to(tl.float64) * _weights(tops, base, temperature).to(tl.float64)
        total = tl.sum(merged, axis=0)
        if log:
            y = _log_probabilities(z, base, temperature, total)
        else:
            y = _weights(z, base, temperature) * (1.0 / total.to(tl.float32))
    y = tl.where(_finite(maximum), y, float("nan"))
    tl.store(out + row * out_stride + column, y, column < n_cols)


def launch_softmax(
    limits: Limits,
    logits: torch.Tensor,
    n_rows: torch.Tensor,
    temperatures: torch.Tensor | None,
    bias: torch.Tensor | None,
    allowed: torch.Tensor | None,
    out: torch.Tensor,
    n_cols: int,
    logits_stride: int,
    out_stride: int,
    log: int,
) -> None:
    """reference.softmax of tensors, `allowed` as int32.  KernelError where the parts of the rows
    do not fit into scratch()."""
    n_parts = triton.cdiv(n_cols, _PART)
    grid = max(1, limits.n_tokens), n_parts
    room = triton_device.scratch().numel() // _PARTIAL_BYTES
    if grid[0] * n_parts > room:
        raise KernelError(
            f"softmax has room for {room} parts of {_PART} columns in one call, got {grid[0]} rows "
            f"of {n_parts}; call it with fewer rows"
        )
    partials = triton_device.scratch().view(torch.float32)
    row = n_rows, logits, temperatures, bias, allowed, partials
    _parts[grid](*row, n_cols, logits_stride, num_warps=_N_WARPS)
    max_parts = triton.next_power_of_2(n_parts)
    strides = n_cols, logits_stride, out_stride
    _rows[grid](*row, out, *strides, log, max_parts, num_warps=_N_WARPS)
