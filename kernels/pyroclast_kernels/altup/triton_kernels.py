"""altup_predict, altup_correct and match_rms in Triton: a program per token.

A program norms its row of the first stream, adds up the products of the router, and then goes over
the streams in tiles of 256 columns.  It waits before it writes a tile, which other threads of it
may still have to read.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.norm.triton_kernels import n_warps_of, normed
from pyroclast_kernels.triton.math import tanh

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_RMS = tl.constexpr(KINDS.index("rms"))
_COLUMNS = 256  # of a tile


@triton.jit
def _modalities(
    x, weight, router, d_model, n_streams, eps, scale, rows: tl.constexpr, block: tl.constexpr
):
    """m (rows,), 0 beyond n_streams: tanh of the router's products of scale * N(x)."""
    column, k = tl.arange(0, block), tl.arange(0, rows)
    mask = column < d_model
    values = tl.load(x + column, mask, 0.0).to(tl.float32)
    gain = tl.load(weight + column, mask, 0.0).to(tl.float32)
    y = normed(values, gain, None, mask, d_model, eps, _RMS) * scale
    inside = (k < n_streams)[:, None] & mask[None, :]
    routes = tl.load(router + k[:, None] * d_model + column[None, :], inside, 0.0)
    return tanh(tl.sum(routes.to(tl.float32) * y[None, :], axis=1))


@triton.jit
def _altup_predict(
    n_tokens, streams, weight, router, coefs, out, d_model, n_streams, stream_stride, eps, scale,
    rows: tl.constexpr, block: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    x = streams + token * d_model
    m = _modalities(x, weight, router, d_model, n_streams, eps, scale, rows, block)
    j = tl.arange(0, rows)
    ji = j[:, None] * n_streams + j[None, :]
    known = (j < n_streams)[:, None] & (j < n_streams)[None, :]
    inside = known[:, :, None] & (j < n_streams)[None, None, :]
    w = tl.load(coefs + ji[:, :, None] * n_streams + j[None, None, :], inside, 0.0)
    c = tl.sum(w.to(tl.float32) * m[None, None, :], axis=2)
    for first in range(0, block, columns):
        column = first + tl.arange(0, columns)
        mask = (j < n_streams)[:, None] & (column < d_model)[None, :]
        at = x + j.to(tl.int64)[:, None] * stream_stride + column[None, :]
        old = tl.load(at, mask, 0.0).to(tl.float32)
        new = old + tl.sum(c[:, :, None] * old[None, :, :], axis=1)
        tl.debug_barrier()
        tl.store(at, new.to(streams.dtype.element_ty), mask)
        to = out + token * d_model + column[None, :] + 0 * j[:, None]
        tl.store(to, new.to(out.dtype.element_ty), mask & (j == 0)[:, None])


@triton.jit
def _altup_correct(
    n_tokens, streams, predicted, weight, router, coefs, out_scale, out, d_model, n_streams,
    stream_stride, eps, scale, rows: tl.constexpr, block: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    x = streams + token * d_model
    m = _modalities(x, weight, router, d_model, n_streams, eps, scale, rows, block)
    j = tl.arange(0, rows)
    known = (j < n_streams)[:, None] & (j < n_streams)[None, :]
    w = tl.load(coefs + j[:, None] * n_streams + j[None, :], known, 0.0).to(tl.float32)
    c = 1.0 + tl.sum(w * m[None, :], axis=1)
    for first in range(0, block, columns):
        column = first + tl.arange(0, columns)
        inside = column < d_model
        mask = (j < n_streams)[:, None] & inside[None, :]
        at = x + j.to(tl.int64)[:, None] * stream_stride + column[None, :]
        before = tl.load(predicted + token * d_model + column, inside, 0.0).to(tl.float32)
        change = tl.load(x + column, inside, 0.0).to(tl.float32) - before
        old = tl.load(at, mask, 0.0).to(tl.float32)
        old = tl.where((j == 0)[:, None], before[None, :], old)
        new = old + c[:, None] * change[None, :]
        tl.debug_barrier()
        tl.store(at, new.to(streams.dtype.element_ty), mask)
        y = tl.sum(tl.where((j == 0)[:, None], new, 0.0), axis=0)
        if out_scale is not None:
            y = y * tl.load(out_scale + column, inside, 0.0).to(tl.float32)
        tl.store(out + token * d_model + column, y.to(out.dtype.element_ty), inside)


@triton.jit
def _match_rms(n_tokens, x, y, d_model, floor, block: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    column = tl.arange(0, block)
    mask = column < d_model
    wanted = tl.load(x + token * d_model + column, mask, 0.0).to(tl.float32)
    values = tl.load(y + token * d_model + column, mask, 0.0).to(tl.float32)
    own = tl.sum(values * values) / d_model
    own = tl.where(own < floor, floor, own)
    factor = tl.div_rn(tl.sqrt_rn(tl.sum(wanted * wanted) / d_model), tl.sqrt_rn(own))
    tl.store(y + token * d_model + column, (values * factor).to(y.dtype.element_ty), mask)


def launch_altup_predict(
    limits: Limits,
    n_tokens: torch.Tensor,
    streams: torch.Tensor,
    weight: torch.Tensor,
    router: torch.Tensor,
    coefs: torch.Tensor,
    out: torch.Tensor,
    d_model: int,
    n_streams: int,
    stream_stride: int,
    eps: float,
    scale: float,
) -> None:
    """reference.altup_predict of tensors; all float32."""
    block = int(triton.next_power_of_2(d_model))
    _altup_predict[(max(1, limits.n_tokens),)](
        n_tokens, streams, weight, router, coefs, out, d_model, n_streams, stream_stride, eps,
        scale, int(triton.next_power_of_2(n_streams)), block, min(block, _COLUMNS),
        num_warps=n_warps_of(block),
    )  # fmt: skip


def launch_altup_correct(
    limits: Limits,
    n_tokens: torch.Tensor,
    streams: torch.Tensor,
    predicted: torch.Tensor,
    weight: torch.Tensor,
    router: torch.Tensor,
    coefs: torch.Tensor,
    out_scale: torch.Tensor | None,
    out: torch.Tensor,
    d_model: int,
    n_streams: int,
    stream_stride: int,
    eps: float,
    scale: float,
) -> None:
    """reference.altup_correct of tensors; all float32."""
    block = int(triton.next_power_of_2(d_model))
    _altup_correct[(max(1, limits.n_tokens),)](
        n_tokens, streams, predicted, weight, router, coefs, out_scale, out, d_model, n_streams,
        stream_stride, eps, scale, int(triton.next_power_of_2(n_streams)), block,
        min(block, _COLUMNS), num_warps=n_warps_of(block),
    )  # fmt: skip


def launch_match_rms(
    limits: Limits,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    d_model: int,
    floor: float,
) -> None:
    """reference.match_rms of tensors; x and y float32 or bfloat16."""
    block = int(triton.next_power_of_2(d_model))
    _match_rms[(max(1, limits.n_tokens),)](
        n_tokens, x, y, d_model, floor, block, num_warps=n_warps_of(block)
    )
