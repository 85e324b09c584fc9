"""What `gather_rows` means, in NumPy."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


def gather_rows(n_tokens: Array, rows: Array, x: Array, out: Array, n_cols: int) -> None:
    """out[t] = x[rows[t]].  n_tokens int64 (1,): how many rows are wanted; rows int32 (max_rows,),
    each below len(x) (the caller checks); x float32 (max_tokens, n_cols); out float32 (max_rows,
    n_cols), not x itself.
    """
    t = int(n_tokens[0])
    out[:t, :n_cols] = x[rows[:t], :n_cols]
