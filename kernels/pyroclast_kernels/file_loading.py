"""Weights from files: many runs of rows are read and packed by one native call, without the GIL.

The executor's threads take one run after the other, so none waits for another, nor for a thread of
Python's.  A run is small enough to be packed out of the cache that it was read into.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.program import native_load_rows, native_program
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.packing import LANES, PackedWeight

# Half a megabyte: as large as the L2 cache of a Zen 3 core.
_RUN_BYTES = 1 << 19
# Of the runs of one native call, behind which Python sees Ctrl-C: a second of a slow disk.
_CALL_BYTES = 1 << 26
# native/executor_loading.h: LoadRun and LoadArgs.
_RUN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "descriptor", "offset", "row_bytes", "n_file_rows", "order", "pack", "raw", "weight",
            "n_rows", "n_cols", "row_offset", "is_done",
        )
    ]
)  # fmt: skip
_ARGS = np.dtype(
    [
        (name, np.int64)
        for name in ("runs", "n_runs", "next", "scratch", "scratch_bytes", "n_scratch")
    ]
)

Order = NDArray[np.intp]


class FileLoading:
    """Collects rows of files until `run`.  selection: which variant of the op `pack` runs."""

    def __init__(self, selection: Selection, executor: Any) -> None:
        self._selection, self._executor = selection, executor
        self._load_rows = 0 if executor is None else native_load_rows()
        self._pack: dict[tuple[str, int, int], int] = {}
        self._runs: list[tuple[int, ...]] = []
        self._kept: list[Any] = []  # what the runs point at
        self.n_bytes = 0

    def add(
        self,
        descriptor: int,
        offset: int,
        row_bytes: int,
        n_rows: int,
        weight: PackedWeight,
        row_offset: int,
        order: Order | None = None,
    ) -> bool:
        """n_rows rows, or rows order[0], order[1], ... that lie from offset on, for the rows of a
        weight from row_offset on.  The descriptor stays open until `run` is over.  False, and
        nothing noted, where these have to be packed by other means: without native code, or within
        a group of rows that another call fills as well."""
        assert row_bytes == formats.row_bytes(weight.n_cols, weight.format), "rows of the weight"
        assert row_offset + n_rows <= weight.n_rows, "rows that the weight has"
        assert order is None or len(order) == n_rows, "a place for each row"
        pack = self._load_rows and self._pack_address(weight, n_rows)
        if not pack or row_offset % LANES:
            return False
        step = max(1, _RUN_BYTES // row_bytes // LANES) * LANES
        for first in range(0, n_rows, step):
            n = min(step, n_rows - first)
            low, high, address = first, first + n, 0
            if order is not None:
                wanted = order[first : first + n]
                low, high = int(wanted.min()), int(wanted.max()) + 1
                places = np.ascontiguousarray(wanted - low, np.int64)
                self._kept.append(places)
                address = places.ctypes.data
            self._runs.append(
                (
                    descriptor, offset + low * row_bytes, row_bytes, high - low, address, pack, 0,
                    weight.data.ctypes.data, n, weight.n_cols, row_offset + first, 0,
                )
            )  # fmt: skip
        self._kept.append(weight)
        self.n_bytes += n_rows * row_bytes
        return True

    def _pack_address(self, weight: PackedWeight, n_rows: int) -> int:
        """The kernel's address; 0 where it is a Python function."""
        key = weight.format, n_rows, weight.n_cols
        if key not in self._pack:
            sizes = {"n_rows": n_rows, "n_cols": weight.n_cols}
            kernel, _ = self._selection.kernels("pack", weight.format, sizes)
            self._pack[key] = kernel.address
        return self._pack[key]

    def run(self) -> bool:
        """Reads and packs all of them, and forgets them; False if a row could not be read."""
        if not self._runs:
            return True
        runs, n_threads = np.array(self._runs, _RUN), self._executor.n_threads
        ordered = np.where(runs["order"] != 0, runs["n_rows"], 0)
        n_bytes = (runs["n_file_rows"] + ordered) * runs["row_bytes"]
        scratch = np.empty((n_threads, -(-int(n_bytes.max()) // 64) * 64), np.uint8)
        args = np.zeros(1, _ARGS)
        args["scratch"], args["scratch_bytes"] = scratch.ctypes.data, scratch.shape[1]
        args["n_scratch"] = n_threads
        call = native_program(self._executor, [self._load_rows], [args.ctypes.data], [n_threads])
        which_call = np.cumsum(n_bytes) // _CALL_BYTES
        ends = [*(np.flatnonzero(np.diff(which_call)) + 1).tolist(), len(runs)]
        for begin, end in pairwise([0, *ends]):
            args["runs"], args["n_runs"] = runs[begin:].ctypes.data, end - begin
            args["next"] = 0
            call.run()
        self._runs, self._kept, self.n_bytes = [], [], 0
        return bool(runs["is_done"].all())
