"""The states of recurrent layers: one fixed-size slot for each request, and copies of it.

No kernel uses them yet.

Where attention keeps every token's keys and values, a recurrent layer keeps one state that each
token overwrites.  So a request cannot go back by forgetting tokens: whoever may have to (drafts to
verify, a prompt that others begin with) takes a snapshot first and rolls back to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyroclast.errors import MemoryBudgetError

if TYPE_CHECKING:
    from pyroclast_kernels.memory import Memory


@dataclass(frozen=True)
class StateSpec:
    """One state array of a layer, for one request."""

    shape: tuple[int, ...]
    dtype: Any = np.float32

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)


class StateCache:
    """`states[layer][i]`: (n_slots, *shape) as `specs[layer][i]` says, read and written in place by
    kernels.  A layer without a state has no specs and costs nothing.

    A slot has one owner or more.  Only a slot with one owner may be written: a step, `zero` and
    `roll_back` need one, and `writable` makes one of a shared slot."""

    def __init__(self, specs: Sequence[Sequence[StateSpec]], n_slots: int, memory: Memory) -> None:
        if n_slots < 1:
            raise MemoryBudgetError(f"the state cache needs at least one slot, got {n_slots}")
        self.n_slots = n_slots
        self.slot_bytes = sum(spec.n_bytes for layer in specs for spec in layer)
        self.states = [
            [memory.zeros((n_slots, *spec.shape), spec.dtype) for spec in layer] for layer in specs
        ]
        self._arrays = [array for layer in self.states for array in layer]
        self._free = list(range(n_slots - 1, -1, -1))
        self._n_owners = [0] * n_slots

    @property
    def n_free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """A slot with one owner, all zero: the state before a request's first token.  Ask
        `n_free` first."""
        slot = self._pop()
        self.zero([slot])
        return slot

    def share(self, slot: int) -> None:
        """Adds an owner."""
        assert self._n_owners[slot] > 0, "a free slot cannot be shared"
        self._n_owners[slot] += 1

    def writable(self, slot: int) -> int:
        """For one of the owners of `slot`: the slot itself if there is no other, else a copy that
        it owns instead.  The copy needs a free slot."""
        if self._n_owners[slot] == 1:
            return slot
        copy = self.snapshot(slot)
        self.give_back(slot)
        return copy

    def snapshot(self, slot: int) -> int:
        """A new slot with one owner that holds the same bits.  Ask `n_free` first."""
        assert self._n_owners[slot] > 0, "a free slot has no state"
        copy = self._pop()
        self._copy(slot, copy)
        return copy

    def roll_back(self, slot: int, snapshot: int) -> None:
        """`slot` holds the bits of `snapshot` again, which stays as it is."""
        assert self._n_owners[snapshot] > 0, "the snapshot was given back"
        self._check_writable(slot)
        self._copy(snapshot, slot)

    def give_back(self, slot: int) -> bool:
        """Takes one owner from `slot`; whether that was the last."""
        assert self._n_owners[slot] > 0, "slot given back twice"
        self._n_owners[slot] -= 1
        if self._n_owners[slot]:
            return False
        self._free.append(slot)
        return True

    def zero(self, slots: Iterable[int]) -> None:
        """The state before a request's first token; also forgets a NaN."""
        for slot in slots:
            self._check_writable(slot)
            for array in self._arrays:
                array[slot] = 0

    def _pop(self) -> int:
        assert self._free, "no slot is free"
        slot = self._free.pop()
        self._n_owners[slot] = 1
        return slot

    def _check_writable(self, slot: int) -> None:
        assert self._n_owners[slot] == 1, "only a slot with one owner may be written"

    def _copy(self, source: int, target: int) -> None:
        for array in self._arrays:
            array[target] = array[source]
