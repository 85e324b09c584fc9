"""First correct kernels in Triton, for the ops that most people begin with.

A function takes the reference's parameters as NumPy arrays, computes on the GPU, and copies the
result back: the copies are part of its time.  TRITON_INTERPRET=1 runs it without a GPU; a loop's
bounds are constants there, since the interpreter's numbers are arrays, which NumPy 2.4 no longer
takes for a bound.
"""

from __future__ import annotations

import textwrap

from pyroclast_kernels.registry import get_op

_HEAD = '''
import os

import numpy as np
import torch
import triton
import triton.language as tl
{uses}
{marks}DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def to_device(array):
    """A copy on the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)
'''

# op -> (the kernels, the body of the function that launches them)
LOOPS: dict[str, tuple[str, str]] = {
    "norm": (
        """
@triton.jit
def kernel(x, weight, y, d_model: tl.constexpr, eps, BLOCK: tl.constexpr):
    row, columns = tl.program_id(0), tl.arange(0, BLOCK)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, d_model, BLOCK):
        i = start + columns
        v = tl.load(x + row * d_model + i, mask=i < d_model, other=0.0)
        squares += v * v
    scale = 1.0 / tl.sqrt(tl.sum(squares) / d_model + eps)
    for start in range(0, d_model, BLOCK):
        i = start + columns
        v = tl.load(x + row * d_model + i, mask=i < d_model, other=0.0)
        w = tl.load(weight + i, mask=i < d_model, other=0.0)
        tl.store(y + row * d_model + i, v * scale * w, mask=i < d_model)
""",
        """\
    n = int(n_tokens[0])
    chosen = to_device(x[:n] if rows is None else x[rows[:n]])
    y = torch.empty_like(chosen)
    kernel[(n,)](chosen, to_device(weight), y, d_model, eps, BLOCK=1024)
    activations.put(y.cpu().numpy(), out, out_q8)
""",
    ),
    "glu": (
        """
@triton.jit
def kernel(gate_up, y, d_ff, activation: tl.constexpr, BLOCK: tl.constexpr):
    row, i = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up + row * 2 * d_ff + i, mask=i < d_ff, other=0.0)
    up = tl.load(gate_up + row * 2 * d_ff + d_ff + i, mask=i < d_ff, other=0.0)
    # float64: its exponential does not overflow, and the GPU's of float32 is an approximation
    g = gate.to(tl.float64)
    if activation == 0:
        f = g / (1.0 + tl.exp(-g))
    elif activation == 1:
        f = g / (1.0 + tl.exp(-1.5957691216057308 * g * (1.0 + 0.044715 * g * g)))
    else:
        f = 0.5 * g * (1.0 + tl.erf(g * 0.7071067811865476))
    tl.store(y + row * d_ff + i, f.to(tl.float32) * up, mask=i < d_ff)
""",
        """\
    n = int(n_tokens[0])
    y = torch.empty((n, d_ff), dtype=torch.float32, device=DEVICE)
    kernel[(n, triton.cdiv(d_ff, 1024))](to_device(gate_up[:n]), y, d_ff, activation, BLOCK=1024)
    activations.put(y.cpu().numpy(), out, out_q8)
""",
    ),
    "softmax": (
        """
@triton.jit
def kernel(z, y, temperatures, n_cols: tl.constexpr, log: tl.constexpr, BLOCK: tl.constexpr):
    # One row; z has its maximum subtracted, so that the greatest exponent is 0.
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
""",
        """\
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
    # Below 1e-5 all probability goes to the first of the greatest.
    first = (z == best).int().argmax(dim=-1, keepdim=True)
    one_hot = torch.full_like(z, -torch.inf if log else 0.0).scatter(1, first, 0.0 if log else 1.0)
    y = torch.where((heat < 1e-5)[:, None], one_hot, y)
    # A NaN, a +inf, or nothing finite: no distribution.
    y[z.isnan().any(dim=-1) | ~best[:, 0].isfinite()] = torch.nan
    out[:n, :n_cols] = y.cpu().numpy()
""",
    ),
    "rope": (
        """
@triton.jit
def kernel(qkv, table, width, half, BLOCK: tl.constexpr):
    # One head of one token, in place; the sines follow the cosines.
    t, h, i = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK)
    inside = i < half
    low = qkv + t * width + h * 2 * half + i
    a, b = tl.load(low, mask=inside), tl.load(low + half, mask=inside)
    cosine = tl.load(table + t * 2 * half + i, mask=inside)
    sine = tl.load(table + t * 2 * half + half + i, mask=inside)
    tl.store(low, a * cosine - b * sine, mask=inside)
    tl.store(low + half, b * cosine + a * sine, mask=inside)
""",
        """\
    n, half, n_rotated = int(n_tokens[0]), head_dim // 2, n_heads + n_kv_heads
    rotated = to_device(qkv[:n])
    block_width = triton.next_power_of_2(half)
    kernel[(n, n_rotated)](rotated, to_device(table[:n]), qkv.shape[1], half, BLOCK=block_width)
    qkv[:n] = rotated.cpu().numpy()
    # The cache lies in the computer's memory, not the GPU's: writing to it is NumPy's part.
    heads = qkv[:n].reshape(n, n_rotated + n_kv_heads, head_dim)
    block = block_tables[seq_index[:n], positions[:n] // block_size]
    slot = positions[:n] % block_size
    k_cache[block, :, :, slot] = heads[:, n_heads:n_rotated]
    v_cache[block, :, slot, :head_dim] = heads[:, n_rotated:]
""",
    ),
    "matmul": (
        """
@triton.jit
def kernel(x, weight, y, n_rows, n_cols: tl.constexpr, BLOCK: tl.constexpr):
    # One token and a group of 16 packed rows: lanes lie side by side, column after column.
    t, group = tl.program_id(0), tl.program_id(1)
    lanes, columns = tl.arange(0, 16), tl.arange(0, BLOCK)
    total = tl.zeros((16,), tl.float32)
    for start in range(0, n_cols, BLOCK):
        k = start + columns
        v = tl.load(x + t * n_cols + k, mask=k < n_cols, other=0.0)
        at = (group * n_cols + k[:, None]) * 16 + lanes[None, :]
        w = tl.load(weight + at, mask=(k < n_cols)[:, None], other=0.0)
        total += tl.sum(w * v[:, None], axis=0)
    row = group * 16 + lanes
    tl.store(y + t * n_rows + row, total, mask=row < n_rows)
""",
        """\
    n = int(n_tokens[0])
    y = torch.empty((n, n_rows), dtype=torch.float32, device=DEVICE)
    packed = to_device(weight.data.view(np.float32))
    kernel[(n, triton.cdiv(n_rows, 16))](to_device(x[:n]), packed, y, n_rows, n_cols, BLOCK=256)
    result = y.cpu().numpy()
    if bias is not None:
        result += bias
    rows = np.lib.stride_tricks.as_strided(out, (n, n_rows), (4 * out_stride, 4))
    rows[:] = rows + result if accumulate else result
""",
    ),
}


def body(op: str, format: str, marks: str) -> str:
    """The file below its head; `marks` goes below the imports."""
    kernels, launch = LOOPS[op]
    parameters = ", ".join(get_op(op).parameters)
    uses = "\nfrom pyroclast_kernels import activations\n" if "activations." in launch else ""
    head = _HEAD.format(uses=uses, marks=marks)
    wrapped = textwrap.indent(textwrap.fill(parameters + ",", 96), "    ")
    return f"{head}\n{kernels}\n\ndef {op}_{format}(\n{wrapped}\n):\n{launch}"
