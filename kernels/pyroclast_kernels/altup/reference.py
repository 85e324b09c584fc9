"""What `altup_predict`, `altup_correct` and `match_rms` mean, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.norm.reference import normed

Array = NDArray[Any]
_RMS = KINDS.index("rms")


def altup_predict(
    n_tokens: Array,
    streams: Array,
    weight: Array,
    router: Array,
    coefs: Array,
    out: Array,
    d_model: int,
    n_streams: int,
    stream_stride: int,
    eps: float,
    scale: float,
) -> None:
    """Before a layer: streams[j, t] += sum over i of c[j, i] * streams[i, t] of the old values, and
    out[t] = the new streams[0, t]: alternating updates (AltUp, Baykal et al. 2023), as in Gemma 3n.
    c (n_streams, n_streams) is coefs @ m, m = tanh(router @ (scale * N(streams[0, t]))), N being
    the RMS norm of the op `norm`, with weight and eps.

    n_tokens int64 (1,); streams float32 (n_streams, max_batch_tokens, d_model), stream_stride
    values apart, changed in place; weight float32 (d_model,); router float32 (n_streams, d_model);
    coefs float32 (n_streams * n_streams, n_streams); out float32 (max_batch_tokens, d_model).
    n_streams is at most MAX_STREAMS; scale is rounded to float32.
    """
    t = int(n_tokens[0])
    assert streams.strides[0] == streams.itemsize * stream_stride
    old = streams[:n_streams, :t, :d_model].copy()
    c = modalities(old[0], weight, router, eps, scale) @ coefs.astype(np.float64).T
    change = np.einsum("tji,itd->jtd", c.reshape(t, n_streams, n_streams), old)
    streams[:n_streams, :t, :d_model] = old + change
    out[:t, :d_model] = streams[0, :t, :d_model]


def altup_correct(
    n_tokens: Array,
    streams: Array,
    predicted: Array,
    weight: Array,
    router: Array,
    coefs: Array,
    out_scale: Array | None,
    out: Array,
    d_model: int,
    n_streams: int,
    stream_stride: int,
    eps: float,
    scale: float,
) -> None:
    """After a layer that has changed streams[0] from `predicted`, d being the difference:
    streams[0, t] = predicted[t] + c[0] * d[t], the others += c[j] * d[t]; then
    out[t] = out_scale * streams[0, t].  c (n_streams,) is 1 + coefs @ m, m of streams[0] as the
    layer left it: see altup_predict.

    predicted and out float32 (max_batch_tokens, d_model); coefs float32 (n_streams, n_streams);
    out_scale float32 (d_model,), or None for 1.  The rest is as in altup_predict.
    """
    t = int(n_tokens[0])
    assert streams.strides[0] == streams.itemsize * stream_stride
    active = streams[0, :t, :d_model].copy()
    c = 1 + modalities(active, weight, router, eps, scale) @ coefs.astype(np.float64).T
    before = streams[:n_streams, :t, :d_model].copy()
    before[0] = predicted[:t, :d_model]
    change = c.T[:, :, None] * (active - before[0])
    streams[:n_streams, :t, :d_model] = before + change
    first = streams[0, :t, :d_model]
    out[:t, :d_model] = first if out_scale is None else first * out_scale


def modalities(x: Array, weight: Array, router: Array, eps: float, scale: float) -> Array:
    """float64 (n, n_streams): m of the rows of x float32 (n, d_model)."""
    scaled = normed(x, weight, None, eps, _RMS) * np.float32(scale)
    m: Array = np.tanh(scaled.astype(np.float64) @ router.astype(np.float64).T)
    return m


def match_rms(n_tokens: Array, x: Array, y: Array, d_model: int, floor: float) -> None:
    """y[t] *= sqrt(mean(x[t]^2)) / sqrt(max(mean(y[t]^2), floor)): y gets the size of x.

    n_tokens int64 (1,); x and y float32 (max_batch_tokens, d_model), two arrays, y changed in
    place; floor > 0 is rounded to float32.
    """
    t = int(n_tokens[0])
    square_x, square_y = (
        np.mean(np.square(each[:t, :d_model]), axis=-1, dtype=np.float64, keepdims=True)
        for each in (x, y)
    )
    size = np.sqrt(square_x) / np.sqrt(np.maximum(square_y, np.float32(floor)))
    y[:t, :d_model] *= size.astype(np.float32)
