"""The state cache, driven by a recurrence that depends on every token and on their order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from pyroclast.errors import MemoryBudgetError
from pyroclast.model.state_cache import StateCache, StateSpec
from pyroclast_kernels.memory import CountingMemory, HostMemory

# A model of three layers: a recurrent one with two states, attention, and another recurrent one.
SPECS = [[StateSpec((2, 3)), StateSpec((4,), np.float16)], [], [StateSpec((5,), np.uint64)]]


def make(n_slots: int = 4) -> StateCache:
    return StateCache(SPECS, n_slots, HostMemory())


def read(cache: StateCache, slot: int, token_ids: Sequence[int]) -> None:
    """What a step of a recurrent model does to the slot."""
    for token_id in token_ids:
        with np.errstate(over="ignore"):
            for layer in cache.states:
                for state in layer:
                    state[slot] = state[slot] * state.dtype.type(3) + state.dtype.type(token_id)


def bits(cache: StateCache, slot: int) -> bytes:
    return b"".join(state[slot].tobytes() for layer in cache.states for state in layer)


def expected(token_ids: Sequence[int]) -> bytes:
    """The bits of a text that was read alone."""
    cache = make(1)
    slot = cache.take()
    read(cache, slot, token_ids)
    return bits(cache, slot)


def test_a_slot_has_the_shapes_and_bytes_of_its_specs() -> None:
    cache = make(n_slots=3)
    assert [[state.shape for state in layer] for layer in cache.states] == [
        [(3, 2, 3), (3, 4)], [], [(3, 5)]
    ]  # fmt: skip
    assert cache.slot_bytes == 4 * 6 + 2 * 4 + 8 * 5 == len(bits(cache, 0))
    memory = CountingMemory(on_gpu=False)
    StateCache(SPECS, 3, memory)
    assert memory.n_bytes == 3 * cache.slot_bytes


def test_a_model_without_recurrent_layers_pays_nothing() -> None:
    memory = CountingMemory(on_gpu=False)
    cache = StateCache([[], []], 64, memory)
    assert (memory.n_bytes, cache.slot_bytes) == (0, 0)
    cache.give_back(cache.take())


def test_texts_side_by_side_do_not_mix() -> None:
    cache = make()
    a, b = cache.take(), cache.take()
    for x, y in zip((1, 2, 3), (7, 8, 9), strict=True):
        read(cache, a, [x])
        read(cache, b, [y])
    assert (bits(cache, a), bits(cache, b)) == (expected([1, 2, 3]), expected([7, 8, 9]))


def test_a_slot_begins_at_zero_whatever_it_held() -> None:
    cache = make(1)
    slot = cache.take()
    for state in cache.states[0]:
        state[slot] = np.nan
    assert cache.give_back(slot)
    assert cache.take() == slot
    assert bits(cache, slot) == bytes(cache.slot_bytes)


def test_rolling_back_restores_every_bit() -> None:
    cache = make()
    slot = cache.take()
    read(cache, slot, [5, 6])
    snapshot = cache.snapshot(slot)
    for drafts in ([1, 2], [3]):  # rejected twice
        read(cache, slot, drafts)
        assert bits(cache, slot) == expected([5, 6, *drafts])
        cache.roll_back(slot, snapshot)
        assert bits(cache, slot) == bits(cache, snapshot) == expected([5, 6])
    read(cache, slot, [9])
    assert (bits(cache, slot), bits(cache, snapshot)) == (expected([5, 6, 9]), expected([5, 6]))


def test_a_shared_slot_is_copied_before_it_is_written() -> None:
    cache = make()
    slot = cache.take()
    read(cache, slot, [1, 2])
    cache.share(slot)  # a second text with the same beginning
    other = cache.writable(slot)
    assert other != slot and cache.writable(slot) == slot
    read(cache, other, [3])
    read(cache, slot, [4])
    assert (bits(cache, other), bits(cache, slot)) == (expected([1, 2, 3]), expected([1, 2, 4]))
    assert cache.n_free == 2


def test_a_slot_is_free_only_after_its_last_owner() -> None:
    cache = make(2)
    slot = cache.take()
    cache.share(slot)
    assert not cache.give_back(slot)
    assert cache.n_free == 1
    assert cache.give_back(slot)
    assert cache.n_free == 2


def test_zero_forgets() -> None:
    cache = make()
    slot, other = cache.take(), cache.take()
    read(cache, slot, [1])
    read(cache, other, [2])
    cache.zero([slot])
    assert (bits(cache, slot), bits(cache, other)) == (bytes(cache.slot_bytes), expected([2]))


def test_misuse_is_caught() -> None:
    cache = make(2)
    slot = cache.take()
    snapshot = cache.snapshot(slot)
    with pytest.raises(AssertionError, match="no slot is free"):
        cache.take()
    cache.share(slot)
    for write in (lambda: cache.zero([slot]), lambda: cache.roll_back(slot, snapshot)):
        with pytest.raises(AssertionError, match="one owner"):
            write()
    cache.give_back(slot)
    cache.give_back(snapshot)
    for use in (cache.share, cache.give_back, cache.snapshot):
        with pytest.raises(AssertionError):
            use(snapshot)
    with pytest.raises(AssertionError, match="snapshot was given back"):
        cache.roll_back(slot, snapshot)
    with pytest.raises(MemoryBudgetError, match="at least one slot, got 0"):
        make(0)


def test_random_operations_keep_every_text() -> None:
    """2,000 operations against the tokens that each owner has read."""
    rng, cache = random.Random(3), make(6)
    owners: list[tuple[int, list[int]]] = []  # (slot, the text it stands for)
    known: dict[tuple[int, ...], bytes] = {}
    for _ in range(2000):
        name = rng.choice(["take", "read", "share", "snapshot", "roll_back", "give_back"])
        if name == "take" and cache.n_free:
            owners.append((cache.take(), []))
        elif not owners:
            continue
        i = rng.randrange(len(owners))
        slot, text = owners[i]
        n_owners = sum(slot == s for s, _ in owners)
        if name == "read" and len(text) < 20 and (cache.n_free or n_owners == 1):
            slot = cache.writable(slot)
            token_id = rng.randrange(100)
            read(cache, slot, [token_id])
            owners[i] = slot, [*text, token_id]
        elif name == "share" and len(owners) < 12:
            cache.share(slot)
            owners.append((slot, text))
        elif name == "snapshot" and cache.n_free:
            owners.append((cache.snapshot(slot), text))
        elif name == "roll_back":
            other, other_text = rng.choice(owners)
            if sum(other == s for s, _ in owners) == 1:
                cache.roll_back(other, slot)
                owners[owners.index((other, other_text))] = other, text
        elif name == "give_back":
            owners.pop(i)
            assert cache.give_back(slot) == (slot not in {s for s, _ in owners})
        assert cache.n_free == 6 - len({s for s, _ in owners})
        for slot, text in owners:
            key = tuple(text)
            known[key] = known.get(key) or expected(text)
            assert bits(cache, slot) == known[key]
