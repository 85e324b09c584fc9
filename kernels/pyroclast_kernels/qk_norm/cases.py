"""Cases of `qk_norm`: head sizes that do not fill a vector, by head and over all heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyroclast_kernels.cases import Arguments, Array, Case
from pyroclast_kernels.norm.cases import rms_bound


@dataclass(frozen=True)
class _Shape:
    n_tokens: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    whole: bool = False
    scale: float = 1.0
    signs: bool = False  # the weights are 1 or -1
    values: bool = False  # are normed too

    @property
    def widths(self) -> tuple[int, int]:
        """Columns that are normed together, of q and of k."""
        q, k = (self.n_heads, self.n_kv_heads) if self.whole else (1, 1)
        return q * self.head_dim, k * self.head_dim

    def __str__(self) -> str:
        return (
            f"{self.n_tokens}x{self.n_heads}h{self.n_kv_heads}k{self.head_dim}d"
            + "-whole" * self.whole
            + "-values" * self.values
            + f"-scale{self.scale:g}" * (self.scale != 1)
        )


def _qk_norm(shape: _Shape) -> Arguments:
    rng = np.random.default_rng([shape.n_tokens, shape.n_heads, shape.head_dim])
    n_columns = (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim
    qkv = rng.standard_normal((shape.n_tokens + 1, n_columns)) * shape.scale
    qkv[0, shape.head_dim // 2 : shape.head_dim] = 0
    q_weight, k_weight = (rng.standard_normal(n).astype(np.float32) for n in shape.widths)
    if shape.signs:
        q_weight, k_weight = np.sign(q_weight), np.sign(k_weight)
    v_weight = rng.standard_normal(shape.head_dim).astype(np.float32)
    return {
        "n_tokens": np.array([shape.n_tokens]),
        "qkv": qkv.astype(np.float32),
        "q_weight": q_weight,
        "k_weight": k_weight,
        "v_weight": v_weight if shape.values else None,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "eps": 1e-6,
        "whole": int(shape.whole),
    }


def _bound(shape: _Shape, expected: Array) -> Array:
    q_end = shape.n_heads * shape.head_dim
    k_end = q_end + shape.n_kv_heads * shape.head_dim
    bound = np.zeros_like(expected)  # values that stay, and the row of no token
    n, (q_width, k_width) = shape.n_tokens, shape.widths
    bound[:n, :q_end] = rms_bound(q_width, expected[:n, :q_end])
    bound[:n, q_end:k_end] = rms_bound(max(k_width, 1), expected[:n, q_end:k_end])
    if shape.values:
        bound[:n, k_end:] = rms_bound(shape.head_dim, expected[:n, k_end:])
    return bound


def _case(shape: _Shape) -> Case:
    n_values = shape.n_tokens * (shape.n_heads + shape.n_kv_heads) * shape.head_dim
    return Case(
        op="qk_norm",
        format="f32",
        name=str(shape),
        make=lambda: _qk_norm(shape),
        outputs=("qkv",),
        bound=lambda _, expected: _bound(shape, expected),
        reason="a sum of width / 16 + 8 float32 steps, halved by the root, and six roundings",
        flops=4 * n_values,
        bytes=8 * n_values,
    )


CASES = [
    _case(_Shape(1, 1, 1, 2)),
    _case(_Shape(3, 4, 2, 24)),
    _case(_Shape(9, 14, 2, 64)),
    _case(_Shape(33, 3, 3, 80)),
    _case(_Shape(2, 4, 1, 256)),
    _case(_Shape(2, 2, 1, 64, scale=1e15)),
    _case(_Shape(2, 2, 1, 64, scale=1e-18)),  # eps decides
    _case(_Shape(2, 2, 1, 40, scale=0)),
    _case(_Shape(1, 1, 1, 3, whole=True)),
    _case(_Shape(3, 5, 3, 24, whole=True)),
    _case(_Shape(17, 16, 16, 128, whole=True)),
    _case(_Shape(2, 2, 1, 64, whole=True, scale=1e15)),
    _case(_Shape(2, 2, 1, 40, whole=True, scale=0)),
    _case(_Shape(3, 4, 2, 24, values=True)),
    _case(_Shape(2, 4, 1, 512, values=True)),
    _case(_Shape(3, 5, 2, 24, whole=True, values=True)),
    _case(_Shape(3, 6, 0, 40)),  # queries alone, as where a layer reads another's keys
    _case(_Shape(3, 6, 0, 40, whole=True)),
]

# Qwen3 1.7B norms each head, OLMo 2 1B the whole projection.  A benchmark norms its own results
# again and again: weights other than 1 and -1 would leave denormal numbers, which are slow.
BENCH_CASES = [
    *(_case(_Shape(n, 16, 8, 128, signs=True)) for n in (1, 512)),
    *(_case(_Shape(n, 16, 16, 128, whole=True, signs=True)) for n in (1, 512)),
]
