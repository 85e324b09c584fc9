"""Cases of `gather_rows`: rows in any order, some twice, widths that fill no vector."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels.cases import Arguments, Case


def _gather_rows(n: int, n_rows: int, n_cols: int) -> Arguments:
    rng = np.random.default_rng([n, n_rows, n_cols])
    x = rng.standard_normal((n_rows, n_cols)).astype(np.float32)
    x[n_rows // 2, :3] = np.nan, np.inf, -0.0
    rows = rng.integers(0, n_rows, n + 1).astype(np.int32)
    rows[0] = n_rows // 2
    return {
        "n_tokens": np.array([n]),
        "rows": rows,
        "x": x,
        "out": rng.standard_normal((n + 1, n_cols)).astype(np.float32),
        "n_cols": n_cols,
    }


def _case(n: int, n_rows: int, n_cols: int) -> Case:
    return Case(
        op="gather_rows",
        format="f32",
        name=f"{n}of{n_rows}x{n_cols}",
        make=lambda: _gather_rows(n, n_rows, n_cols),
        outputs=("out",),
        bound=lambda arguments, expected: 0.0,
        reason="bytes are moved, not computed",
        bytes=8 * n * n_cols,
    )


CASES = [_case(1, 1, 3), _case(7, 5, 45), _case(3, 64, 576), _case(20, 33, 1100)]

BENCH_CASES = [_case(n, 512, 2048) for n in (1, 8, 512)]
