"""Every compiled variant of every op under random schedules: a random number of parts, run in
random order by several threads at once, gives the bits of one part."""

from __future__ import annotations

import ctypes
import random
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from kept_cases import made
from pyroclast_kernels.cases import Case, op_cases
from pyroclast_kernels.program import OpCall, Recorder
from pyroclast_kernels.registry import OP_NAMES
from pyroclast_kernels.selection import Selection, all_variants

# Slow: the sanitizers see these kernels and cases in test_kernels.py already.
pytestmark = [pytest.mark.native, pytest.mark.slow]
PAIRS = [
    pytest.param(op, name, id=f"{op}-{name}")
    for op in OP_NAMES
    for name, variant in all_variants(op).items()
    if name != "numpy" and variant.launch is None  # tests/gpu has those
]
# One format of each kind: Numba takes seconds for each, and the loops are the same.
_NUMBA_FORMATS = ("f32", "bf16", "q8_0", "q4_k", "iq4_nl")
MAX_PARTS, MAX_THREADS = 13, 4
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)


@pytest.mark.parametrize(("op", "name"), PAIRS)
def test_any_schedule_of_any_parts_gives_the_same_bits(op: str, name: str) -> None:
    variant = all_variants(op)[name]
    if variant.unavailable:
        pytest.skip(f"{op}={name}: {variant.unavailable}")
    cases = [
        case
        for case in op_cases(op)
        if case.format in variant.formats and (name != "numba" or case.format in _NUMBA_FORMATS)
    ]
    assert cases
    for case in cases:
        want = bits_after(case, name, made(case), 1, in_order)
        chance = random.Random(zlib.crc32(f"{name} {case}".encode()))
        n_parts = chance.randint(2, MAX_PARTS)
        schedule = on_threads(chance)
        got = bits_after(case, name, made(case), n_parts, schedule)
        assert got == want, f"{case} in {n_parts} parts"


Part = Callable[[int], None]


def bits_after(
    case: Case,
    name: str,
    arguments: dict[str, Any],
    n_parts: int,
    schedule: Callable[[Part, int], None],
) -> list[bytes | None]:
    """The outputs after the schedule has run every part of the case's call once."""
    recorder = Recorder(Selection(f"{case.op}.{case.format}={name}"))
    recorder.call(case.op, case.format, **arguments)
    [call] = recorder.calls
    assert call.kernel.variant == name
    schedule(part_of(call, n_parts), n_parts)
    return [bits(arguments[output]) for output in case.outputs]


def part_of(call: OpCall, n_parts: int) -> Part:
    """A function that runs one part of n_parts, without the GIL while it does."""
    if call.kernel.function is not None:
        pytest.skip(f"{call.kernel.variant} is a Python function, which has no parts")
    kernel, slots = _KERNEL(call.kernel.address), call.slots.ctypes.data
    return lambda part: kernel(slots, part, n_parts)


def in_order(run: Part, n_parts: int) -> None:
    for part in range(n_parts):
        run(part)


def on_threads(chance: random.Random) -> Callable[[Part, int], None]:
    """Threads that begin together; each takes some of the parts, in random order, and is late with
    some of them."""

    def schedule(run: Part, n_parts: int) -> None:
        n_threads = chance.randint(2, MAX_THREADS)
        shares: list[list[tuple[int, float]]] = [[] for _ in range(n_threads)]
        for part in chance.sample(range(n_parts), n_parts):
            shares[chance.randrange(n_threads)].append((part, chance.choice((-1.0, 0.0, 2e-4))))
        start = threading.Barrier(n_threads)

        def take(share: list[tuple[int, float]]) -> None:
            start.wait()
            for part, delay_s in share:
                if delay_s >= 0:  # zero gives the core away
                    time.sleep(delay_s)
                run(part)

        threads = [threading.Thread(target=take, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return schedule


def bits(array: Any) -> bytes | None:
    """An output's bytes; a packed weight's are its data's."""
    if array is None:
        return None
    return bytes(array.data.tobytes()) if hasattr(array, "n_bytes") else bytes(array.tobytes())


def test_a_schedule_runs_every_part_once_and_out_of_order() -> None:
    seen: list[int] = []
    on_threads(random.Random(1))(seen.append, MAX_PARTS)
    assert sorted(seen) == list(range(MAX_PARTS))
    assert seen != sorted(seen)
