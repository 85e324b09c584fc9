"""The states of recurrent layers: storage for every layer, one fixed-size slot for each text.

Where attention keeps every token's keys and values, a recurrent layer keeps one state that each
token changes.  Slots are handed out by `pyroclast.engine.state_slots.StateSlots`, which has no
arrays.  A step reads a sequence's state in one slot and writes it, after any of its tokens, into
another, so a state that somebody may go back to is kept by not writing to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pyroclast.families.config import ModelConfig
from pyroclast.families.recurrent import GatedDeltaSpec, Mamba2Spec, RecurrentSpec
from pyroclast_kernels import delta_rule, ssm

if TYPE_CHECKING:
    from pyroclast_kernels.batch import Batch
    from pyroclast_kernels.memory import Memory

# Slots that hold the beginnings of texts for later requests, beside those of requests that run.
_SNAPSHOTS = 32
_ITEM_BYTES = 4


def state_bytes(config: ModelConfig) -> int:
    """Bytes of one slot over all layers; 0 for a model without recurrent layers and without a head
    that predicts further tokens."""
    mixers = [spec.recurrent for spec in config.layers if spec.recurrent is not None]
    n_values = sum(math.prod(shape) for mixer in mixers for shape in state_shapes(mixer))
    return _ITEM_BYTES * (n_values + (0 if config.draft_layer is None else config.d_model))


def state_shapes(mixer: RecurrentSpec) -> list[tuple[int, ...]]:
    """What a layer keeps for a text: the last inputs of its convolution, and a matrix for each
    head."""
    found: list[tuple[int, ...]] = [(mixer.kernel - 1, mixer.n_channels)]
    if isinstance(mixer, GatedDeltaSpec):
        found.append(delta_rule.state_shape(mixer.n_v_heads, mixer.k_head_dim, mixer.v_head_dim))
    if isinstance(mixer, Mamba2Spec):
        found.append(ssm.state_shape(mixer.n_heads, mixer.d_state, mixer.head_dim))
    return found


def choose_n_slots(config: ModelConfig, max_seqs: int, room_bytes: int) -> int:
    """How many slots: for max_seqs sequences, two each (a step writes into another slot than it
    reads), and for the beginnings of texts; fewer where they would take more than a quarter of
    room_bytes, but enough for one sequence."""
    if not (size := state_bytes(config)):
        return 0
    return max(MIN_SLOTS, min(2 * max_seqs + _SNAPSHOTS, room_bytes // 4 // size))


MIN_SLOTS = 3


class StateCache:
    """`states[layer]`: float32 arrays (n_slots, *shape) as the mixer's spec says, read and written
    in place by kernels.  A layer without a state has none, and costs nothing.

    With a head that predicts further tokens there is one layer more: what its product makes of a
    text's last state, (n_slots + n_drafting, 1, d_model).  The rows behind the slots are those of
    the n_drafting texts for which it goes on by itself."""

    def __init__(
        self, config: ModelConfig, n_slots: int, memory: Memory, n_drafting: int = 0
    ) -> None:
        self.n_slots = n_slots
        self.states: list[list[Any]] = [
            []
            if spec.recurrent is None
            else [memory.zeros((n_slots, *s), np.float32) for s in state_shapes(spec.recurrent)]
            for spec in config.layers
        ]
        if config.draft_layer is not None:
            n_rows = n_slots + n_drafting
            self.states.append([memory.zeros((n_rows, 1, config.d_model), np.float32)])
        self.n_bytes = n_slots * state_bytes(config)

    def slot_arrays(self, slot: int) -> list[Any]:
        """What a slot holds, as views of one piece each."""
        return [array[slot] for layer in self.states for array in layer]

    @contextmanager
    def kept(self, batch: Batch, memory: Memory) -> Iterator[None]:
        """Puts back the states that the step in the batch writes where it reads them: whoever runs
        it once more must not have its tokens read twice."""
        read = batch.slots_in[: batch.n_seqs].tolist()
        written = batch.slots_out[batch.seq_starts[1 : batch.n_seqs + 1] - 1].tolist()
        slots = [slot for slot in {*read} & {*written} if slot >= 0] if self.n_slots else []
        arrays = [array for slot in slots for array in self.slot_arrays(slot)]
        saved = [memory.to_host(array, array.shape[0]).copy() for array in arrays]
        try:
            yield
        finally:
            for array, before in zip(arrays, saved, strict=True):
                memory.refill(array, before)
