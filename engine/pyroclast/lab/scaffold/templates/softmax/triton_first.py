# $contract

import os

import numpy as np
import torch
import triton
import triton.language as tl

OP = "softmax"
FORMATS = ("f32",)
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def to_device(array):
    """A copy on the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


@triton.jit
def kernel(z, y, temperatures, n_cols: tl.constexpr, log: tl.constexpr, BLOCK: tl.constexpr):
    # One row; z has its maximum subtracted, so that the largest exponent is 0.
    row, columns = tl.program_id(0), tl.arange(0, BLOCK)
    temperature = tl.load(temperatures + row)
    weights = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, n_cols, BLOCK):
        i = start + columns
        v = tl.load(z + row * n_cols + i, mask=i < n_cols, other=-float("inf"))
        weights += tl.exp(v / temperature)
    total = tl.sum(weights)
    for start in range(0, n_cols, BLOCK):
        i = start + columns
        x = tl.load(z + row * n_cols + i, mask=i < n_cols, other=0.0) / temperature
        if log:
            p = x - tl.log(total)
        else:
            p = tl.exp(x) / total
        tl.store(y + row * n_cols + i, p.to(tl.float32), mask=i < n_cols)


def softmax_f32(
    logits,
    n_rows,
    temperatures,
    bias,
    allowed,
    out,
    n_cols,
    logits_stride,
    out_stride,
    log,
):
    n = int(n_rows[0])
    z = to_device(logits[:n, :n_cols])
    if bias is not None:
        z = z + to_device(bias[:n_cols])
    if allowed is not None:
        bits = np.unpackbits(allowed[:n].view(np.uint8), axis=-1, bitorder="little")
        z = z.masked_fill(to_device(bits[:, :n_cols]) == 0, -torch.inf)
    best = z.max(dim=-1, keepdim=True).values
    heat = torch.ones(n) if temperatures is None else torch.from_numpy(temperatures[:n])
    heat = heat.to(DEVICE, torch.float64)
    y = torch.empty_like(z)
    shifted = z.double() - best.double()
    kernel[(n,)](shifted, y, heat.clamp(min=1e-5), n_cols, bool(log), BLOCK=1024)
    # Below 1e-5 all probability goes to the first maximum.
    first = (z == best).int().argmax(dim=-1, keepdim=True)
    one_hot = torch.full_like(z, -torch.inf if log else 0.0).scatter(1, first, 0.0 if log else 1.0)
    y = torch.where((heat < 1e-5)[:, None], one_hot, y)
    # A NaN, a +inf, or nothing finite: no distribution.
    y[z.isnan().any(dim=-1) | ~best[:, 0].isfinite()] = torch.nan
    out[:n, :n_cols] = y.cpu().numpy()
