# $contract

import os

import numpy as np
import torch
import triton
import triton.language as tl

from pyroclast_kernels import q8_blocks

OP = "glu"
FORMATS = ("f32",)
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def to_device(array):
    """A copy on the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


@triton.jit
def kernel(gate_up, y, d_ff, activation: tl.constexpr, gated: tl.constexpr, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate_up += row * (2 * d_ff if gated else d_ff)
    gate = tl.load(gate_up + i, mask=i < d_ff, other=0.0)
    # float64: its exponential does not overflow, and the GPU's of float32 is an approximation
    g = gate.to(tl.float64)
    if activation == 0:
        f = g / (1.0 + tl.exp(-g))
    elif activation == 1:
        f = g / (1.0 + tl.exp(-1.5957691216057308 * g * (1.0 + 0.044715 * g * g)))
    elif activation == 2:
        f = 0.5 * g * (1.0 + tl.erf(g * 0.7071067811865476))
    else:
        f = tl.where(g < 0.0, 0.0, g)
        if activation == 4:
            f *= f
    f = f.to(tl.float32)
    if gated:
        f *= tl.load(gate_up + d_ff + i, mask=i < d_ff, other=0.0)
    tl.store(y + row * d_ff + i, f, mask=i < d_ff)


def glu_f32(
    n_tokens,
    gate_up,
    out,
    out_q8,
    d_ff,
    activation,
    gated,
):
    n = int(n_tokens[0])
    y = torch.empty((n, d_ff), dtype=torch.float32, device=DEVICE)
    grid = (n, triton.cdiv(d_ff, 1024))
    kernel[grid](to_device(gate_up[:n]), y, d_ff, activation, gated, BLOCK=1024)
    q8_blocks.put(y.cpu().numpy(), out, out_q8)
