"""What `gather_rows` means, in NumPy."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


def gather_rows(n_tokens: Array, rows: Array, x: Array, out: Array, n_cols: int) -> None:
    """out[i] = x[rows[i]] for i < n_tokens, byte for byte.

    n_tokens int64 (1,), how many rows are wanted; rows int32 (max_rows,), each a row of x (the
    caller checks); x float32 (max_batch_tokens, n_cols); out float32 (max_rows, n_cols), not x
    itself.
    """
    n = int(n_tokens[0])
    out[:n, :n_cols] = x[rows[:n], :n_cols]
