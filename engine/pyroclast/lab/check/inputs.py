"""Copies of a case's arguments: aligned as in the engine, or guarded on both sides.

Each kernel gets its own copy, so that what it damages is found and does not affect another run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.weights.packing import PackedWeight

Array = NDArray[Any]
Arguments = dict[str, Any]

ALIGN = 64
GUARD_BYTES = 256  # on each side; a faulty kernel writes too far by a vector or a row
_GUARD = 0xA5
# Working memory, where a kernel may leave anything.
SCRATCH = ("scratch", "counters")
_MAX_COPIES = 8192  # more copies of small arguments would take longer to make than to time


@dataclass
class Guarded:
    """Arguments whose arrays lie between guard bytes that must not change."""

    arguments: Arguments
    guards: dict[str, Array] = field(default_factory=dict)

    def broken(self) -> list[str]:
        """Where the guards were overwritten, in words."""
        found = []
        for name, memory in self.guards.items():
            changed = np.flatnonzero(memory[:GUARD_BYTES] != _GUARD)
            if changed.size:
                found.append(f"{name}: byte {int(changed[-1]) - GUARD_BYTES} before its beginning")
            changed = np.flatnonzero(memory[-GUARD_BYTES:] != _GUARD)
            if changed.size:
                found.append(f"{name}: byte {int(changed[0])} after its end")
        return found


def array_of(argument: Any) -> Array | None:
    """The array of an argument; None for a number or a missing argument."""
    value = argument.data if isinstance(argument, PackedWeight) else argument
    return value if isinstance(value, np.ndarray) else None


def guarded(arguments: Arguments) -> Guarded:
    """A copy of all arguments, every array between two guards."""
    out = Guarded({})
    for name, argument in arguments.items():
        array = array_of(argument)
        if array is None:
            out.arguments[name] = argument
            continue
        copy, memory = _between_guards(array)
        out.guards[name] = memory
        out.arguments[name] = _like(argument, copy)
    return out


def _like(argument: Any, array: Array) -> Any:
    if isinstance(argument, PackedWeight):
        return PackedWeight(argument.format, argument.n_rows, argument.n_cols, array)
    return array


def _between_guards(array: Array) -> tuple[Array, Array]:
    """(an aligned copy, the memory from guard to guard)."""
    assert array.flags.c_contiguous, "the arrays of a case have no gaps"
    memory = np.empty(array.nbytes + 2 * GUARD_BYTES + ALIGN, np.uint8)
    start = -(memory.ctypes.data + GUARD_BYTES) % ALIGN
    memory = memory[start : start + array.nbytes + 2 * GUARD_BYTES]
    memory[:GUARD_BYTES] = memory[GUARD_BYTES + array.nbytes :] = _GUARD
    copy = memory[GUARD_BYTES : GUARD_BYTES + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy, memory


def copy_of(arguments: Arguments) -> Arguments:
    """Copies as the engine allocates them: weights on huge pages, other arrays aligned.  Working
    memory is not copied; the engine's calls share it too."""
    return {name: _copy(name, argument) for name, argument in arguments.items()}


def _copy(name: str, argument: Any) -> Any:
    if isinstance(argument, PackedWeight):
        weight = PackedWeight.empty(argument.format, argument.n_rows, argument.n_cols)
        weight.data[...] = argument.data
        return weight
    if name in SCRATCH or not isinstance(argument, np.ndarray):
        return argument
    memory = np.empty(argument.nbytes + ALIGN, np.uint8)
    start = -memory.ctypes.data % ALIGN
    copy = memory[start : start + argument.nbytes].view(argument.dtype).reshape(argument.shape)
    copy[...] = argument
    return copy


def n_bytes(arguments: Arguments) -> int:
    """The bytes of all arrays except working memory."""
    arrays = (array_of(a) for name, a in arguments.items() if name not in SCRATCH)
    return sum(array.nbytes for array in arrays if array is not None)


def n_copies(arguments: Arguments, wanted_bytes: int) -> int:
    """How many copies make up wanted_bytes: at least two, at most _MAX_COPIES."""
    return min(max(2, -(-wanted_bytes // max(1, n_bytes(arguments)))), _MAX_COPIES)


def cache_bytes() -> int:
    """The size of the largest cache, at least 32 MiB."""
    sizes = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.endswith("K") and text[:-1].isdecimal():
            sizes.append(int(text[:-1]) << 10)
    return max(sizes)
