"""Cases of `residual`: with each norm and without one, scaled, widths that do not fill a vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case
from pyroclast_kernels.norm.cases import LAYER, RMS, layer_bound, rms_bound
from pyroclast_kernels.norm.reference import normed
from pyroclast_kernels.residual import AS_IT_IS


@dataclass(frozen=True)
class _Shape:
    """y is size * noise + offset."""

    n_tokens: int
    d_model: int
    kind: int = AS_IT_IS
    scale: float = 1.0
    has_bias: bool = False
    size: float = 1.0
    offset: float = 0.0
    x_scale: float | None = None

    def __str__(self) -> str:
        return (
            f"{self.n_tokens}x{self.d_model}"
            + {AS_IT_IS: "", RMS: "-rms", LAYER: "-layer"}[self.kind]
            + "-bias" * self.has_bias
            + f"-times{self.scale:g}" * (self.scale != 1)
            + f"-size{self.size:g}" * (self.size != 1)
            + f"-offset{self.offset:g}" * (self.offset != 0)
            + f"-x{self.x_scale}" * (self.x_scale is not None)
        )


def _residual(shape: _Shape) -> Arguments:
    n_tokens, d_model = shape.n_tokens, shape.d_model
    rng = np.random.default_rng([n_tokens, d_model])
    size = n_tokens + 1, d_model
    weight, bias = rng.standard_normal((2, d_model)).astype(np.float32)
    return {
        "n_tokens": np.array([n_tokens]),
        "x": rng.standard_normal(size).astype(np.float32),
        "y": (rng.standard_normal(size) * shape.size + shape.offset).astype(np.float32),
        "weight": None if shape.kind == AS_IT_IS else weight,
        "bias": bias if shape.has_bias else None,
        "x_scale": None if shape.x_scale is None else np.array([shape.x_scale], np.float32),
        "d_model": d_model,
        "eps": 1e-6,
        "kind": shape.kind,
        "scale": shape.scale,
    }


def _bound(arguments: Arguments, expected: Array) -> Array:
    n, weight, bias = int(arguments["n_tokens"][0]), arguments["weight"], arguments["bias"]
    eps, kind, d_model = arguments["eps"], arguments["kind"], arguments["d_model"]
    x, y, scale = arguments["x"][:n], arguments["y"][:n], abs(arguments["scale"])
    shift = np.float32(0) if bias is None else np.abs(bias)
    added = y if kind == AS_IT_IS else normed(y, weight, bias, eps, kind)
    bound = np.zeros_like(expected)  # the rows of no token
    bound[:n] = 2 * EPS * (np.abs(x) + scale * (np.abs(added) + shift))
    if kind == RMS:
        bound[:n] += scale * rms_bound(d_model, np.abs(added) + shift)
    elif kind == LAYER:
        bound[:n] += scale * layer_bound(y, weight, eps)
    if arguments["x_scale"] is not None:
        bound *= abs(float(arguments["x_scale"][0]))
        bound[:n] += EPS * np.abs(expected[:n])
    return bound


def _case(shape: _Shape) -> Case:
    n_values = shape.n_tokens * shape.d_model
    return Case(
        op="residual",
        format="f32",
        name=str(shape),
        make=lambda: _residual(shape),
        outputs=("x",),
        bound=_bound,
        reason="the norm's error times the scale, and the roundings of a product and two sums",
        flops={AS_IT_IS: 2, RMS: 6, LAYER: 11}[shape.kind] * n_values + shape.has_bias * n_values,
        bytes=12 * n_values,
    )


CASES = [
    _case(_Shape(1, 1)),
    _case(_Shape(3, 77)),
    _case(_Shape(9, 576, scale=0.22)),
    _case(_Shape(2, 1000, scale=-1.5, size=1e6)),
    _case(_Shape(1, 1, RMS)),
    _case(_Shape(3, 77, RMS)),
    _case(_Shape(64, 576, RMS, scale=0.22)),
    _case(_Shape(2, 45, RMS, has_bias=True)),
    _case(_Shape(2, 64, RMS, size=1e15)),
    _case(_Shape(2, 64, RMS, size=1e-18)),  # eps decides
    _case(_Shape(2, 77, RMS, size=0)),
    _case(_Shape(3, 77, LAYER, scale=3.0)),
    _case(_Shape(5, 2048, LAYER, has_bias=True)),
    _case(_Shape(2, 45, LAYER, has_bias=True, offset=4096)),
    _case(_Shape(2, 77, LAYER, size=0, offset=3.1, has_bias=True)),
    _case(_Shape(3, 77, x_scale=-0.3)),
    _case(_Shape(5, 576, RMS, scale=0.5, x_scale=0.018)),
    _case(_Shape(2, 45, LAYER, has_bias=True, x_scale=7.5)),
]

BENCH_CASES = [
    *(_case(_Shape(n, 2048, RMS)) for n in (1, 512)),  # Gemma and OLMo norm after a block
    *(_case(_Shape(n, 2048, scale=0.22)) for n in (1, 512)),  # Granite scales
]
