"""Cases of `altup_predict`, `altup_correct` and `match_rms`: streams that lie apart, widths that
fill no vector, coefficients at both ends of tanh, states so small that eps or floor decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pyroclast_kernels.altup.reference import modalities
from pyroclast_kernels.cases import EPS, Arguments, Array, Case


@dataclass(frozen=True)
class _Shape:
    """routed: the size of what goes through tanh; size: that of the streams."""

    n_tokens: int
    d_model: int
    n_streams: int = 4
    routed: float = 1.0
    size: float = 1.0
    scales: bool = True

    def __str__(self) -> str:
        return (
            f"{self.n_tokens}x{self.d_model}"
            + f"-of{self.n_streams}" * (self.n_streams != 4)
            + f"-routed{self.routed:g}" * (self.routed != 1)
            + f"-size{self.size:g}" * (self.size != 1)
            + "-unscaled" * (not self.scales)
        )


def _shared(shape: _Shape) -> Arguments:
    rng = np.random.default_rng([shape.n_tokens, shape.d_model, shape.n_streams])
    n, d, rows = shape.n_streams, shape.d_model, shape.n_tokens + 1

    def normal(*size: int, scale: float = 1.0) -> Array:
        return rng.standard_normal(size).astype(np.float32) * np.float32(scale)

    return {
        "n_tokens": np.array([shape.n_tokens]),
        "streams": normal(n, rows, d, scale=shape.size),
        "predicted": normal(rows, d, scale=shape.size),
        "weight": normal(d),
        "router": normal(n, d, scale=shape.routed * np.sqrt(d)),
        "out_scale": normal(d) if shape.scales else None,
        "out": normal(rows, d),
        "d_model": d,
        "n_streams": n,
        "stream_stride": rows * d,
        "eps": 1e-6,
        "scale": 1 / d,
    }


def _predict(shape: _Shape) -> Arguments:
    n = shape.n_streams
    rng = np.random.default_rng([7, shape.d_model, n])
    given = _shared(shape) | {"coefs": rng.standard_normal((n * n, n)).astype(np.float32) / 2}
    order = (
        "n_tokens", "streams", "weight", "router", "coefs", "out", "d_model", "n_streams",
        "stream_stride", "eps", "scale",
    )  # fmt: skip
    return {name: given[name] for name in order}


def _correct(shape: _Shape) -> Arguments:
    n = shape.n_streams
    rng = np.random.default_rng([8, shape.d_model, n])
    given = _shared(shape) | {"coefs": rng.standard_normal((n, n)).astype(np.float32)}
    order = (
        "n_tokens", "streams", "predicted", "weight", "router", "coefs", "out_scale", "out",
        "d_model", "n_streams", "stream_stride", "eps", "scale",
    )  # fmt: skip
    return {name: given[name] for name in order}


def _error_of_m(arguments: Arguments, x: Array) -> tuple[Array, Array]:
    """(m, its largest error), float64 (n_tokens, n_streams): a dot product of d terms, each of an
    RMS norm, of which 16 lanes add d / 16; tanh, of slope 1 at most, adds 3 ulp."""
    d, eps, scale = arguments["d_model"], arguments["eps"], arguments["scale"]
    weight, router = arguments["weight"], arguments["router"]
    m = modalities(x, weight, router, eps, scale)
    rms = np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True) + eps)
    terms = np.abs(x * weight / rms * scale) @ np.abs(router).T.astype(np.float64)
    return m, EPS * ((d / 16 + 14) * terms + 4 * np.abs(m))


def _predict_bound(arguments: Arguments, expected: Array) -> Array:
    """The error of each coefficient times what it multiplies; then the roundings of the sum."""
    n, t, d = arguments["n_streams"], int(arguments["n_tokens"][0]), arguments["d_model"]
    old = np.abs(arguments["streams"][:, :t].astype(np.float64))
    m, error = _error_of_m(arguments, arguments["streams"][0, :t])
    coefs = np.abs(arguments["coefs"].astype(np.float64)).reshape(n, n, n)
    c = np.einsum("jik,tk->tji", coefs, np.abs(m))
    c_error = np.einsum("jik,tk->tji", coefs, error) + (n + 1) * EPS * c
    terms = np.einsum("tji,itd->jtd", c_error + (n + 1) * EPS * c, old) + (n + 1) * EPS * old
    return _placed(terms, expected, t, d)


def _correct_bound(arguments: Arguments, expected: Array) -> Array:
    """The error of each coefficient times the difference, whose own rounding counts too; then the
    roundings of a product and a sum, and of another product."""
    n, t, d = arguments["n_streams"], int(arguments["n_tokens"][0]), arguments["d_model"]
    active = arguments["streams"][0, :t]
    before = arguments["streams"][:, :t].astype(np.float64).copy()
    before[0] = arguments["predicted"][:t]
    m, error = _error_of_m(arguments, active)
    coefs = np.abs(arguments["coefs"].astype(np.float64))
    c = 1 + np.abs(m) @ coefs.T
    c_error = error @ coefs.T + (n + 2) * EPS * c
    difference = np.abs(active - before[0])
    terms = (c_error + 2 * EPS * c).T[:, :, None] * difference + 2 * EPS * np.abs(before)
    if expected.ndim == 2 and arguments["out_scale"] is not None:
        terms = terms * np.abs(arguments["out_scale"])
        terms[0] += EPS * np.abs(expected[:t])
    return _placed(terms, expected, t, d)


def _placed(terms: Array, expected: Array, t: int, d: int) -> Array:
    """Of all streams, or of the first where the output is that; 0 in the rows of no token."""
    bound = np.zeros_like(expected, np.float64)
    if expected.ndim == 2:
        bound[:t, :d] = terms[0]
    else:
        bound[:, :t, :d] = terms
    return bound


def _case(op: str, make: Callable[[_Shape], Arguments], shape: _Shape) -> Case:
    n, d, t = shape.n_streams, shape.d_model, shape.n_tokens
    is_predict = op == "altup_predict"
    return Case(
        op=op,
        format="f32",
        name=str(shape),
        make=lambda: make(shape),
        outputs=("streams", "out"),
        bound=_predict_bound if is_predict else _correct_bound,
        reason="a norm, a dot product and a tanh give coefficients; a few products and sums follow",
        flops=t * d * (2 * n + 6 + (2 * n * n if is_predict else 2 * n + 2)),
        bytes=4 * d * (t * (2 * n + 1 + (not is_predict)) + n + 1),
    )


def _match(n_tokens: int, d_model: int, size: float) -> Arguments:
    rng = np.random.default_rng([n_tokens, d_model])
    x, y = rng.standard_normal((2, n_tokens + 1, d_model)).astype(np.float32)
    return {
        "n_tokens": np.array([n_tokens]),
        "x": 3 * x,
        "y": y * np.float32(size),
        "d_model": d_model,
        "floor": 1e-5,
    }


def _match_case(n_tokens: int, d_model: int, size: float = 1.0) -> Case:
    def bound(arguments: Arguments, expected: Array) -> Array:
        found = np.zeros_like(expected, np.float64)
        found[:n_tokens] = (d_model / 16 + 12) * EPS * np.abs(expected[:n_tokens])
        return found

    return Case(
        op="match_rms",
        format="f32",
        name=f"{n_tokens}x{d_model}" + f"-size{size:g}" * (size != 1),
        make=lambda: _match(n_tokens, d_model, size),
        outputs=("y",),
        bound=bound,
        reason="two sums of squares in 16 lanes, two roots and a quotient, a product",
        flops=5 * n_tokens * d_model,
        bytes=12 * n_tokens * d_model,
    )


_SHAPES = [
    _Shape(1, 1),
    _Shape(3, 45),
    _Shape(2, 77, n_streams=2, scales=False),
    _Shape(2, 96, n_streams=8),
    _Shape(17, 256),
    _Shape(2, 64, routed=40.0),  # tanh is 1
    _Shape(2, 64, routed=0.0),
    _Shape(2, 64, size=1e-4),  # eps decides
]
CASES = [
    *(_case("altup_predict", _predict, shape) for shape in _SHAPES),
    *(_case("altup_correct", _correct, shape) for shape in _SHAPES),
    _match_case(1, 1),
    _match_case(3, 45),
    _match_case(17, 256),
    _match_case(2, 77, 1e-3),  # floor decides
    _match_case(2, 64, 0.0),
]

# Gemma 3n.
BENCH_CASES = [
    *(_case("altup_predict", _predict, _Shape(n, 2048)) for n in (1, 512)),
    *(_case("altup_correct", _correct, _Shape(n, 2048)) for n in (1, 512)),
    *(_match_case(n, 2048) for n in (1, 512)),
]
