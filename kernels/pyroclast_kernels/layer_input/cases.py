"""Cases of `layer_input`: widths with tails, rows that lie apart, inputs that cancel, every f."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.activation.cases import steps_of
from pyroclast_kernels.activation.reference import activated
from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.norm.cases import rms_bound
from pyroclast_kernels.norm.reference import normed
from pyroclast_kernels.q8_blocks import BLOCK, Q8_BLOCK

_HALF_ROOT = math.sqrt(0.5)  # what Gemma 4 multiplies by


@dataclass(frozen=True)
class _Shape:
    n_tokens: int
    width: int
    n_layers: int = 1  # whose inputs lie side by side
    activation: str = "gelu_tanh"
    quantized: bool = False
    gates: float = 1.0
    scale: float = _HALF_ROOT
    projected: float = 1.0

    def __str__(self) -> str:
        return (
            f"{self.n_tokens}x{self.width}"
            + f"-of{self.n_layers}" * (self.n_layers > 1)
            + f"-{self.activation}" * (self.activation != "gelu_tanh")
            + "-q8" * self.quantized
            + f"-gates{self.gates:g}" * (self.gates != 1)
            + f"-scale{self.scale:g}" * (self.scale != _HALF_ROOT)
            + f"-projected{self.projected:g}" * (self.projected != 1)
        )


def _layer_input(shape: _Shape) -> Arguments:
    rng = np.random.default_rng([shape.n_tokens, shape.width, shape.n_layers])
    rows, width, stride = shape.n_tokens + 1, shape.width, shape.n_layers * shape.width

    def normal(*size: int, scale: float = 1.0) -> Array:
        return rng.standard_normal(size).astype(np.float32) * np.float32(scale)

    return {
        "n_tokens": np.array([shape.n_tokens]),
        "gate": normal(rows, width, scale=shape.gates),
        "embedded": normal(rows, stride),
        "projected": normal(rows, stride, scale=shape.projected),
        "weight": normal(width),
        "out": normal(rows, width),
        "out_q8": np.zeros((rows, width // BLOCK), Q8_BLOCK) if shape.quantized else None,
        "width": width,
        "row_stride": stride,
        "activation": ACTIVATIONS.index(shape.activation),
        "eps": 1e-6,
        "scale": shape.scale,
    }


def _bound(arguments: Arguments, expected: Array) -> Array:
    """A norm's error, and a rounding of each of the sum and its two terms, which may cancel; then
    an activation's, and two products."""
    gate, width, activation = arguments["gate"], arguments["width"], arguments["activation"]
    norm = normed(
        arguments["projected"][:, :width], arguments["weight"], None, arguments["eps"],
        KINDS.index("rms"),
    )  # fmt: skip
    embedded = arguments["embedded"][:, :width]
    terms = rms_bound(width, norm) + 2 * EPS * (np.abs(embedded) + np.abs(norm))
    factor = np.abs(activated(gate, activation)) * arguments["scale"]
    bound: Array = factor * terms + (steps_of(gate, activation) + 2) * EPS * np.abs(expected)
    bound += 1e-36 * (1 + np.abs(embedded + norm))
    return bound


def _case(shape: _Shape) -> Case:
    n_values = shape.n_tokens * shape.width
    return Case(
        op="layer_input",
        format="f32",
        name=str(shape),
        make=lambda: _layer_input(shape),
        outputs=("out", "out_q8"),
        bound=_bound,
        reason="a norm, a sum that may cancel, an activation as in glu, and two products",
        flops=12 * n_values,
        bytes=16 * n_values,
    )


CASES = [
    _case(_Shape(1, 1)),
    _case(_Shape(3, 45, n_layers=3)),
    _case(_Shape(5, 96, n_layers=2, quantized=True)),
    _case(_Shape(17, 256, n_layers=4, quantized=True, scale=1.0)),
    _case(_Shape(2, 24, gates=60)),
    _case(_Shape(2, 64, n_layers=2, projected=1e-4)),  # eps decides
    _case(_Shape(2, 40, projected=0)),
    *(_case(_Shape(3, 45, n_layers=2, activation=each)) for each in ACTIVATIONS if "_" not in each),
]

# Gemma 4 E2B.
BENCH_CASES = [_case(_Shape(n, 256, n_layers=35, quantized=True)) for n in (1, 512)]
