"""A gated linear unit of float32 tiles in Triton: glu, and the fused gate_up, end in it."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.triton.math import exp


@triton.jit
def _gelu_tanh(g):
    """g (1 + tanh u) / 2 as g / (1 + e^-2u): see activation/cpp/gate.h, also for the error."""
    slope = tl.fma(g * g, -0.0713548162726, -1.59576912161)
    return g / (1.0 + exp(g * slope))


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
    # exp ends at e^-86; the tail beyond is taken for 0.
    power = tl.where(y < 13.114877, exp(-0.5 * (y * y)), 0.0)
    # fma: whether a product and a sum become one is not for each kernel's compiler to choose.
    return g * tl.where(g < 0.0, power * p, tl.fma(-power, p, 1.0))


@triton.jit
def _relu(g):
    """-0 and NaN stay what they are."""
    return tl.where(g < 0.0, 0.0, g)


@triton.jit
def activated(g, activation: tl.constexpr):
    """ACTIVATIONS[activation](g); silu is g / (1 + e^-g), where an infinite exponential gives 0."""
    if activation == 0:
        return g / (1.0 + exp(-g))
    elif activation == 1:
        return _gelu_tanh(g)
    elif activation == 2:
        return _gelu(g)
    elif activation == 3:
        return _relu(g)
    else:
        return _relu(g) * _relu(g)


@triton.jit
def gated(gate, up, activation: tl.constexpr):
    """ACTIVATIONS[activation](gate) * up."""
    return activated(gate, activation) * up
