"""route and group in Numba: items of route are tokens; one part does the whole of group.

Nothing is stored between the slots of a token: each looks for the best expert behind the one
before, in the order of falling keys and rising indices.  Scores are computed in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import (
    at,
    inline,
    load_f32,
    load_f64,
    load_i32,
    load_i64,
    load_pointer,
    store_f32,
    store_i32,
)

# Byte offsets of the argument structs.
_N_TOKENS, _LOGITS, _BIAS, _GATE_SCALES, _EXPERTS, _GATES = range(0, 48, 8)
_N_EXPERTS, _N_ACTIVE, _SCORING, _RENORMALIZE, _SCALE = range(48, 88, 8)
_G_EXPERTS, _G_ORDER, _G_STARTS, _G_N_EXPERTS, _G_N_ACTIVE = range(8, 48, 8)
_SOFTMAX = 0  # of SCORINGS
# Keys of what is above all finite float32 numbers.
_OF_INFINITY, _OF_NAN, _ABOVE_ALL = 1e200, 1e250, 1e300


@inline
def _score(x: Any, top: float, total: float, scoring: int) -> Any:
    """float32; top and total: the maximum of a token's logits and the sum of their exponentials."""
    wide = float(x)
    if scoring == _SOFTMAX:
        return np.float32(math.exp(wide - top) / total)
    return np.float32(1.0 / (1.0 + math.exp(-wide)))


@inline
def _top_and_total(logits: Any, n: int) -> Any:
    top, total = -math.inf, 0.0
    for i in range(n):
        top = max(top, float(load_f32(logits, 4 * i)))
    for i in range(n):
        total += math.exp(float(load_f32(logits, 4 * i)) - top)
    return top, total


@inline
def _key(value: Any) -> float:
    if math.isnan(value):
        return _OF_NAN
    return min(float(value), _OF_INFINITY)


@inline
def _route_token(args: Any, token: int) -> None:
    n, n_active = load_i64(args, _N_EXPERTS), load_i64(args, _N_ACTIVE)
    scoring, has_bias = load_i64(args, _SCORING), load_i64(args, _BIAS) != 0
    logits, bias = at(load_pointer(args, _LOGITS), 4 * token * n), load_pointer(args, _BIAS)
    experts = at(load_pointer(args, _EXPERTS), 4 * token * n_active)
    gates = at(load_pointer(args, _GATES), 4 * token * n_active)
    top, total = _top_and_total(logits, n)
    before, expert_before, chosen_sum = _ABOVE_ALL, -1, np.float32(0)
    for slot in range(n_active):
        best, expert = -_ABOVE_ALL, n
        for i in range(n):
            value = load_f32(logits, 4 * i)
            if has_bias:
                value = _score(value, top, total, scoring) + load_f32(bias, 4 * i)
            key = max(_key(value), -_OF_INFINITY)
            is_left = key < before or (key == before and i > expert_before)
            if is_left and key > best:
                best, expert = key, i
        gate = _score(load_f32(logits, 4 * expert), top, total, scoring)
        store_i32(experts, 4 * slot, expert)
        store_f32(gates, 4 * slot, gate)
        chosen_sum += gate
        before, expert_before = best, expert
    renormalizes = load_i64(args, _RENORMALIZE) != 0 and chosen_sum != np.float32(0)
    divisor = chosen_sum if renormalizes else np.float32(1)
    scale, has_scales = np.float32(load_f64(args, _SCALE)), load_i64(args, _GATE_SCALES) != 0
    gate_scales = load_pointer(args, _GATE_SCALES)
    for slot in range(n_active):
        gate = load_f32(gates, 4 * slot) / divisor * scale
        if has_scales:
            gate *= load_f32(gate_scales, 4 * load_i32(experts, 4 * slot))
        store_f32(gates, 4 * slot, gate)


def route_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens = load_i64(load_pointer(args, _N_TOKENS), 0)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        _route_token(args, t)


def group_f32(args: Any, part: int, _n_parts: int) -> None:
    n_experts = load_i64(args, _G_N_EXPERTS)
    n = load_i64(load_pointer(args, _N_TOKENS), 0) * load_i64(args, _G_N_ACTIVE)
    experts, order = load_pointer(args, _G_EXPERTS), load_pointer(args, _G_ORDER)
    starts = load_pointer(args, _G_STARTS)
    if part != 0 or n == 0:
        return
    for e in range(n_experts + 1):
        store_i32(starts, 4 * e, 0)
    for pair in range(n):
        after = 4 * (load_i32(experts, 4 * pair) + 1)
        store_i32(starts, after, load_i32(starts, after) + 1)
    for e in range(n_experts):
        store_i32(starts, 4 * e + 4, load_i32(starts, 4 * e) + load_i32(starts, 4 * e + 4))
    # Placing moves each start to its end, which is the start of the next.
    for pair in range(n):
        own = 4 * load_i32(experts, 4 * pair)
        place = load_i32(starts, own)
        store_i32(order, 4 * place, pair)
        store_i32(starts, own, place + 1)
    for e in range(n_experts, 0, -1):
        store_i32(starts, 4 * e, load_i32(starts, 4 * e - 4))
    store_i32(starts, 0, 0)
