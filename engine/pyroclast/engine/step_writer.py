"""Writes the step arrays: the batch, which the model reads, and the rows of the sampler.  In the
engine nothing else writes there.

A step that is like the one before it, with one more token of every request, changes two numbers of
the batch and one of the sampler for each request.  `write_next` writes just these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyroclast.engine.batch_writer import BatchWriter
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.sample_writer import SampleWriter
from pyroclast.sampling.arrays import SampleArrays

if TYPE_CHECKING:
    from pyroclast.model.adapters import Adapters
    from pyroclast_kernels.batch import Batch


class StepWriter:
    """Fills the arrays for the steps that `Scheduler.schedule` plans."""

    __slots__ = (
        "_adapters",
        "_batch",
        "_block_size",
        "_changing",
        "_has_states",
        "_layout",
        "_positions",
        "_sample_positions",
        "_samples",
        "_token_ids",
        "processed",
    )

    def __init__(
        self,
        batch: Batch,
        arrays: SampleArrays,
        block_size: int,
        adapters: Adapters | None = None,
        *,
        has_states: bool = False,
    ) -> None:
        self._adapters = adapters if adapters is not None and adapters.n_slots else None
        self._batch, self._has_states = BatchWriter(batch, block_size, has_states), has_states
        self._samples = SampleWriter(arrays)
        self._changing = self._samples.changing
        self._block_size = block_size
        self._layout = -1  # of the step that is in the arrays; -1 if there is none to trust
        # The rows of the step whose logits users' callables change.
        self.processed: list[tuple[int, GenerateRequest]] = []
        # Storing one int through a memoryview takes half the time of a NumPy scalar store.
        self._token_ids = batch.token_ids.data
        self._positions = batch.positions.data
        self._sample_positions = arrays.rows["position"].data

    def close(self) -> None:
        """Frees the sampler's arrays: nothing is written from here on."""
        self._samples.close()

    def forget(self) -> None:
        """The next `write` trusts nothing that is in the arrays."""
        self._layout = -1
        self._batch.forget()

    def write(self, step: Sequence[ReadRequest], layout: int) -> None:
        """Fills the arrays.  A `layout` that was written last time promises the same requests, one
        token and one row of logits each, and a block for that token."""
        if layout == self._layout:
            written = self.write_next(step)
            assert written, "the scheduler planned a token that has no block"
            return
        self._layout = -1  # until all is written
        self._batch.write(step)
        if self._adapters is not None:
            self._adapters.assign([request.adapter_slot for request in step])
        self._samples.write(step)
        self.processed = self._samples.processed
        self._layout = layout

    def write_next(self, requests: Sequence[ReadRequest]) -> bool:
        """Writes the last token of each of `requests`, which are those of the last step, each with
        one token more.  False if a token has no block yet, or opens one and recurrent layers need
        another slot for it: then `write` must follow."""
        token_ids, positions, block_size = self._token_ids, self._positions, self._block_size
        sample_positions = self._sample_positions
        for i, request in enumerate(requests):
            n_tokens = len(request.token_ids)
            opens_block = not (n_tokens - 1) % block_size
            if opens_block and (self._has_states or not self._batch.extend_table(i, request)):
                return False
            if self._has_states:
                self._batch.stay(i, request)
            token_ids[i] = request.token_ids[-1]
            positions[i] = n_tokens - 1
            sample_positions[i] = n_tokens
        if self._changing:
            self._samples.update()
        return True
