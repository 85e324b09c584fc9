"""A case of `expert_down`: its arguments, and the bound of its error."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.experts import stacked_rows
from pyroclast_kernels.experts.inputs import Shape, activations, chosen, stack, weight_bytes
from pyroclast_kernels.experts.reference import pairs_of
from pyroclast_kernels.matmul.bounds import TF32_CUT, product_error


def down(shape: Shape, format: str, bias: bool) -> Arguments:
    rng = np.random.default_rng([shape.n_tokens, shape.n_experts, shape.rows, shape.n_cols])
    n_pairs = shape.n_tokens * shape.n_active
    biases = rng.standard_normal((shape.n_experts, shape.rows)).astype(np.float32)
    return {
        "n_tokens": np.array([shape.n_tokens]),
        "x": activations(rng, n_pairs, shape, format),
        "weight": stack(rng, 1, shape, format),
        "bias": biases if bias else None,
        **chosen(shape, rng),
        "out": rng.standard_normal((n_pairs + 1, shape.rows)).astype(np.float32),
        "n_experts": shape.n_experts,
        "n_active": shape.n_active,
        "n_rows": shape.rows,
        "n_cols": shape.n_cols,
    }


def _down_bound(arguments: Arguments, expected: Array, x_error: float = 0.0) -> Array:
    a, bound = arguments, np.zeros_like(expected)
    for expert, pairs in pairs_of(a["order"], a["starts"]):
        first = expert * stacked_rows(a["n_rows"])
        rows = slice(first, first + a["n_rows"])
        error = product_error(a["weight"], a["x"][pairs], rows, x_error)
        bound[pairs] = error + 2 * EPS * np.abs(expected[pairs])
    return bound


def _down_bound_tf32(arguments: Arguments, expected: Array) -> Array:
    """As _gate_up_bound_tf32."""
    return _down_bound(arguments, expected, TF32_CUT)


def down_case(shape: Shape, format: str, bias: bool = False) -> Case:
    n_pairs = shape.n_tokens * shape.n_active
    return Case(
        op="expert_down",
        format=format,
        name=f"{shape}" + "-bias" * bias,
        make=lambda: down(shape, format, bias),
        outputs=("out",),
        bound=_down_bound,
        reason="float32 dot product: error <= 2 n eps sum |w||x|; exact integers inside a block",
        flops=2 * n_pairs * shape.rows * shape.n_cols,
        bytes=weight_bytes(shape, shape.rows, format) + 4 * n_pairs * (shape.rows + shape.n_cols),
        rounded=_down_bound_tf32 if format == "f16" else None,
    )
