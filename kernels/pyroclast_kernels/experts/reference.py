"""What `expert_gate_up`, `expert_down` and `combine` mean, in NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.activation.reference import activated
from pyroclast_kernels.experts import EXPERT_ACTIVATIONS, stacked_rows
from pyroclast_kernels.q8_blocks import dequantize, quantize
from pyroclast_kernels.weights.packing import PackedWeight

Array = NDArray[Any]


def pairs_of(order: Array, starts: Array) -> Iterator[tuple[int, Array]]:
    """(expert, the numbers of its pairs) of each expert that has some."""
    for expert in np.flatnonzero(np.diff(starts)):
        yield int(expert), order[starts[expert] : starts[expert + 1]]


def expert_gated(halves: Sequence[Array], activation: int, limit: float, up_offset: float) -> Array:
    """float32 f(gate) * (up + up_offset) of clamped gate and up; of a gate alone f(gate)."""
    gate, *rest = halves
    top = np.float32(limit if limit > 0 else np.inf)
    gate = np.minimum(gate, top)
    with np.errstate(over="ignore", invalid="ignore"):
        if EXPERT_ACTIVATIONS[activation] == "quick_gelu":
            y: Array = gate / (np.float32(1) + np.exp(np.float32(-1.702) * gate))
        else:
            y = activated(gate, activation)
        for up in rest:
            y = y * (np.clip(up, -top, top) + np.float32(up_offset))
    return y


def expert_gate_up(
    n_tokens: Array,
    x: Array,
    weight: PackedWeight,
    bias: Array | None,
    order: Array,
    starts: Array,
    out: Array | None,
    out_q8: Array | None,
    n_experts: int,
    n_active: int,
    d_ff: int,
    n_cols: int,
    activation: int,
    gated: int,
    limit: float,
    up_offset: float,
) -> None:
    """The first half of the feed-forward of every pair p = token * n_active + slot by its expert e:
    out[p, i] = f(gate[i]) * (up[i] + up_offset), f = EXPERT_ACTIVATIONS[activation], where gate and
    up are the products of e's rows with x[token]; with gated 0 there is no up, and
    out[p, i] = f(gate[i]).

    n_tokens int64 (1,): without tokens nothing is read or written.  x float32 (max_batch_tokens,
    n_cols), or Q8_BLOCK (max_batch_tokens, n_cols // 32) for block-quantized weights.  weight: the
    experts one after the other, each d_ff rows of the gate, then d_ff of up, either of them filled
    up to stacked_rows(d_ff); what fills them is not used.  bias float32 (n_experts, (1 + gated) *
    d_ff), gate first, or None.  order, starts: see `group`.  limit > 0: the gate is at most limit,
    up within [-limit, limit].  out float32 (max_batch_tokens * n_active, d_ff) and out_q8 Q8_BLOCK
    (max_batch_tokens * n_active, d_ff // 32) are both optional; out_q8 needs a multiple of 32.
    Sums are those of `matmul` with the expert's own weight, to the bit.
    """
    if not n_tokens[0]:
        return
    stride = stacked_rows(d_ff)
    assert weight.n_rows == n_experts * (1 + gated) * stride and weight.n_cols == n_cols
    for expert, pairs in pairs_of(order, starts):
        tokens = x[pairs // n_active]
        values = dequantize(tokens) if weight.takes_q8 else tokens
        halves: list[Array] = []  # of the gate and of up
        for half in range(1 + gated):
            first = (expert * (1 + gated) + half) * stride
            y = values @ weight.dequantize(slice(first, first + d_ff)).T
            own = slice(half * d_ff, (half + 1) * d_ff)
            halves.append(y if bias is None else y + bias[expert, own])
        result = expert_gated(halves, activation, limit, up_offset)
        if out is not None:
            out[pairs] = result
        if out_q8 is not None:
            out_q8[pairs] = quantize(result)


def expert_down(
    n_tokens: Array,
    x: Array,
    weight: PackedWeight,
    bias: Array | None,
    order: Array,
    starts: Array,
    out: Array,
    n_experts: int,
    n_active: int,
    n_rows: int,
    n_cols: int,
) -> None:
    """out[p, row] = sum over k of weight[e, row, k] * x[p, k] (+ bias[e, row]) for every pair p and
    its expert e: the second half of the feed-forward.

    n_tokens int64 (1,): without tokens nothing is read or written.  x float32 (max_batch_tokens *
    n_active, n_cols), or Q8_BLOCK (max_batch_tokens * n_active, n_cols // 32) for block-quantized
    weights.  weight: the experts one after the other, each n_rows rows, filled up to
    stacked_rows(n_rows); what fills them is not used.  bias float32 (n_experts, n_rows) or None.
    order, starts: see `group`.  out float32 (max_batch_tokens * n_active, n_rows).  Sums are those
    of `matmul` with the expert's own weight, to the bit.
    """
    if not n_tokens[0]:
        return
    stride = stacked_rows(n_rows)
    assert weight.n_rows == n_experts * stride and weight.n_cols == n_cols
    assert starts[-1] == n_tokens[0] * n_active
    for expert, pairs in pairs_of(order, starts):
        values = dequantize(x[pairs]) if weight.takes_q8 else x[pairs]
        first = expert * stride
        out[pairs] = values @ weight.dequantize(slice(first, first + n_rows)).T
        if bias is not None:
            out[pairs] += bias[expert]


def combine(
    n_tokens: Array,
    y: Array,
    gates: Array,
    out: Array,
    n_active: int,
    n_cols: int,
    scale: float,
    accumulate: int,
) -> None:
    """out[t] = scale * sum over slots of gates[t, slot] * y[t * n_active + slot] (+ out[t]): the
    weighted sum of what a token's experts gave, in the order of its slots.

    n_tokens int64 (1,); y float32 (max_batch_tokens * n_active, n_cols); gates float32
    (max_batch_tokens, n_active); out float32 (max_batch_tokens, n_cols); `accumulate` adds to out.
    """
    t = int(n_tokens[0])
    of_slots = y[: t * n_active].reshape(t, n_active, n_cols)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.zeros((t, n_cols), np.float32)
        for slot in range(n_active):
            total += gates[:t, slot, None] * of_slots[:, slot]
        total *= np.float32(scale)
        out[:t] = out[:t] + total if accumulate else total
