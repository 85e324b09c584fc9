"""One ragged step: the new tokens of any number of sequences, side by side.

The arrays are allocated once; a step program reads them by address, so the caller refills them in
place.  A sequence's tokens are adjacent and in rising position.  No padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyroclast_kernels.memory import HostMemory

if TYPE_CHECKING:
    from pyroclast_kernels.memory import Memory


class Batch:
    """token_ids, positions, seq_index int32 (max_batch_tokens,): seq_index is the token's row of
    block_tables.  seq_starts int32 (max_seqs + 1,): sequence i owns tokens [starts[i],
    starts[i + 1]).  block_tables int32 (max_seqs, max_blocks).  logit_rows int32 (max_logits,):
    the tokens whose logits are wanted.  slots_in int32 (max_seqs,), slots_out int32
    (max_batch_tokens,): where recurrent layers read a sequence's state (negative: zeros), and where
    they write it after a token (negative: nowhere).  n_tokens, n_seqs, n_logits: how much of each
    is used.
    All are NumPy arrays of `memory`; without one, of the host's.
    """

    def __init__(
        self,
        max_batch_tokens: int,
        max_seqs: int,
        max_blocks: int,
        max_logits: int,
        memory: Memory | None = None,
    ) -> None:
        memory = memory or HostMemory()
        self.max_batch_tokens, self.max_seqs = max_batch_tokens, max_seqs
        self.max_blocks, self.max_logits = max_blocks, max_logits
        # Each count on a cache line of its own would gain nothing: they change once per step.
        self.counts = memory.inputs((3,), np.int64)
        self.token_ids = memory.inputs((max_batch_tokens,), np.int32)
        self.positions = memory.inputs((max_batch_tokens,), np.int32)
        self.seq_index = memory.inputs((max_batch_tokens,), np.int32)
        self.seq_starts = memory.inputs((max_seqs + 1,), np.int32)
        self.block_tables = memory.table((max_seqs, max_blocks), np.int32)
        self.logit_rows = memory.inputs((max_logits,), np.int32)
        self.slots_in = memory.inputs((max_seqs,), np.int32)
        self.slots_out = memory.inputs((max_batch_tokens,), np.int32)
        # Views of one element each: what kernels take as a pointer to a count.
        self.n_tokens_at = self.counts[0:1]
        self.n_seqs_at = self.counts[1:2]
        self.n_logits_at = self.counts[2:3]

    @property
    def n_tokens(self) -> int:
        return int(self.counts[0])

    @property
    def n_seqs(self) -> int:
        return int(self.counts[1])

    @property
    def n_logits(self) -> int:
        return int(self.counts[2])

    def keep_states(self, slots: Sequence[int]) -> None:
        """For those who run steps by hand: sequence i of the step has its state in slots[i], where
        the step reads it, unless it begins at position 0, and leaves it behind its last token."""
        self.slots_out[: self.n_tokens] = -1
        for i, slot in enumerate(slots):
            first, end = self.seq_starts[i : i + 2]
            self.slots_in[i] = slot if self.positions[first] else -1
            self.slots_out[end - 1] = slot
