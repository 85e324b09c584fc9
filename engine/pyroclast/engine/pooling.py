"""From the states of a prompt's tokens to one vector: an embedding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine import checks
from pyroclast.errors import RequestError

POOLINGS = ("mean", "last")


class Pooled:
    """Takes the rows of a prompt as its chunks are computed; `vector` is the embedding.

    "mean": the mean of the states of all tokens; "last": the state of the last one.  Rows are added
    one by one, in order and in float64, so that the bits do not depend on the chunks."""

    def __init__(self, n_tokens: int, pooling: str) -> None:
        if pooling not in POOLINGS:
            raise RequestError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        self._n_tokens, self._mean = n_tokens, pooling == "mean"
        self._next = 0  # rows may come again after a restart
        self._sum: NDArray[np.float64] | None = None

    def add(self, first: int, rows: NDArray[np.float32]) -> None:
        """The states (n, d_model) of the tokens from `first` on."""
        for position, row in enumerate(rows, first):
            if position != self._next:
                continue
            self._next += 1
            wide = row.astype(np.float64)
            keeps = self._mean and self._sum is not None
            self._sum = self._sum + wide if keeps else wide

    def vector(self, *, normalize: bool, dimensions: int | None) -> NDArray[np.float32]:
        """float32: the first `dimensions` values, scaled to length 1 if asked for."""
        assert self._sum is not None, "vector() before the end"
        checks.flag("normalize", normalize)
        found = self._sum / self._n_tokens if self._mean else self._sum
        found = found[:dimensions]
        length = float(np.sqrt(np.sum(found * found)))
        if normalize and length > 0:
            found = found / length
        return found.astype(np.float32)
