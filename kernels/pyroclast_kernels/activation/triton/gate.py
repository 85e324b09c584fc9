"""A gated linear unit of float32 tiles in Triton: glu, and the fused gate_up, end in it."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
# ln 2 in two parts: the first has 15 bits, so that its products with whole numbers are exact.
_LN2_HIGH = tl.constexpr(0.693145751953125)
_LN2_LOW = tl.constexpr(1.42860677e-06)
_NO_FRACTION = tl.constexpr(12582912.0)  # see quantize.py


@triton.jit
def _exp(x):
    """e^x within 2 ulp, infinite above 88.72, e^-86 below -86 (Cody and Waite 1980).  Not
    for NaN.

    tl.exp rounds x * log2(e) to float32, which costs 20 ulp at x = 60.
    """
    y = tl.maximum(tl.where(x < 88.72, x, 88.72), -86.0)  # a number if x is NaN
    n = tl.fma(y, _LOG2_E, _NO_FRACTION) - _NO_FRACTION
    rest = tl.fma(n, -_LN2_LOW, tl.fma(n, -_LN2_HIGH, y))
    # n reaches 128, and 2^128 is no float32: a factor 2 goes to the other side.
    power = ((n.to(tl.int32) + 126) << 23).to(tl.float32, bitcast=True)
    return tl.where(x > 88.72, float("inf"), tl.exp2(rest * _LOG2_E) * 2.0 * power)


@triton.jit
def _gelu_tanh(g):
    """g (1 + tanh u) / 2 as g / (1 + e^-2u): see activation/cpp/gate.h, also for the error."""
    slope = tl.fma(g * g, -0.0713548162726, -1.59576912161)
    return g / (1.0 + _exp(g * slope))


@triton.jit
def _gelu(g):
    """g erfc(-g / sqrt 2) / 2; the polynomial of activation/cpp/gate.h, and its error."""
    y = tl.abs(g)
    t = tl.div_rn(1.0, tl.fma(y, 0.35, 1.0))
    p = tl.fma(t, -0.029115023, 0.143818453)
    p = tl.fma(p, t, -0.255391061)
    p = tl.fma(p, t, 0.158796638)
    p = tl.fma(p, t, -0.0228434708)
    p = tl.fma(p, t, 0.105392166)
    p = tl.fma(p, t, 0.119863085)
    p = tl.fma(p, t, 0.13985756)
    p = tl.fma(p, t, 0.13962166) * t
    # _exp ends at e^-86; the tail beyond is taken for 0.
    power = tl.where(y < 13.114877, _exp(-0.5 * (y * y)), 0.0)
    # fma: whether a product and a sum become one is not for each kernel's compiler to choose.
    return g * tl.where(g < 0.0, power * p, tl.fma(-power, p, 1.0))


@triton.jit
def gated(gate, up, activation: tl.constexpr):
    """ACTIVATIONS[activation](gate) * up; silu is g / (1 + e^-g), where an infinite exponential
    gives 0."""
    if activation == 0:
        return gate / (1.0 + _exp(-gate)) * up
    elif activation == 1:
        return _gelu_tanh(gate) * up
    else:
        return _gelu(gate) * up
