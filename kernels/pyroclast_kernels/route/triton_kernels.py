"""route and group in Triton.

route: a program per token.  Scores are compared as integers that sort like them, NaN on top.
group: a program per expert looks through all pairs twice: it counts those of lower experts, which
says where its own begin, and places its own.  There is no order among programs, and no atomic.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.triton.math import exp

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_SOFTMAX = tl.constexpr(0)  # of SCORINGS
_LOWEST, _HIGHEST = tl.constexpr(-(1 << 31)), tl.constexpr((1 << 31) - 1)
_PAIRS = 1024  # that a program of group looks at together


@triton.jit
def _exp(x):
    """e^x, where NaN stays NaN."""
    return tl.where(x <= float("inf"), exp(x), x)


@triton.jit
def _key(x):
    """int32 that sorts as the numbers do, -0 like 0, and every NaN above them."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(x <= float("inf"), bits ^ ((bits >> 31) & _HIGHEST), _HIGHEST)


@triton.jit
def _route(
    n_tokens, logits, bias, gate_scales, experts, gates, n_experts, scale, n_active: tl.constexpr,
    scoring: tl.constexpr, renormalize: tl.constexpr, block: tl.constexpr, slots: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    i, slot = tl.arange(0, block), tl.arange(0, slots)
    exists = i < n_experts
    x = tl.load(logits + token * n_experts + i, exists, float("-inf")).to(tl.float32)
    if scoring == _SOFTMAX:
        # A NaN counts as +inf, which makes every score NaN: a maximum would pass over it.
        top = tl.max(tl.where(x <= float("inf"), x, float("inf")))
        weights = tl.where(exists, _exp(x - top), 0.0)
        scores = tl.div_rn(weights, tl.sum(weights) + tl.zeros((block,), tl.float32))
    else:
        scores = tl.div_rn(1.0, 1.0 + _exp(-x))
    keys = _key(x)
    if bias is not None:
        keys = _key(scores + tl.load(bias + i, exists, 0.0).to(tl.float32))
    keys = tl.where(exists, keys, _LOWEST)
    chosen, chosen_scores = tl.zeros((slots,), tl.int32), tl.zeros((slots,), tl.float32)
    total = 0.0
    for s in range(n_active):
        best = tl.min(tl.where(keys == tl.max(keys), i, block))
        score = tl.sum(tl.where(i == best, scores, 0.0))
        chosen = tl.where(slot == s, best, chosen)
        chosen_scores = tl.where(slot == s, score, chosen_scores)
        total += score
        keys = tl.where(i == best, _LOWEST, keys)
    if renormalize:
        divisor = tl.where(total == 0.0, 1.0, total)
        chosen_scores = tl.div_rn(chosen_scores, divisor + tl.zeros((slots,), tl.float32))
    at, mask = token * n_active + slot, slot < n_active
    tl.store(experts + at, chosen, mask)
    chosen_scores = chosen_scores * scale
    if gate_scales is not None:
        chosen_scores = chosen_scores * tl.load(gate_scales + chosen, mask, 0.0).to(tl.float32)
    tl.store(gates + at, chosen_scores, mask)


def launch_route(
    limits: Limits,
    n_tokens: torch.Tensor,
    logits: torch.Tensor,
    bias: torch.Tensor | None,
    gate_scales: torch.Tensor | None,
    experts: torch.Tensor,
    gates: torch.Tensor,
    n_experts: int,
    n_active: int,
    scoring: int,
    renormalize: int,
    scale: float,
) -> None:
    """reference.route of tensors; logits float32 or bfloat16."""
    block, slots = (int(triton.next_power_of_2(max(16, n))) for n in (n_experts, n_active))
    _route[(max(1, limits.n_tokens),)](
        n_tokens, logits, bias, gate_scales, experts, gates, n_experts, scale, n_active, scoring,
        bool(renormalize), block, slots, num_warps=4 if block >= 512 else 1,
    )  # fmt: skip


@triton.jit
def _group(n_tokens, experts, order, starts, n_active, n_experts, block: tl.constexpr):
    own = tl.program_id(0)
    n = tl.load(n_tokens).to(tl.int32) * n_active
    if n == 0:
        return
    place, first = 0, 0
    while first < n:
        pair = first + tl.arange(0, block)
        expert = tl.load(experts + pair, pair < n, n_experts)
        place += tl.sum((expert < own).to(tl.int32))
        first += block
    tl.store(starts + own, place)
    if own == 0:
        tl.store(starts + n_experts, n)
    first = 0
    while first < n:
        pair = first + tl.arange(0, block)
        is_own = tl.load(experts + pair, pair < n, n_experts) == own
        ranks = tl.cumsum(is_own.to(tl.int32), 0)
        tl.store(order + place + ranks - 1, pair, is_own)
        place += tl.sum(is_own.to(tl.int32))
        first += block


def launch_group(
    limits: Limits,
    n_tokens: torch.Tensor,
    experts: torch.Tensor,
    order: torch.Tensor,
    starts: torch.Tensor,
    n_experts: int,
    n_active: int,
) -> None:
    """reference.group of tensors."""
    n_pairs = max(1, limits.n_tokens * n_active)
    block = min(_PAIRS, int(triton.next_power_of_2(max(32, n_pairs))))
    _group[(n_experts,)](n_tokens, experts, order, starts, n_active, n_experts, block)
