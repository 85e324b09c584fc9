"""The arrays of the state cache: what a slot holds, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyroclast.checkpoint.dummy_shapes import SHAPES
from pyroclast.families.config import ModelConfig
from pyroclast.families.recurrent import GatedDeltaSpec, ShortConvSpec
from pyroclast.families.registry import config_of
from pyroclast.model.kv_cache import block_bytes
from pyroclast.model.state_cache import StateCache, choose_n_slots, state_bytes
from pyroclast_kernels.memory import CountingMemory, HostMemory


def dense() -> ModelConfig:
    return config_of(replace(SHAPES["smollm2-135m"], n_layers=3))


def hybrid() -> ModelConfig:
    """A short convolution, attention, and a gated delta rule."""
    first, attention, last = dense().layers
    delta = GatedDeltaSpec(2, 4, 8, 16, 4, 1e-6)
    mixers = replace(first, mixer=ShortConvSpec(6, 3)), attention, replace(last, mixer=delta)
    return replace(dense(), layers=mixers)


def test_a_slot_has_the_shapes_and_bytes_of_the_layers() -> None:
    cache = StateCache(hybrid(), 5, HostMemory())
    assert [[array.shape for array in layer] for layer in cache.states] == [
        [(5, 2, 6)], [], [(5, 3, 96), (5, 4, 1, 8, 32)]
    ]  # fmt: skip
    assert state_bytes(hybrid()) == 4 * (12 + 3 * 96 + 4 * 8 * 32)
    assert cache.n_bytes == 5 * state_bytes(hybrid())
    assert sum(array.nbytes for array in cache.slot_arrays(2)) == state_bytes(hybrid())
    cache.slot_arrays(2)[0][:] = 7
    assert (cache.states[0][0][2] == 7).all() and not cache.states[0][0][1].any()
    memory = CountingMemory(on_gpu=False)
    StateCache(hybrid(), 5, memory)
    assert memory.n_bytes == cache.n_bytes
    assert {array.dtype for array in cache.slot_arrays(0)} == {np.dtype(np.float32)}


def test_a_model_without_recurrent_layers_pays_nothing() -> None:
    assert (state_bytes(dense()), choose_n_slots(dense(), 64, 1 << 40)) == (0, 0)
    memory = CountingMemory(on_gpu=False)
    assert StateCache(dense(), 0, memory).n_bytes == memory.n_bytes == 0


def test_recurrent_layers_take_no_cache_blocks() -> None:
    assert block_bytes(hybrid(), "f16") == block_bytes(dense(), "f16") // 3


def test_slots_stay_within_a_quarter_of_the_memory() -> None:
    size = state_bytes(hybrid())
    assert choose_n_slots(hybrid(), 64, 1 << 40) == 2 * 64 + 32
    assert choose_n_slots(hybrid(), 64, 4 * 50 * size) == 50
    assert choose_n_slots(hybrid(), 64, 0) == 3  # one request, and one slot to spare
