"""The output of attention: query heads as float32 or bfloat16, and quantized to 8 bits."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.activation.triton.quantize import store_quantized

_Q8 = tl.constexpr(32)  # activations.BLOCK


@triton.jit
def store_rows(
    y, out, out_q8, head, mask, head_dim: tl.constexpr,
    block_d: tl.constexpr,
):  # fmt: skip
    """Writes y, float32 (rows, block_d), as heads `head` (rows,), counted over all tokens, where
    mask (rows,) says.  out and out_q8 are both optional; see the contract."""
    dim = tl.arange(0, block_d)
    if out is not None:
        at = head[:, None] * head_dim + dim[None, :]
        tl.store(out + at, y.to(out.dtype.element_ty), mask[:, None] & (dim < head_dim)[None, :])
    if out_q8 is not None:
        n_blocks: tl.constexpr = head_dim // _Q8
        block = tl.arange(0, block_d // _Q8)
        at = head[:, None] * n_blocks + block[None, :]
        y = tl.where((dim < head_dim)[None, :], y, 0.0)
        y = tl.reshape(y, (y.shape[0], block_d // _Q8, _Q8))
        store_quantized(y, out_q8, at, mask[:, None] & (block < n_blocks)[None, :])
