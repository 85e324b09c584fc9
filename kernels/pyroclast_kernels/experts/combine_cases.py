"""Cases of `combine`: widths that do not fill a vector, one slot and many, a NaN."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.cases import EPS, Arguments, Array, Case


def _combine(
    n_tokens: int, n_active: int, n_cols: int, scale: float, accumulate: bool, bad: bool
) -> Arguments:
    rng = np.random.default_rng([n_tokens, n_active, n_cols])
    y = rng.standard_normal((n_tokens * n_active, n_cols)).astype(np.float32)
    gates = rng.uniform(0, 1, (n_tokens, n_active)).astype(np.float32)
    if bad:
        gates[0, 0], y[n_active, 0], y[n_active, 1] = np.nan, np.inf, -np.inf
    return {
        "n_tokens": np.array([n_tokens]),
        "y": y,
        "gates": gates,
        "out": rng.standard_normal((n_tokens + 1, n_cols)).astype(np.float32),
        "n_active": n_active,
        "n_cols": n_cols,
        "scale": scale,
        "accumulate": int(accumulate),
    }


def _bound(arguments: Arguments, expected: Array) -> Array:
    t, n_active, n_cols = (arguments[name] for name in ("n_tokens", "n_active", "n_cols"))
    y = np.abs(arguments["y"]).reshape(int(t[0]), n_active, n_cols)
    with np.errstate(invalid="ignore"):
        sums = np.einsum("ts,tsc->tc", np.abs(arguments["gates"]), y) * abs(arguments["scale"])
    before = np.abs(arguments["out"][: len(sums)]) * arguments["accumulate"]
    bound = np.zeros_like(expected)
    bound[: len(sums)] = (n_active + 3) * EPS * (sums + before)
    return bound


def _case(
    shape: tuple[int, int, int], scale: float = 1.0, accumulate: bool = True, bad: bool = False
) -> Case:
    n_tokens, n_active, n_cols = shape
    suffix = f"-scale{scale:g}" * (scale != 1) + "-accumulate" * accumulate + "-bad" * bad
    return Case(
        op="combine",
        format="f32",
        name="x".join(map(str, shape)) + suffix,
        make=lambda: _combine(*shape, scale, accumulate, bad),
        outputs=("out",),
        bound=_bound,
        reason="a float32 sum of n_active products: error <= (n + 3) eps sum |g||y|",
        flops=2 * n_tokens * n_active * n_cols,
        bytes=4 * n_tokens * n_cols * (n_active + 2),
    )


CASES = [
    _case((1, 1, 1)),
    _case((1, 8, 2048)),
    _case((3, 2, 45), accumulate=False),
    _case((7, 4, 33), scale=0.22),
    _case((5, 8, 96), scale=-2.5, accumulate=False),
    _case((3, 3, 17), bad=True),
    _case((64, 8, 130)),
]
BENCH_CASES = [_case((n, *shape)) for shape in ((8, 2048), (4, 2880)) for n in (1, 512)]
