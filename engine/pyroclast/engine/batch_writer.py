"""Writes a planned step into the arrays of the batch, which the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyroclast.engine.request import Request
from pyroclast.engine.state_slots import NO_STATE

if TYPE_CHECKING:
    from pyroclast_kernels.batch import Batch


class BatchWriter:
    """Row i of every per-request array belongs to the i-th request of the step.  A table of blocks
    that is already in its row is extended, not written again."""

    def __init__(self, batch: Batch, block_size: int, has_states: bool) -> None:
        self._batch, self._has_states = batch, has_states
        self._block_size = block_size
        # Which list of blocks each table row shows, and how many of them: a list only ever grows,
        # and a request that loses blocks gets a new one.
        self._rows: list[Sequence[int]] = [()] * len(batch.block_tables)
        self._n_written = [0] * len(batch.block_tables)

    def forget(self) -> None:
        """The next `write` trusts no table."""
        self._rows = [()] * len(self._rows)

    def write(self, step: Sequence[Request]) -> None:
        batch = self._batch
        start = n_logits = 0
        batch.seq_starts[0] = 0
        for i, request in enumerate(step):
            first, n_tokens, n_rows = request.n_computed, request.n_step_tokens, request.n_step_rows
            end = start + n_tokens
            token_ids = request.token_ids[first : first + n_tokens]
            if request.n_step_drafts:
                token_ids += request.draft_ids
            batch.token_ids[start:end] = token_ids
            batch.positions[start:end] = range(first, first + n_tokens)
            batch.seq_index[start:end] = i
            batch.seq_starts[i + 1] = end
            batch.logit_rows[n_logits : n_logits + n_rows] = range(end - n_rows, end)
            self._write_table(i, request.blocks)
            if self._has_states:
                batch.slots_in[i] = request.state
                batch.slots_out[start:end] = NO_STATE
                for n_read, slot in request.writes:
                    batch.slots_out[start + n_read - first - 1] = slot
            start, n_logits = end, n_logits + n_rows
        batch.counts[:] = (start, len(step), n_logits)

    def stay(self, i: int, request: Request) -> None:
        """The i-th request, one token of it, reads and writes its state in place."""
        self._batch.slots_in[i] = self._batch.slots_out[i] = request.state

    def extend_table(self, i: int, request: Request) -> bool:
        """The next token of the i-th request opens a block: False if it has none for it."""
        if len(request.blocks) * self._block_size < len(request.token_ids):
            return False
        self._write_table(i, request.blocks)
        return True

    def _write_table(self, i: int, blocks: list[int]) -> None:
        n_known = self._n_written[i] if self._rows[i] is blocks else 0
        if n_known < len(blocks):
            self._batch.block_tables[i, n_known : len(blocks)] = blocks[n_known:]
        self._rows[i] = blocks
        self._n_written[i] = len(blocks)
