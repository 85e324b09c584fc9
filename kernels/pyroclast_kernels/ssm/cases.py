"""Cases of `ssm`: sequences of one token and of more, heads that share groups, and tails."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.conv1d.cases import sequences
from pyroclast_kernels.delta_rule.reference import tiles
from pyroclast_kernels.ssm.reference import ssm


@dataclass(frozen=True)
class _Shape:
    """limits: of the steps.  keep: of `sequences`."""

    counts: tuple[int, ...]
    n_heads: int
    head_dim: int
    n_groups: int
    d_state: int
    limits: tuple[float, float] = (0.0, np.inf)
    keep: bool = True

    def __str__(self) -> str:
        return (
            f"{'+'.join(map(str, self.counts))}x{self.n_heads}h{self.head_dim}"
            f"-{self.n_groups}g{self.d_state}" + "-limits" * (self.limits != (0.0, np.inf))
        )


def _ssm(shape: _Shape) -> Arguments:
    rng = np.random.default_rng([*shape.counts, shape.n_heads, shape.head_dim, shape.d_state])
    described, n_slots = sequences(shape.counts, keep=shape.keep)
    rows, n_heads = sum(shape.counts) + 1, shape.n_heads
    columns = n_heads * shape.head_dim + 2 * shape.n_groups * shape.d_state

    def normal(*size: int) -> Array:
        return rng.standard_normal(size, np.float32)

    matrices = normal(n_slots, n_heads, shape.d_state, shape.head_dim)
    # Decays from nearly 0 to nearly 1, as models have them.
    a = -np.exp(rng.uniform(np.log(0.01), np.log(16), n_heads))
    return described | {
        "xbc": normal(rows, columns),
        "dt": normal(rows, n_heads + 3),
        "a": a.astype(np.float32),
        "d": normal(n_heads),
        "dt_bias": rng.uniform(-3, 1, n_heads).astype(np.float32),
        "state": np.ascontiguousarray([tiles(slot) for slot in matrices]),
        "out": normal(rows, n_heads * shape.head_dim),
        "n_heads": n_heads,
        "head_dim": shape.head_dim,
        "n_groups": shape.n_groups,
        "d_state": shape.d_state,
        "dt_stride": n_heads + 3,
        "dt_min": shape.limits[0],
        "dt_max": shape.limits[1],
    }


def _bound(arguments: Arguments, expected: Array) -> Array:
    """See `_case`'s reason: the errors are relative to the recurrence on absolute values."""
    absolute = deepcopy(arguments)
    for name in ("xbc", "d", "state"):
        absolute[name] = np.abs(absolute[name])
    ssm(**absolute)
    sizes = absolute["out" if expected.shape == absolute["out"].shape else "state"]
    x = arguments["dt"][:, : arguments["n_heads"]] + arguments["dt_bias"]
    exponent = np.abs(arguments["a"] * np.logaddexp(0, x)).max()
    longest = int(np.diff(arguments["seq_starts"]).max())
    n_steps = longest * (4 * exponent + 8) + arguments["d_state"] / 2 + 4
    bound: Array = n_steps * EPS * sizes
    return bound


def _case(shape: _Shape) -> Case:
    n_tokens, n_seqs = sum(shape.counts), len(shape.counts)
    state = shape.n_heads * shape.d_state * shape.head_dim
    columns = 2 * shape.n_heads * shape.head_dim + 2 * shape.n_groups * shape.d_state
    return Case(
        op="ssm",
        format="f32",
        name=str(shape),
        make=lambda: _ssm(shape),
        outputs=("out", "state"),
        bound=_bound,
        reason="each token adds the error of a decay, whose exponent is off by 4 steps, and of "
        "four products; a result that of a sum of d_state terms",
        flops=5 * n_tokens * state,
        bytes=4 * (n_tokens * columns + 2 * n_seqs * state),
    )


CASES = [
    _case(_Shape((1,), 1, 1, 1, 1)),
    _case(_Shape((5, 1, 4, 2), 4, 20, 2, 24)),
    _case(_Shape((3, 2), 6, 72, 3, 16, limits=(0.1, 0.4))),
    _case(_Shape((1, 1, 1), 2, 64, 1, 128)),
]

# Granite 4 hybrid 1B: decoding, eight sequences, and a prompt.
_GRANITE = _Shape((1,), 48, 64, 1, 128, keep=False)
BENCH_CASES = [_case(replace(_GRANITE, counts=counts)) for counts in ((1,), (1,) * 8, (512,))]
