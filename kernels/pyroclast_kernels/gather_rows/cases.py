"""Cases of `gather_rows`: widths that do not fill a vector, rows out of order and repeated."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.cases import Arguments, Case


def _gather(n_tokens: int, n_cols: int) -> Arguments:
    rng = np.random.default_rng([n_tokens, n_cols])
    n_x = n_tokens + 4
    rows = rng.integers(0, n_x, n_tokens + 1).astype(np.int32)
    rows[0] = n_x - 1
    return {
        "n_tokens": np.array([n_tokens]),
        "rows": rows,
        "x": rng.standard_normal((n_x, n_cols)).astype(np.float32),
        "out": rng.standard_normal((n_tokens + 1, n_cols)).astype(np.float32),
        "n_cols": n_cols,
    }


def _case(n_tokens: int, n_cols: int) -> Case:
    return Case(
        op="gather_rows",
        format="f32",
        name=f"{n_tokens}x{n_cols}",
        make=lambda: _gather(n_tokens, n_cols),
        outputs=("out",),
        bound=lambda arguments, expected: 0.0,
        reason="a copy",
        bytes=8 * n_tokens * n_cols,
    )


CASES = [_case(1, 1), _case(2, 40), _case(3, 77), _case(9, 576), _case(2, 2500)]

BENCH_CASES = [_case(n_tokens, 2048) for n_tokens in (1, 64)]
