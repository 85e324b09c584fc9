"""Records calls of kernels for replay.cpp: each case of an op's list, and what a level gives.

    PYTHONPATH=engine:kernels python tests/emulated/record.py --level avx2 --out FILE [--ops ...]

The file, numbers int64: for each call the length of its title, the title ("op.format name"), the
number of arguments, and each argument: 0 and a number (or the bits of a double), 1, a size and
the bytes of an array, or 2 and the same for an output, followed by the bytes that it must hold
after the call.  A length of 0 ends the file.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pyroclast_kernels.cases import Case, op_cases
from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.registry import PARTIAL_LEVELS
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.weights.packing import PackedWeight


def record(out: BinaryIO, ops: Iterable[str], level: str, max_flops: int) -> int:
    """Writes the cases of the ops of at most max_flops that the level takes; how many."""
    n_calls = 0
    for op in ops:
        for case in op_cases(op):
            if case.flops <= max_flops:
                out.write(_call(case, level))
                n_calls += 1
    out.write(_number(0))
    return n_calls


def _call(case: Case, level: str) -> bytes:
    before = case.make()
    after = deepcopy(before)
    recorder = Recorder(Selection(f"{case.op}.{case.format}=cpp-{level}"))
    recorder.call(case.op, case.format, **after)
    Program(recorder.calls).run()
    title = f"{case.op}.{case.format} {case.name}".encode()
    parts = [_number(len(title)), title, _number(len(before))]
    for slot, name in zip(recorder.calls[0].slots, before, strict=True):
        array, result = _array(before[name]), _array(after[name])
        if array is None or result is None:
            parts += [_number(0), _number(int(slot))]
        elif name in case.outputs:
            parts += [_number(2), _number(array.nbytes), array.tobytes(), result.tobytes()]
        else:
            parts += [_number(1), _number(array.nbytes), array.tobytes()]
    return b"".join(parts)


def _array(argument: Any) -> Any:
    """What a kernel reads behind a pointer; None for a number or a pointer to nothing."""
    value = argument.data if isinstance(argument, PackedWeight) else argument
    return value if isinstance(value, np.ndarray) else None


def _number(value: int) -> bytes:
    return struct.pack("<q", value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = sorted({op for ops in PARTIAL_LEVELS.values() for op in ops})
    parser.add_argument("--ops", nargs="+", default=every)
    parser.add_argument("--level", default="avx2", help="what gives the bits")
    parser.add_argument("--max-flops", type=int, default=1 << 62, help="leave out larger cases")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with given.out.open("wb") as out:
        n_calls = record(out, given.ops, given.level, given.max_flops)
    print(f"{n_calls} calls, {given.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
