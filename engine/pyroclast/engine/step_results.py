"""Reads what the op `sample` wrote: tokens, and what is known about them."""

from __future__ import annotations

from pyroclast.engine.output import TokenLogprobs
from pyroclast.sampling.arrays import SampleArrays
from pyroclast.sampling.param_checks import MAX_LOGPROBS
from pyroclast_kernels.sample import NOT_FINITE


class StepResults:
    """The results of the last step; row r belongs to the r-th row of logits.  `sampled[r]` is the
    token of row r, -1 where none could be chosen (`is_finite` tells why).  has_top: the lists of
    most likely tokens need no fetching from a GPU; whoever begins a step sets it."""

    __slots__ = (
        "_are_greedy",
        "_arrays",
        "_logprobs",
        "_n_rows",
        "_on_gpu",
        "_ranks",
        "_statuses",
        "_top_ids",
        "_top_logprobs",
        "_vocab_size",
        "has_top",
        "sampled",
    )

    def __init__(self, arrays: SampleArrays) -> None:
        self._arrays = arrays
        # Single values through memoryviews: half the time of NumPy's.
        out = arrays.out
        self.sampled, self._statuses = out["token_id"].data, out["status"].data
        self._logprobs, self._ranks = out["logprob"].data, out["rank"].data
        self._are_greedy = out["is_greedy"].data
        self._top_ids = arrays.top_ids.reshape(-1).data
        self._top_logprobs = arrays.top_logprobs.reshape(-1).data
        self._vocab_size = arrays.vocab_size
        self._n_rows = arrays.n_rows.data
        self._on_gpu = arrays.memory.on_gpu
        self.has_top = False

    def token_ids(self) -> list[int]:
        """`sampled`, as far as the step has rows."""
        found: list[int] = self.sampled[: self._n_rows[0]].tolist()
        return found

    def is_finite(self, row: int) -> bool:
        """Whether all logits of a row are numbers."""
        return bool(self._statuses[row] != NOT_FINITE)

    def logprobs(self, row: int, n_top: int) -> TokenLogprobs:
        """What the row's own logits say of its token and of the `n_top` most likely ones."""
        top: list[tuple[int, float]] = []
        if n_top:
            if self._on_gpu and not self.has_top:
                self._fetch_top()
            n_top = min(n_top, self._vocab_size)
            start = row * MAX_LOGPROBS
            ids = self._top_ids[start : start + n_top]
            logprobs = self._top_logprobs[start : start + n_top]
            # No `strict`: passing a word costs as much as the rest.
            top = list(zip(ids, logprobs))  # noqa: B905
            while top and top[-1][0] < 0:  # fewer tokens than that are possible at all
                top.pop()
        return TokenLogprobs(
            self.sampled[row],
            self._logprobs[row],
            self._ranks[row],
            self._are_greedy[row] != 0,
            top,
        )

    def _fetch_top(self) -> None:
        arrays = self._arrays
        arrays.memory.fetch(arrays.top_ids, self._n_rows[0])
        arrays.memory.fetch(arrays.top_logprobs, self._n_rows[0])
        self.has_top = True
