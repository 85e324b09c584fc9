"""Functions of float32 tiles that the Triton variants share: the exponential and its relatives."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
# ln 2 in two parts: the first has 15 bits, so that its products with whole numbers are exact.
_LN2_HIGH = tl.constexpr(0.693145751953125)
_LN2_LOW = tl.constexpr(1.42860677e-06)
_NO_FRACTION = tl.constexpr(12582912.0)  # see activation/triton/quantize.py


@triton.jit
def exp(x):
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
def tanh(x):
    """At most 3 ulp, NaN stays NaN; the method and the constants are those of native/tanh.h."""
    y, z = tl.abs(x), x * x
    p = tl.fma(z, -5.70498872745e-3, 2.06390887954e-2)
    p = tl.fma(p, z, -5.37397155531e-2)
    p = tl.fma(p, z, 1.33314422036e-1)
    p = tl.fma(p, z, -3.33332819422e-1)
    near = tl.fma(x * z, p, x)
    far = 1.0 - tl.div_rn(2.0, exp(y + y) + 1.0)
    far = tl.where(x < 0.0, -far, far)
    return tl.where(y >= 0.625, far, near)  # exp is not for NaN; near keeps it


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x), at most 4 ulp, NaN stays NaN."""
    return tl.where((x < 0.0) | (x >= 0.0), tl.div_rn(1.0, 1.0 + exp(-x)), x)


@triton.jit
def softplus(x):
    """ln(1 + e^x), at most 4 ulp, NaN stays NaN; the method is that of native/softplus.h."""
    y = exp(-tl.abs(x))
    s = tl.div_rn(y, 2.0 + y)
    z = s * s
    p = tl.fma(z, 1.0 / 13, 1.0 / 11)
    p = tl.fma(p, z, 1.0 / 9)
    p = tl.fma(p, z, 1.0 / 7)
    p = tl.fma(p, z, 1.0 / 5)
    p = tl.fma(p, z, 1.0 / 3)
    p = tl.fma(p, z, 1.0)
    return tl.where((x < 0.0) | (x >= 0.0), tl.fma(s + s, p, tl.maximum(x, 0.0)), x)
