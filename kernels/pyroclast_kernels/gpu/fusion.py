"""Sequences of neighbouring calls that one fused GPU kernel can replace.

A decoding step is a series of short kernels, and between two of them a microsecond or so passes in
which nothing is read from memory.  So the calls of a layer become five kernels:

    norm, matmul            one token: every program repeats the norm (norm_first); q, k, v
    rope, attention         decoding: a program rotates the heads it reads (rotate.py)
    matmul                  adds to x
    norm, gate_up           as the first; for plain values norm, matmul, glu
    matmul                  adds to x

A fused kernel gives the bits of the calls one after the other, so the choice may depend on the
number of tokens: norms of several tokens stay kernels of their own, since every program of a
product would repeat all of them.  A fused kernel need not write what the calls before its last one
would have written.
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
from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.program import OpCall
from pyroclast_kernels.triton.launch import Limits

VARIANT = "triton"  # whose kernels these are; calls of others stay alone
_RMS = KINDS.index("rms")
_CACHE_FORMATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

Tensors = dict[str, Any]  # what a call's launch gets


@dataclass(frozen=True)
class Fusion:
    """One kernel that replaces consecutive calls of these ops, in steps whose limits fit;
    launch(limits, tensors of each call) enqueues it."""

    ops: tuple[str, ...]
    fits: Callable[[Limits], bool]
    launch: Callable[..., None]


def _is_one_token(limits: Limits) -> bool:
    return limits.n_tokens == 1


def _normed(norm: Tensors) -> tuple[Any, ...]:
    """The arguments of a norm as norm.triton_kernels.Normed."""
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
    """Attention that rotates its own heads: the new tokens are not in the cache yet, and the
    queries in qkv stay unrotated."""
    format = _CACHE_FORMATS[str(attention["k_cache"].dtype).removeprefix("torch.")]
    launch_attention(format)(limits, **attention, rope=rope)


# Longest sequences first: the first match is taken.
FUSIONS = (
    Fusion(("norm", "matmul", "glu"), _is_one_token, _norm_matmul_glu),
    Fusion(("matmul", "glu"), lambda _: True, _matmul_glu),
    Fusion(("norm", "gate_up"), _is_one_token, _norm_gate_up),
    Fusion(("norm", "matmul"), _is_one_token, _norm_matmul),
    Fusion(("rope", "attention"), lambda limits: limits.decode, _rope_attention),
)


def fusions(calls: list[OpCall]) -> list[Fusion]:
    """The fusions that can replace the first calls of the list, first choice first."""
    return [
        fusion
        for fusion in FUSIONS
        if tuple(call.kernel.op for call in calls[: len(fusion.ops)]) == fusion.ops
        and all(call.kernel.variant == VARIANT for call in calls[: len(fusion.ops)])
        and all(_feeds(a, b) for a, b in pairwise(calls[: len(fusion.ops)]))
    ]


def _feeds(first: OpCall, second: OpCall) -> bool:
    """Whether the second call reads what the first has written, for the same tokens.  Their fused
    kernel relies on that."""
    a, b = first.arguments, second.arguments
    if not _same(a["n_tokens"], b["n_tokens"]):
        return False
    if first.kernel.op == "norm":
        if a["kind"] != _RMS or a["bias"] is not None:
            return False  # norm_first knows neither a layer norm nor a bias
        return any(_same(a[name], b["x"]) for name in ("out", "out_q8"))
    if first.kernel.op == "matmul":  # of plain values, and both halves of what glu reads
        whole = a["n_rows"] == a["out_stride"] == 2 * b["d_ff"] and a["bias"] is None
        plain = bool(b["gated"]) and not a["weight"].takes_q8 and not a["accumulate"]
        blocks = b["out_q8"] is None or b["d_ff"] % 32 == 0
        return whole and plain and blocks and _same(a["out"], b["gate_up"])
    shared = ("positions", "block_tables", "qkv", "k_cache", "v_cache")
    if a["n_kv_heads"] != b["n_kv_heads"]:
        return False  # the cache is another layer's, and rope writes nothing there
    return all(_same(a[name], b[name]) for name in shared)


def _same(a: Any, b: Any) -> bool:
    """Whether both are the same array."""
    return a is not None and b is not None and _place(a) == _place(b)


def _place(array: Any) -> tuple[int, tuple[int, ...]]:
    if isinstance(array, np.ndarray):
        return array.ctypes.data, array.shape
    return array.tensor.data_ptr(), array.shape
