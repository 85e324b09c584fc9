"""qk_norm in Numba: RMS norm of q, k and v in place, one token per item; see norm/numba_rows.py."""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.norm.numba_rows import RMS, norm_of_row, normed
from pyroclast_kernels.numba.math import split_begin, store_n
from pyroclast_kernels.numba.simd import at, inline, load_f64, load_i64, load_pointer

# Byte offsets of the argument struct.
_N_TOKENS, _QKV, _Q_WEIGHT, _K_WEIGHT, _V_WEIGHT = range(0, 40, 8)
_N_HEADS, _N_KV_HEADS, _HEAD_DIM, _EPS, _WHOLE = range(40, 80, 8)


@inline
def _norm_in_place(x: Any, n_columns: int, width: int, weight: Any, eps: float) -> None:
    """n_columns, `width` of them at a time, all with the same weight."""
    for first in range(0, n_columns, width):
        part = at(x, 4 * first)
        row = norm_of_row(part, width, eps, RMS)
        for i in range(0, width, 16):
            store_n(part, 4 * i, normed(row, part, weight, weight, False, i, width - i), width - i)


def qk_norm_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, head_dim = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _HEAD_DIM)
    q_dim, k_dim = load_i64(args, _N_HEADS) * head_dim, load_i64(args, _N_KV_HEADS) * head_dim
    eps, whole = load_f64(args, _EPS), load_i64(args, _WHOLE) != 0
    q_weight, k_weight = load_pointer(args, _Q_WEIGHT), load_pointer(args, _K_WEIGHT)
    v_weight, norms_values = load_pointer(args, _V_WEIGHT), load_i64(args, _V_WEIGHT) != 0
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        q = at(load_pointer(args, _QKV), 4 * t * (q_dim + 2 * k_dim))
        _norm_in_place(q, q_dim, q_dim if whole else head_dim, q_weight, eps)
        k = at(q, 4 * q_dim)
        _norm_in_place(k, k_dim, max(k_dim, 1) if whole else head_dim, k_weight, eps)
        if norms_values:
            _norm_in_place(at(k, 4 * k_dim), k_dim, head_dim, v_weight, eps)
