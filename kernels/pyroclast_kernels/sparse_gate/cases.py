"""Cases of `sparse_gate`: widths that fill no vector, gates far from zero, gates all alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case

_PUBLISHED = 1.6448536  # leaves one in twenty


@dataclass(frozen=True)
class _Shape:
    """gate is size * noise + offset."""

    n_tokens: int
    d_ff: int
    deviations: float = _PUBLISHED
    size: float = 1.0
    offset: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.n_tokens}x{self.d_ff}"
            + f"-above{self.deviations:g}" * (self.deviations != _PUBLISHED)
            + f"-size{self.size:g}" * (self.size != 1)
            + f"-offset{self.offset:g}" * (self.offset != 0)
        )


def _sparse_gate(shape: _Shape) -> Arguments:
    rng = np.random.default_rng([shape.n_tokens, shape.d_ff])
    gate_up = rng.standard_normal((shape.n_tokens + 1, 2 * shape.d_ff)).astype(np.float32)
    gate = gate_up[:, : shape.d_ff]
    gate[:] = gate * np.float32(shape.size) + np.float32(shape.offset)
    return {
        "n_tokens": np.array([shape.n_tokens]),
        "gate_up": gate_up,
        "d_ff": shape.d_ff,
        "row_stride": 2 * shape.d_ff,
        "deviations": shape.deviations,
    }


def _bound(arguments: Arguments, expected: Array) -> Array:
    """The mean is that of the row and then of what is left, so its error is relative to the noise:
    d / 16 additions in a lane; the deviation's is half of its sum's."""
    n, d = int(arguments["n_tokens"][0]), arguments["d_ff"]
    gate = arguments["gate_up"][:n, :d].astype(np.float64)
    deviation = gate.std(axis=-1, keepdims=True)
    steps = d / 16 + 12
    own = np.abs(gate - gate.mean(axis=-1, keepdims=True))
    bound = np.zeros_like(expected, np.float64)
    bound[:n, :d] = EPS * (
        steps * deviation * (1 + abs(arguments["deviations"]))
        + 4 * own
        + EPS * steps * np.abs(gate)
    )
    return bound


def _case(shape: _Shape) -> Case:
    n_values = shape.n_tokens * shape.d_ff
    return Case(
        op="sparse_gate",
        format="f32",
        name=str(shape),
        make=lambda: _sparse_gate(shape),
        outputs=("gate_up",),
        bound=_bound,
        reason="a mean of two sums, a root of a sum of squares in 16 lanes, two differences",
        flops=8 * n_values,
        bytes=8 * n_values,
    )


CASES = [
    _case(_Shape(1, 1)),
    _case(_Shape(3, 45)),
    _case(_Shape(17, 256)),
    _case(_Shape(2, 160, deviations=-0.5)),
    _case(_Shape(2, 77, size=1e6)),
    _case(_Shape(2, 77, size=1e-6)),
    _case(_Shape(2, 64, offset=4096)),
    _case(_Shape(2, 77, size=0, offset=3.1)),  # all alike
]

# Gemma 3n E2B.
BENCH_CASES = [_case(_Shape(n, 8192)) for n in (1, 512)]
