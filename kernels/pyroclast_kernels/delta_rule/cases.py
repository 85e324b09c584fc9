"""Cases of `delta_rule`: sequences of one token and of more, heads that share keys, and tails."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.conv1d.cases import sequences
from pyroclast_kernels.delta_rule.reference import tiles


@dataclass(frozen=True)
class _Shape:
    """gates: the scale of alpha and beta.  keep: of `sequences`."""

    counts: tuple[int, ...]
    n_k_heads: int
    n_v_heads: int
    k_dim: int
    v_dim: int
    tiled: bool = False
    gates: float = 1.0
    keep: bool = True

    def __str__(self) -> str:
        return (
            f"{'+'.join(map(str, self.counts))}x{self.n_k_heads}k{self.n_v_heads}v"
            f"-{self.k_dim}x{self.v_dim}"
            + "-tiled" * self.tiled
            + f"-gates{self.gates:g}" * (self.gates != 1)
        )


def _delta_rule(shape: _Shape) -> Arguments:
    rng = np.random.default_rng([*shape.counts, shape.n_v_heads, shape.k_dim, shape.v_dim])
    described, n_slots = sequences(shape.counts, keep=shape.keep)
    rows, key_columns = sum(shape.counts) + 1, shape.n_k_heads * shape.k_dim
    heads = rng.standard_normal((rows, 2 * shape.n_k_heads, shape.k_dim))
    heads /= np.linalg.norm(heads, axis=-1, keepdims=True)
    v = rng.standard_normal((rows, shape.n_v_heads * shape.v_dim))
    q_and_k = heads.reshape(rows, 2 * key_columns)
    gate_stride = shape.n_v_heads + 3
    gates = rng.standard_normal((2, rows, gate_stride)) * shape.gates
    # Decays from nearly 0 to nearly 1, as models have them.
    a = -np.exp(rng.uniform(np.log(0.01), np.log(16), shape.n_v_heads))
    sizes = n_slots, shape.n_v_heads, shape.k_dim, shape.v_dim
    matrices = rng.standard_normal(sizes, np.float32)
    return described | {
        "qkv": np.concatenate([q_and_k, v], axis=1).astype(np.float32),
        "alpha": gates[0].astype(np.float32),
        "beta": gates[1].astype(np.float32),
        "a": a.astype(np.float32),
        "dt_bias": rng.uniform(-3, 1, shape.n_v_heads).astype(np.float32),
        "state": np.ascontiguousarray([tiles(slot) for slot in matrices]),
        "out": rng.standard_normal((rows, shape.n_v_heads * shape.v_dim), np.float32),
        "n_k_heads": shape.n_k_heads,
        "n_v_heads": shape.n_v_heads,
        "k_dim": shape.k_dim,
        "v_dim": shape.v_dim,
        "gate_stride": gate_stride,
        "tiled": int(shape.tiled),
    }


def _bound(arguments: Arguments, expected: Array) -> float:
    """See `_case`'s reason.  A token leaves a column S of the state no longer than
    sqrt(|S|^2 + v^2): it moves the part along k, of length 1, towards v."""
    columns = np.linalg.norm(arguments["state"], axis=3)
    longest = int(np.diff(arguments["seq_starts"]).max())
    v = arguments["qkv"][:, 2 * arguments["n_k_heads"] * arguments["k_dim"] :]
    length = np.sqrt(np.square(columns).max() + longest * np.square(v).max())
    # A sum of k_dim terms has k_dim roundings of EPS / 2.  A decay e^-x is off by x e^-x <= 1 times
    # the relative error of its exponent x, which is 4 EPS, and by 2 EPS of its own.
    n_steps = arguments["k_dim"] / 2 + 12
    return float(longest * n_steps * EPS * length)


def _case(shape: _Shape) -> Case:
    n_tokens, n_seqs = sum(shape.counts), len(shape.counts)
    state = shape.n_v_heads * shape.k_dim * shape.v_dim
    columns = 2 * shape.n_k_heads * shape.k_dim + 2 * shape.n_v_heads * (shape.v_dim + 1)
    return Case(
        op="delta_rule",
        format="f32",
        name=str(shape),
        make=lambda: _delta_rule(shape),
        outputs=("out", "state"),
        bound=_bound,
        reason="each token adds the error of a sum of k_dim terms, relative to a state's column",
        flops=7 * n_tokens * state,
        bytes=4 * (n_tokens * columns + 2 * n_seqs * state),
    )


CASES = [
    _case(_Shape((1,), 1, 1, 1, 1)),
    _case(_Shape((5, 1, 4, 2), 2, 4, 24, 20)),
    _case(_Shape((3, 2), 2, 6, 16, 72, tiled=True)),
    _case(_Shape((1, 1, 1), 2, 2, 64, 64)),
    _case(_Shape((19, 2), 1, 2, 40, 33)),
    _case(_Shape((7,), 1, 1, 128, 128)),
    _case(_Shape((4, 2), 1, 3, 8, 16, gates=60)),  # decays and steps of 0 and 1
]

# Qwen3.5 2B: decoding, eight sequences, and a prompt.  A benchmark runs on its own states: they
# stay finite, as keys have length 1.
_QWEN = _Shape((1,), 16, 16, 128, 128, keep=False)
BENCH_CASES = [_case(replace(_QWEN, counts=counts)) for counts in ((1,), (1,) * 8, (512,))]
