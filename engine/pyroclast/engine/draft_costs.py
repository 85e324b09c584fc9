"""How many draft tokens a step should try: what they may bring, against what they cost.

A step of m rows takes costs[m - 1] times as long as a step of one row: `step_costs`.  Each draft is
a row more.  It brings a token if it and the drafts before it are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

MAX_DRAFTS = 8  # of one request in a step
# Of 1 to 16 rows; further rows cost what the last one does.  A step of 8 sequences takes 2.30 times
# as long as one of a single sequence on 1B Q4_0, a step of 16 2.95 times as long on 135M Q4_0
# (bench/results/engine_cpu.json).  The slope is the steeper one of the two; the second row costs
# more, because a lone token has kernels of its own.
STEP_COSTS = (
    1.0, 1.25, 1.42, 1.6, 1.78, 1.96, 2.14, 2.32,
    2.5, 2.68, 2.86, 3.04, 3.22, 3.4, 3.58, 3.76,
)  # fmt: skip
# The same on AVX2, whose products take more instructions for each row, and read the weights of a
# lone token faster: about those of 135M Q4_0 and Q8_0 on two cores of a Zen 3
# (bench/results/draft_costs_avx2.json).
AVX2_STEP_COSTS = (
    1.0, 1.3, 1.58, 1.8, 2.35, 2.6, 2.95, 3.3,
    3.85, 4.1, 4.6, 4.8, 5.3, 5.5, 5.8, 6.2,
)  # fmt: skip
# Drafts must promise that many times the tokens per second of a step without: a step that is not
# like the one before takes Python longer to plan and to write.
_MIN_GAIN = 1.04


def step_costs(kernels: Mapping[str, str]) -> Sequence[float]:
    """The costs of a model with these kernels, by op and format: AVX2's where products have no
    instruction for sums of four bytes, which takes AVX-512 as many instructions.  Others cost
    STEP_COSTS: those with VNNI were measured."""
    products = [each for op, each in kernels.items() if op.startswith("matmul.")]
    variants = {variant for each in products for variant in each.split("+")}
    has_vnni = any(name.endswith(("vnni", "int8")) for name in variants)
    is_slow = not variants.isdisjoint(("cpp-avx2", "cpp-avx512"))
    return AVX2_STEP_COSTS if is_slow and not has_vnni else STEP_COSTS


def cost_of(n_rows: int, costs: Sequence[float] = STEP_COSTS) -> float:
    """Of a step of `n_rows`, relative to one of a single row."""
    n_more = n_rows - len(costs)
    return costs[n_rows - 1] if n_more <= 0 else costs[-1] + n_more * (costs[-1] - costs[-2])


class DraftCounts(NamedTuple):
    """counts: the drafts of each request.  gain: how many times the tokens per second of a step
    without drafts they promise; 1.0 where none does."""

    counts: list[int]
    gain: float


def n_drafts(
    chances: Sequence[float], n_rows: int, costs: Sequence[float] = STEP_COSTS
) -> list[int]:
    """The counts of `plan_drafts`, for drafts that are there anyway."""
    return plan_drafts(chances, n_rows, costs).counts


def plan_drafts(
    chances: Sequence[float],
    n_rows: int,
    costs: Sequence[float] = STEP_COSTS,
    round_cost: float = 0.0,
    scale: float = 1.0,
) -> DraftCounts:
    """How many drafts to try for each request: the numbers that promise the most tokens per second.

    chances: that a draft of a request is right if those before it are.  n_rows: of the step without
    drafts, which gives a token a row.  round_cost: what it takes to make the next draft of every
    request, relative to a step of a single row.  scale: what steps with drafts take, relative to
    what `costs` say."""
    # What the j-th draft of a request brings becomes less with j, so the best come in their order.
    gains = sorted(
        ((chance**j, i, j) for i, chance in enumerate(chances) for j in range(1, MAX_DRAFTS + 1)),
        key=lambda each: -each[0],
    )
    expected: float = n_rows
    plain = n_rows / cost_of(n_rows, costs)
    best = _MIN_GAIN * plain
    n_tried = n_rounds = 0
    for k, (gain, _, j) in enumerate(gains, start=1):
        expected += gain
        n_rounds = max(n_rounds, j)
        rate = expected / (scale * cost_of(n_rows + k, costs) + n_rounds * round_cost)
        if rate > best:
            best, n_tried = rate, k
    found = [0] * len(chances)
    for _, i, _ in gains[:n_tried]:
        found[i] += 1
    return DraftCounts(found, best / plain if n_tried else 1.0)


def least_chance(n_rows: int, costs: Sequence[float] = STEP_COSTS) -> float:
    """`n_drafts` gives no request of a step of `n_rows` a draft if all chances are smaller.  It
    counts each draft of a request as likely as the first, so that a step in which nobody drafts
    need not sort them."""
    most = MAX_DRAFTS * n_rows
    dear = _MIN_GAIN * n_rows / cost_of(n_rows, costs)
    # Behind the table the costs are on a line, so the last number is cheapest or the first ones.
    numbers = {*range(1, min(most, len(costs)) + 1), most}
    least: float = min((dear * cost_of(n_rows + k, costs) - n_rows) / k for k in numbers)
    return least
