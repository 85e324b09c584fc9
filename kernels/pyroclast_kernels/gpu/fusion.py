"""Neighbouring calls of a step that the GPU does in one kernel.

A step that decodes is a row of short kernels, and what lies between two of them, a microsecond or
so in which nothing is read from memory, is lost.  So the calls of a layer become five kernels:

    norm, matmul            one token: every program norms it anew (norm_first), q, k and v follow
    rope, attention         decoding: a program turns the heads it reads (triton_turn.py)
    matmul                  adds to x
    norm, gate_up           as the first; for plain values norm, matmul, glu
    matmul                  adds to x

The results are those of the calls one after the other, to the bit, so it may depend on the number
of tokens what is done: norms of several tokens are kernels of their own, since every program of a
product would repeat all of them.  What the calls in between would write may not be written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pyroclast_kernels.attention.triton.attention import launch_attention
from pyroclast_kernels.matmul.triton.blocks import launch_blocks
from pyroclast_kernels.matmul.triton.gate_up import launch_gate_up
from pyroclast_kernels.matmul.triton.values import launch_gated, launch_values
from pyroclast_kernels.program import Call
from pyroclast_kernels.triton.launch import Limits

VARIANT = "triton"  # whose kernels these are; calls of others stay alone
_CACHE_FORMATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

Tensors = dict[str, Any]  # what a call's launch gets


@dataclass(frozen=True)
class Fusion:
    """One kernel, launch(limits, tensors of each call), for calls of these ops that follow one
    another, in steps whose limits fit."""

    ops: tuple[str, ...]
    fits: Callable[[Limits], bool]
    launch: Callable[..., None]


def _is_one_token(limits: Limits) -> bool:
    return limits.n_tokens == 1


def _normed(norm: Tensors) -> tuple[Any, ...]:
    """norm.triton_kernels.Normed."""
    names = ("rows", "x", "weight", "out", "out_q8", "d_model", "eps")
    return tuple(norm[name] for name in names)


def _norm_matmul(limits: Limits, norm: Tensors, product: Tensors) -> None:
    launch = launch_values if product["weight"].values is not None else launch_blocks
    launch(limits, **product, normed=_normed(norm))


def _norm_gate_up(limits: Limits, norm: Tensors, product: Tensors) -> None:
    launch_gate_up(limits, **product, normed=_normed(norm))


def _matmul_glu(limits: Limits, product: Tensors, gate: Tensors, norm: Any = None) -> None:
    given = {name: product[name] for name in ("n_tokens", "x", "weight", "n_cols")}
    given |= {name: gate[name] for name in ("out", "out_q8", "d_ff", "activation")}
    launch_gated(limits, **given, normed=norm and _normed(norm))


def _norm_matmul_glu(limits: Limits, norm: Tensors, product: Tensors, gate: Tensors) -> None:
    _matmul_glu(limits, product, gate, norm)


def _rope_attention(limits: Limits, rope: Tensors, attention: Tensors) -> None:
    """The new tokens are not in the cache yet, and queries in qkv stay as they are."""
    format = _CACHE_FORMATS[str(attention["k_cache"].dtype).removeprefix("torch.")]
    launch_attention(format)(limits, **attention, angles=rope["table"])


# The longest comes first.
FUSIONS = (
    Fusion(("norm", "matmul", "glu"), _is_one_token, _norm_matmul_glu),
    Fusion(("matmul", "glu"), lambda _: True, _matmul_glu),
    Fusion(("norm", "gate_up"), _is_one_token, _norm_gate_up),
    Fusion(("norm", "matmul"), _is_one_token, _norm_matmul),
    Fusion(("rope", "attention"), lambda limits: limits.decode, _rope_attention),
)


def fusions(calls: list[Call]) -> list[Fusion]:
    """Those for the first of the calls and what follows it, first choice first."""
    return [
        fusion
        for fusion in FUSIONS
        if tuple(call.kernel.op for call in calls[: len(fusion.ops)]) == fusion.ops
        and all(call.kernel.variant == VARIANT for call in calls[: len(fusion.ops)])
        and all(_feeds(a, b) for a, b in pairwise(calls[: len(fusion.ops)]))
    ]


def _feeds(first: Call, second: Call) -> bool:
    """Whether the second call reads what the first has written, of the same tokens, as their one
    kernel takes for granted."""
    a, b = first.arguments, second.arguments
    if not _same(a["n_tokens"], b["n_tokens"]):
        return False
    if first.kernel.op == "norm":
        return any(_same(a[name], b["x"]) for name in ("out", "out_q8"))
    if first.kernel.op == "matmul":  # of plain values, and both halves of what glu reads
        whole = a["n_rows"] == a["out_stride"] == 2 * b["d_ff"] and a["bias"] is None
        plain = not a["weight"].takes_q8 and not a["accumulate"]
        blocks = b["out_q8"] is None or b["d_ff"] % 32 == 0
        return whole and plain and blocks and _same(a["out"], b["gate_up"])
    shared = ("positions", "block_tables", "qkv", "k_cache", "v_cache")
    return all(_same(a[name], b[name]) for name in shared)


def _same(a: Any, b: Any) -> bool:
    """Whether both are the same array."""
    return a is not None and b is not None and _place(a) == _place(b)


def _place(array: Any) -> tuple[int, tuple[int, ...]]:
    if isinstance(array, np.ndarray):
        return array.ctypes.data, array.shape
    return array.tensor.data_ptr(), array.shape
