"""Cases of `norm`: widths that fill no vector, gathered rows, extremes, rows far from zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.q8_blocks import BLOCK, Q8_BLOCK

RMS, LAYER = map(KINDS.index, ("rms", "layer"))


@dataclass(frozen=True)
class _Shape:
    """x is scale * noise + offset."""

    n_tokens: int
    d_model: int
    gathered: bool = False
    quantized: bool = False
    scale: float = 1.0
    offset: float = 0.0
    kind: int = RMS
    has_bias: bool = False

    def __str__(self) -> str:
        return (
            f"{self.n_tokens}x{self.d_model}"
            + "-layer" * (self.kind == LAYER)
            + "-bias" * self.has_bias
            + "-gathered" * self.gathered
            + "-q8" * self.quantized
            + f"-scale{self.scale:g}" * (self.scale != 1)
            + f"-offset{self.offset:g}" * (self.offset != 0)
        )


def _norm(shape: _Shape) -> Arguments:
    n_tokens, d_model = shape.n_tokens, shape.d_model
    rng = np.random.default_rng([n_tokens, d_model])
    n_x = n_tokens + 4
    rows = rng.integers(0, n_x, n_tokens + 1).astype(np.int32)
    x = (rng.standard_normal((n_x, d_model)) * shape.scale + shape.offset).astype(np.float32)
    n_blocks = d_model // BLOCK
    return {
        "n_tokens": np.array([n_tokens]),
        "rows": rows if shape.gathered else None,
        "x": x,
        "weight": rng.standard_normal(d_model).astype(np.float32),
        "bias": rng.standard_normal(d_model).astype(np.float32) if shape.has_bias else None,
        "out": rng.standard_normal((n_tokens + 1, d_model)).astype(np.float32),
        "out_q8": np.zeros((n_tokens + 1, n_blocks), Q8_BLOCK) if shape.quantized else None,
        "d_model": d_model,
        "eps": 1e-5,
        "kind": shape.kind,
    }


def rms_bound(width: int, y: Array) -> Array:
    """Of y = x / rms * weight over rows of that width: see `_case`'s reason."""
    bound: Array = ((width / 16 + 8) / 2 + 6) * EPS * np.abs(y)
    return bound


def layer_bound(x: Array, weight: Array, eps: float) -> Array:
    """Of a layer norm of the rows of x, without its bias.

    With n float32 steps in a sum, the first mean is off by at most n EPS mean|x|; subtracting the
    mean of what is left brings that down to n EPS times the row's mean distance from its mean,
    which each value inherits, and the root halves the error of the squares."""
    wide = x.astype(np.float64)
    centred = np.abs(wide - wide.mean(axis=-1, keepdims=True))
    spread = centred.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    n = x.shape[-1] / 16 + 8
    off = n * EPS * np.abs(wide).mean(axis=-1, keepdims=True)
    terms = centred * (1 + off * scale) + spread + off
    bound: Array = (2 * n + 8) * EPS * np.abs(weight) * scale * terms
    return bound


def _bound(arguments: Arguments, expected: Array) -> Array:
    n, rows, bias = int(arguments["n_tokens"][0]), arguments["rows"], arguments["bias"]
    shift = np.float32(0) if bias is None else np.abs(bias)
    if arguments["kind"] == RMS:
        return rms_bound(arguments["d_model"], np.abs(expected) + shift)
    x = arguments["x"][:n] if rows is None else arguments["x"][rows[:n]]
    bound = 2 * EPS * (np.abs(expected) + shift)
    bound[:n] += layer_bound(x, arguments["weight"], arguments["eps"])
    return bound


def _case(shape: _Shape) -> Case:
    n_values = shape.n_tokens * shape.d_model
    is_layer = shape.kind == LAYER
    reason = "a sum of d / 16 + 8 float32 steps, halved by the root, and six roundings"
    return Case(
        op="norm",
        format="f32",
        name=str(shape),
        make=lambda: _norm(shape),
        outputs=("out", "out_q8"),
        bound=_bound,
        reason=reason + "; the centred values have the error of one sum" * is_layer,
        flops=(4 + 5 * is_layer + shape.has_bias) * n_values,
        bytes=8 * n_values,
    )


CASES = [
    _case(_Shape(1, 1)),
    _case(_Shape(2, 40)),
    _case(_Shape(3, 77, gathered=True)),
    _case(_Shape(1, 576, quantized=True)),
    _case(_Shape(5, 2048, gathered=True, quantized=True)),
    _case(_Shape(2, 64, quantized=True, scale=1e-18)),  # eps decides
    _case(_Shape(2, 64, quantized=True, scale=1e15)),
    _case(_Shape(64, 576, quantized=True)),
    _case(_Shape(2, 77, scale=0)),
    _case(_Shape(3, 77, gathered=True, has_bias=True)),
    _case(_Shape(2, 608, quantized=True, has_bias=True)),
    _case(_Shape(1, 1, kind=LAYER)),  # nothing is left but the bias
    _case(_Shape(2, 17, kind=LAYER, has_bias=True)),
    _case(_Shape(3, 77, gathered=True, kind=LAYER)),
    _case(_Shape(5, 2048, gathered=True, quantized=True, kind=LAYER, has_bias=True)),
    _case(_Shape(64, 576, quantized=True, kind=LAYER, has_bias=True)),
    # Rows far from zero: one pass over sums of x and x^2 would leave nothing of the variance.
    _case(_Shape(2, 77, offset=4096, kind=LAYER, has_bias=True)),
    _case(_Shape(2, 1000, offset=-3e4, kind=LAYER)),
    _case(_Shape(2, 77, scale=1e-3, offset=1, kind=LAYER)),
    _case(_Shape(2, 77, scale=0, offset=3.1, kind=LAYER, has_bias=True)),
    _case(_Shape(2, 64, quantized=True, scale=1e15, kind=LAYER)),
    _case(_Shape(2, 64, quantized=True, scale=1e-18, kind=LAYER)),
]

BENCH_CASES = [
    *(_case(_Shape(n, 2048, quantized=quantized)) for n in (1, 512) for quantized in (False, True)),
    *(_case(_Shape(n, 768, kind=LAYER, has_bias=True)) for n in (1, 512)),
]
