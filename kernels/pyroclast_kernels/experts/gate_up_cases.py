"""A case of `expert_gate_up`: its arguments, and the bound of its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.activation.cases import steps_of
from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.experts import EXPERT_ACTIVATIONS, stacked_rows
from pyroclast_kernels.experts.inputs import Shape, activations, chosen, stack, weight_bytes
from pyroclast_kernels.experts.reference import expert_gated, pairs_of
from pyroclast_kernels.matmul.bounds import TF32_CUT, product_error


@dataclass(frozen=True)
class Kind:
    """What varies in expert_gate_up beside its shape."""

    outputs: str = "values-q8"
    activation: str = "silu"
    bias: bool = False
    gated: bool = True
    limit: float = 0.0
    up_offset: float = 0.0

    def __str__(self) -> str:
        kind = f"-{self.activation}" * (self.activation != "silu") + "-bias" * self.bias
        kind += "-ungated" * (not self.gated) + f"-limit{self.limit:g}" * (self.limit > 0)
        return kind + f"-plus{self.up_offset:g}" * (self.up_offset != 0)


def gate_up(shape: Shape, format: str, kind: Kind) -> Arguments:
    rng = np.random.default_rng([shape.n_tokens, shape.n_experts, shape.rows, shape.n_cols])
    n_parts, n_pairs = 1 + kind.gated, (shape.n_tokens + 1) * shape.n_active
    bias = 0.5 * rng.standard_normal((shape.n_experts, n_parts * shape.rows))
    q8 = np.zeros((n_pairs, shape.rows // 32), q8_blocks.Q8_BLOCK)
    return {
        "n_tokens": np.array([shape.n_tokens]),
        "x": activations(rng, shape.n_tokens, shape, format),
        "weight": stack(rng, n_parts, shape, format),
        "bias": bias.astype(np.float32) if kind.bias else None,
        **chosen(shape, rng),
        "out": np.zeros((n_pairs, shape.rows), np.float32) if "values" in kind.outputs else None,
        "out_q8": q8 if "q8" in kind.outputs else None,
        "n_experts": shape.n_experts,
        "n_active": shape.n_active,
        "d_ff": shape.rows,
        "n_cols": shape.n_cols,
        "activation": EXPERT_ACTIVATIONS.index(kind.activation),
        "gated": int(kind.gated),
        "limit": kind.limit,
        "up_offset": kind.up_offset,
    }


def _steps_of(gate: Array, activation: int) -> Array | float:
    """As of activation/cases.py: of quick_gelu, whose exponent 1.702 g is rounded, too."""
    if EXPERT_ACTIVATIONS[activation] == "quick_gelu":
        return 8 + 2 * np.minimum(np.abs(gate), 60.0)
    return steps_of(gate, activation)


def _gate_up_bound(arguments: Arguments, expected: Array, x_error: float = 0.0) -> Array:
    """|d(f(g) u)| <= 1.2 |u| dg + |f(g)| du and the rounding of f itself, dg and du the errors of
    the products: the slope of silu and quick_gelu is at most 1.1, that of gelu 1.13, of relu 1; of
    relu2 it is 2 |g|.  Clamping makes no error larger."""
    a, bound = arguments, np.zeros_like(expected)
    d_ff, gated, stride = a["d_ff"], a["gated"], stacked_rows(a["d_ff"])
    for expert, pairs in pairs_of(a["order"], a["starts"]):
        x = a["x"][pairs // a["n_active"]]
        values = q8_blocks.dequantize(x) if a["weight"].takes_q8 else x
        y, errors = [], []
        for half in range(1 + gated):
            first = (expert * (1 + gated) + half) * stride
            rows = slice(first, first + d_ff)
            y.append(values @ a["weight"].dequantize(rows).T)
            errors.append(product_error(a["weight"], x, rows, x_error))
            if a["bias"] is not None:
                y[-1] += a["bias"][expert, half * d_ff : (half + 1) * d_ff]
                errors[-1] += 2 * EPS * np.abs(y[-1])
        is_relu2 = EXPERT_ACTIVATIONS[a["activation"]] == "relu2"
        settings = a["activation"], a["limit"], a["up_offset"]
        function = np.abs(expert_gated(y[:1], *settings))
        up = np.abs(y[1]) + abs(a["up_offset"]) if gated else np.ones_like(y[0])
        steps = np.minimum(_steps_of(y[0], a["activation"]), 200.0)
        slope = 2.2 * np.abs(y[0]) + errors[0] if is_relu2 else 1.2
        bound[pairs] = slope * up * errors[0] + (steps + 2) * EPS * function * up + 1e-36 * (1 + up)
        if gated:
            bound[pairs] += function * errors[1]
    return bound


def gate_up_case(shape: Shape, format: str, kind: Kind) -> Case:
    n_pairs, n_rows = shape.n_tokens * shape.n_active, (1 + kind.gated) * shape.rows
    return Case(
        op="expert_gate_up",
        format=format,
        name=f"{shape}{kind}-{kind.outputs}",
        make=lambda: gate_up(shape, format, kind),
        outputs=("out", "out_q8"),
        bound=_gate_up_bound,
        reason="two float32 dot products and biases, carried through f(g) * u",
        flops=2 * n_pairs * n_rows * shape.n_cols,
        bytes=weight_bytes(shape, n_rows, format) + 4 * n_pairs * (shape.rows + shape.n_cols),
        rounded=_gate_up_bound_tf32 if format == "f16" else None,
    )


def _gate_up_bound_tf32(arguments: Arguments, expected: Array) -> Array:
    """float16 weights on tensor cores: they are exact there, and x is cut to tf32."""
    return _gate_up_bound(arguments, expected, TF32_CUT)
