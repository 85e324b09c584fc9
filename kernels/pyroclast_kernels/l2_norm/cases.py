"""Cases of `l2_norm`: head sizes that do not fill a vector, rows of zeros, extremes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyroclast_kernels.cases import Arguments, Array, Case
from pyroclast_kernels.norm.cases import rms_bound


@dataclass(frozen=True)
class _Shape:
    n_tokens: int
    n_heads: int
    head_dim: int
    scale: float = 1.0

    def __str__(self) -> str:
        name = f"{self.n_tokens}x{self.n_heads}h{self.head_dim}d"
        return name + f"-scale{self.scale:g}" * (self.scale != 1)


def _l2_norm(shape: _Shape) -> Arguments:
    rng = np.random.default_rng([shape.n_tokens, shape.n_heads, shape.head_dim])
    stride = 2 * shape.n_heads * shape.head_dim + 7
    qkv = rng.standard_normal((shape.n_tokens + 1, stride)) * shape.scale
    qkv[0, : shape.head_dim] *= shape.n_heads == 1  # a head of zeros, where there is another
    return {
        "n_tokens": np.array([shape.n_tokens]),
        "qkv": qkv.astype(np.float32),
        "n_heads": shape.n_heads,
        "head_dim": shape.head_dim,
        "row_stride": stride,
        "eps": 1e-6,
        "q_scale": shape.head_dim**-0.5,
    }


def _bound(shape: _Shape, expected: Array) -> Array:
    bound = np.zeros_like(expected)  # the values, and the row of no token
    n, n_columns = shape.n_tokens, 2 * shape.n_heads * shape.head_dim
    bound[:n, :n_columns] = rms_bound(shape.head_dim, expected[:n, :n_columns])
    return bound


def _case(shape: _Shape) -> Case:
    n_values = 2 * shape.n_tokens * shape.n_heads * shape.head_dim
    return Case(
        op="l2_norm",
        format="f32",
        name=str(shape),
        make=lambda: _l2_norm(shape),
        outputs=("qkv",),
        bound=lambda _, expected: _bound(shape, expected),
        reason="a sum of head_dim / 16 + 8 float32 steps, halved by the root, and six roundings",
        flops=4 * n_values,
        bytes=8 * n_values,
    )


CASES = [
    _case(_Shape(1, 1, 1)),
    _case(_Shape(3, 2, 24)),
    _case(_Shape(9, 3, 128)),
    _case(_Shape(2, 2, 45, scale=1e15)),
    _case(_Shape(2, 2, 32, scale=1e-4)),  # eps decides
]

# Qwen3.5 2B.
BENCH_CASES = [_case(_Shape(n, 16, 128)) for n in (1, 512)]
