"""norm, residual and qk_norm: their definitions against torch, and what every variant promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from norm_checks import CHECKED, COMPANY
from pyroclast_kernels.norm.reference import norm
from pyroclast_kernels.qk_norm.reference import qk_norm
from pyroclast_kernels.residual.reference import residual
from pyroclast_kernels.selection import all_variants

RNG = np.random.default_rng(5)
VARIANTS = {  # Triton's are in tests/gpu
    op: [
        name
        for name, variant in all_variants(op).items()
        if variant.launch is None and not variant.unavailable
    ]
    for op in COMPANY
}


@pytest.mark.native
@pytest.mark.parametrize(
    ("op", "variant", "check"),
    [(op, variant, check) for op, check in CHECKED for variant in VARIANTS[op]],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_norms(op: str, variant: str, check: Callable[[str, str], None]) -> None:
    check(op, variant)


def test_every_technology_of_the_cpu_is_tested() -> None:
    assert all({"numpy", "numba"} <= set(names) for names in VARIANTS.values())


# ---- the definitions -----------------------------------------------------------------------------
def values(*shape: int) -> Any:
    return (RNG.standard_normal(shape) * 3 + 1).astype(np.float32)


def of_torch(kind: int, x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """The norm of each row by torch, in float64."""
    functional = pytest.importorskip("torch").nn.functional
    from_numpy = pytest.importorskip("torch").from_numpy
    x, weight = (from_numpy(a.astype(np.float64)) for a in (x, weight))
    if kind == 0:
        y = functional.rms_norm(x, weight.shape, weight, eps).numpy()
        return y if bias is None else y + bias
    bias = None if bias is None else from_numpy(bias.astype(np.float64))
    return functional.layer_norm(x, weight.shape, weight, bias, eps).numpy()


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("kind", [0, 1])
def test_norm_is_torchs(kind: int, has_bias: bool, eps: float) -> None:
    x, weight, bias = values(4, 33), values(33), values(33) if has_bias else None
    out = np.zeros((3, 33), np.float32)
    rows = np.array([3, 0, 3], np.int32)
    norm(np.array([2]), rows, x, weight, bias, out, None, 33, eps, kind)
    wanted = of_torch(kind, x[[3, 0]], weight, bias, eps)
    np.testing.assert_allclose(out[:2], wanted, rtol=0, atol=1e-5)
    assert not out[2].any()


@pytest.mark.parametrize("x_scale", [None, 0.75])
@pytest.mark.parametrize("scale", [1.0, 0.22])
@pytest.mark.parametrize("kind", [-1, 0, 1])
def test_residual_adds_the_scaled_norm(kind: int, scale: float, x_scale: float | None) -> None:
    x, y, weight, bias = values(3, 33), values(3, 33), values(33), values(33)
    before, last = x.copy(), None if x_scale is None else np.array([x_scale], np.float32)
    vectors = (None, None, last) if kind == -1 else (weight, bias, last)
    residual(np.array([2]), x, y, *vectors, 33, 1e-5, kind, scale)
    added = y if kind == -1 else of_torch(kind, y, weight, bias, 1e-5)
    wanted = (before[:2] + scale * added[:2]) * (x_scale or 1)
    np.testing.assert_allclose(x[:2], wanted, rtol=0, atol=2e-5)
    assert (x[2] == before[2]).all()


@pytest.mark.parametrize("has_values", [False, True])
@pytest.mark.parametrize("whole", [0, 1])
def test_qk_norm_is_an_rms_norm_of_heads_or_of_all_of_them(whole: int, has_values: bool) -> None:
    n_heads, n_kv_heads, head_dim, eps = 4, 2, 10, 1e-3
    q_width, k_width = (n_heads * head_dim, n_kv_heads * head_dim) if whole else (head_dim,) * 2
    qkv, q_weight, k_weight = values(3, 80), values(q_width), values(k_width)
    before = qkv.copy()
    sizes, v_weight = (n_heads, n_kv_heads, head_dim), values(head_dim) if has_values else None
    qk_norm(np.array([2]), qkv, q_weight, k_weight, v_weight, *sizes, eps, whole)
    q = of_torch(0, before[:2, :40].reshape(-1, q_width), q_weight, None, eps).reshape(2, 40)
    k = of_torch(0, before[:2, 40:60].reshape(-1, k_width), k_weight, None, eps).reshape(2, 20)
    v = before[:2, 60:]
    if v_weight is not None:
        v = of_torch(0, v.reshape(-1, head_dim), v_weight, None, eps).reshape(2, 20)
    np.testing.assert_allclose(qkv[:2], np.hstack([q, k, v]), rtol=0, atol=1e-5)
    assert (qkv[2] == before[2]).all()
