# $contract

import os

import numpy as np
import torch
import triton
import triton.language as tl

from pyroclast_kernels import q8_blocks

OP = "norm"
FORMATS = ("f32",)
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def to_device(array):
    """A copy on the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


@triton.jit
def kernel(
    x, weight, bias, y, d_model: tl.constexpr, eps, is_layer: tl.constexpr, BLOCK: tl.constexpr
):
    row, columns = tl.program_id(0), tl.arange(0, BLOCK)
    mean = 0.0
    if is_layer:
        for _ in tl.static_range(2):  # the second time, of what the first mean leaves
            total = tl.zeros((BLOCK,), tl.float32)
            for start in range(0, d_model, BLOCK):
                i = start + columns
                v = tl.load(x + row * d_model + i, mask=i < d_model, other=0.0)
                total += tl.where(i < d_model, v - mean, 0.0)
            mean += tl.sum(total) / d_model
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, d_model, BLOCK):
        i = start + columns
        v = tl.load(x + row * d_model + i, mask=i < d_model, other=0.0)
        v = tl.where(i < d_model, v - mean, 0.0)
        squares += v * v
    scale = 1.0 / tl.sqrt(tl.sum(squares) / d_model + eps)
    for start in range(0, d_model, BLOCK):
        i = start + columns
        v = tl.load(x + row * d_model + i, mask=i < d_model, other=0.0)
        w = tl.load(weight + i, mask=i < d_model, other=0.0)
        out = (v - mean) * scale * w
        if bias is not None:
            out += tl.load(bias + i, mask=i < d_model, other=0.0)
        tl.store(y + row * d_model + i, out, mask=i < d_model)


def norm_f32(
    n_tokens,
    rows,
    x,
    weight,
    bias,
    out,
    out_q8,
    d_model,
    eps,
    kind,
):
    n = int(n_tokens[0])
    chosen = to_device(x[:n] if rows is None else x[rows[:n]])
    y = torch.empty_like(chosen)
    shift = None if bias is None else to_device(bias)
    kernel[(n,)](chosen, to_device(weight), shift, y, d_model, eps, kind == 1, BLOCK=1024)
    q8_blocks.put(y.cpu().numpy(), out, out_q8)
