"""Writes a planned step into the arrays of a batch, touching only what changed since the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyroclast.engine.request import Request

if TYPE_CHECKING:
    from pyroclast_kernels.batch import Batch


class BatchWriter:
    """Fills `batch` for steps of `Scheduler.schedule`.  Row i of every per-request array belongs
    to the i-th request of the step."""

    def __init__(self, batch: Batch, block_size: int) -> None:
        self._batch = batch
        self._block_size = block_size
        # Storing one int through a memoryview takes half the time of a NumPy scalar store.
        self._token_ids = batch.token_ids.data
        self._positions = batch.positions.data
        self._block_tables = batch.block_tables.data
        # Which block list each table row shows, and how much of it: lists only ever grow, and
        # are replaced when the request loses its blocks.
        self._rows: list[Sequence[int]] = [()] * len(batch.block_tables)
        self._n_written = [0] * len(batch.block_tables)
        self._layout = -1

    def forget(self) -> None:
        """The next `write` trusts nothing that is in the arrays."""
        self._layout = -1
        self._rows = [()] * len(self._rows)

    def write(self, step: Sequence[Request], layout: int) -> None:
        """Fills the batch.  A `layout` seen last time promises the same requests, one token and
        one row of logits each."""
        if layout != self._layout:
            self._write_all(step)
            self._layout = layout
            return
        token_ids, positions, block_size = self._token_ids, self._positions, self._block_size
        for i, request in enumerate(step):
            position = request.n_computed
            token_ids[i] = request.token_ids[-1]
            positions[i] = position
            if not position % block_size:
                self._block_tables[i, position // block_size] = request.blocks[-1]
                self._n_written[i] = len(request.blocks)

    def _write_all(self, step: Sequence[Request]) -> None:
        batch = self._batch
        start = n_logits = 0
        batch.seq_starts[0] = 0
        for i, request in enumerate(step):
            first, n_tokens, n_rows = request.n_computed, request.n_step_tokens, request.n_step_rows
            end = start + n_tokens
            batch.token_ids[start:end] = request.token_ids[first : first + n_tokens]
            batch.positions[start:end] = range(first, first + n_tokens)
            batch.seq_index[start:end] = i
            batch.seq_starts[i + 1] = end
            batch.logit_rows[n_logits : n_logits + n_rows] = range(end - n_rows, end)
            self._write_table(i, request.blocks)
            start, n_logits = end, n_logits + n_rows
        batch.counts[:] = (start, len(step), n_logits)

    def _write_table(self, i: int, blocks: list[int]) -> None:
        n_known = self._n_written[i] if self._rows[i] is blocks else 0
        if n_known < len(blocks):
            self._batch.block_tables[i, n_known : len(blocks)] = blocks[n_known:]
        self._rows[i] = blocks
        self._n_written[i] = len(blocks)
