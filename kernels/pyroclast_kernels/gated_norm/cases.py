"""Cases of `gated_norm` and `sigmoid_gate`: both orders, widths with tails, gates that overflow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.gated_norm import KINDS
from pyroclast_kernels.norm.cases import rms_bound
from pyroclast_kernels.q8_blocks import BLOCK, Q8_BLOCK


@dataclass(frozen=True)
class _Shape:
    n_tokens: int
    n_groups: int
    width: int
    kind: str = "norm_first"
    shared: bool = False  # one weight for all groups
    quantized: bool = False
    gates: float = 1.0

    def __str__(self) -> str:
        return (
            f"{self.n_tokens}x{self.n_groups}g{self.width}"
            + f"-{self.kind}" * (self.kind != "norm_first")
            + "-shared" * self.shared
            + "-q8" * self.quantized
            + f"-gates{self.gates:g}" * (self.gates != 1)
        )


def _gated_norm(shape: _Shape) -> Arguments:
    rng = np.random.default_rng([shape.n_tokens, shape.n_groups, shape.width])
    rows, n = shape.n_tokens + 1, shape.n_groups * shape.width

    def normal(*size: int) -> Array:
        return rng.standard_normal(size).astype(np.float32)

    return {
        "n_tokens": np.array([shape.n_tokens]),
        "x": normal(rows, n),
        "gate": normal(rows, n + 5) * np.float32(shape.gates),
        "weight": normal(shape.width if shape.shared else n),
        "out": normal(rows, n),
        "out_q8": np.zeros((rows, n // BLOCK), Q8_BLOCK) if shape.quantized else None,
        "n_groups": shape.n_groups,
        "width": shape.width,
        "gate_stride": n + 5,
        "weight_stride": 0 if shape.shared else shape.width,
        "eps": 1e-6,
        "kind": KINDS.index(shape.kind),
    }


def _bound(shape: _Shape, expected: Array) -> Array:
    bound: Array = 2 * rms_bound(shape.width, expected) + 16 * EPS * np.abs(expected) + 1e-36
    return bound


def _case(shape: _Shape) -> Case:
    n_values = shape.n_tokens * shape.n_groups * shape.width
    return Case(
        op="gated_norm",
        format="f32",
        name=str(shape),
        make=lambda: _gated_norm(shape),
        outputs=("out", "out_q8"),
        bound=lambda _, expected: _bound(shape, expected),
        reason="as norm; a gate is off by 8 steps, which the sum of squares has twice",
        flops=9 * n_values,
        bytes=12 * n_values,
    )


def _sigmoid_gate(n_tokens: int, n_cols: int, gates: float, quantized: bool) -> Arguments:
    rng = np.random.default_rng([n_tokens, n_cols])
    rows, stride = n_tokens + 1, n_cols + 3
    return {
        "n_tokens": np.array([n_tokens]),
        "x": rng.standard_normal((rows, n_cols), np.float32),
        "gate": rng.standard_normal((rows, stride), np.float32) * np.float32(gates),
        "out_q8": np.zeros((rows, n_cols // BLOCK), Q8_BLOCK) if quantized else None,
        "n_cols": n_cols,
        "gate_stride": stride,
    }


def _sigmoid_case(n: int, n_cols: int, gates: float = 1.0, quantized: bool = False) -> Case:
    suffix = "-q8" * quantized + f"-gates{gates:g}" * (gates != 1)
    return Case(
        op="sigmoid_gate",
        format="f32",
        name=f"{n}x{n_cols}{suffix}",
        make=lambda: _sigmoid_gate(n, n_cols, gates, quantized),
        outputs=("x", "out_q8"),
        bound=lambda _, expected: 8 * EPS * np.abs(expected) + 1e-36,
        reason="as silu: an exponential of 2 ulp, a sum, a quotient",
        flops=4 * n * n_cols,
        bytes=12 * n * n_cols,
    )


CASES = [
    _case(_Shape(1, 1, 1)),
    _case(_Shape(3, 3, 45)),
    _case(_Shape(5, 4, 64, shared=True, quantized=True)),
    _case(_Shape(2, 2, 24, shared=True, gates=60)),
    _case(_Shape(3, 2, 45, kind="gate_first")),
    _case(_Shape(4, 2, 160, kind="gate_first", quantized=True)),
    _case(_Shape(2, 3, 17, kind="gate_first", gates=60)),
    _sigmoid_case(1, 1),
    _sigmoid_case(3, 45),
    _sigmoid_case(5, 96, quantized=True),
    _sigmoid_case(2, 77, 60.0),
]

# Qwen3.5 2B (heads, and the gate of its attention) and a Mamba 2 of 1B.  A benchmark gates its
# own results again and again: by 0 and 1, as anything else would leave denormal numbers.
_QWEN = _Shape(1, 16, 128, shared=True, quantized=True)
_MAMBA = _Shape(1, 1, 4096, kind="gate_first", quantized=True)
BENCH_CASES = [
    *(_case(replace(shape, n_tokens=n)) for shape in (_QWEN, _MAMBA) for n in (1, 512)),
    *(_sigmoid_case(n, 2048, np.inf, quantized=True) for n in (1, 512)),
]
