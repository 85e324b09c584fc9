"""Runs the level avxvnni on the case lists and compares its bits with those of avx2; prints JSON.

    python tests/emulated/avx_vnni.py LIBRARY MAX_FLOPS

LIBRARY is avx_vnni.cpp, compiled: where the CPU lacks the instruction, it is emulated.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

from pyroclast_kernels import features
from pyroclast_kernels.cases import Case, op_cases
from pyroclast_kernels.program import Program, Recorder, make_executor
from pyroclast_kernels.registry import PARTIAL_LEVELS, cpp_kernels
from pyroclast_kernels.selection import Selection


def outputs(case: Case, variant: str, executor: Any) -> list[bytes | None]:
    arguments = case.make()
    recorder = Recorder(Selection(f"{case.op}.{case.format}={variant}"))
    recorder.call(case.op, case.format, **arguments)
    Program(recorder.calls, executor).run()
    found = (arguments[name] for name in case.outputs)
    return [None if each is None else each.tobytes() for each in found]


def compare(max_flops: int) -> dict[str, Any]:
    """The cases of at most that many operations: how many of each op, and which differ."""
    executor = make_executor(2)
    formats = {key for key in cpp_kernels("avxvnni")[0] if "." in key}
    n_cases: dict[str, int] = {}
    different = []
    for op in PARTIAL_LEVELS["avxvnni"]:
        for case in op_cases(op):
            if f"{op}.{case.format}" not in formats or case.flops > max_flops:
                continue
            n_cases[f"{op}.{case.format}"] = n_cases.get(f"{op}.{case.format}", 0) + 1
            level, avx2 = (outputs(case, f"cpp-{name}", executor) for name in ("avxvnni", "avx2"))
            if level != avx2:
                different.append(str(case))
    return {"n_cases": n_cases, "different": different, "built": sorted(formats)}


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    native = not features.why_not("avxvnni")
    if not native:
        assert library.install() == 0
        flags = features.cpu_flags() | {"avx_vnni"}
        features.cpu_flags = lambda: flags  # type: ignore[assignment]
    print(json.dumps({**compare(int(sys.argv[2])), "native": native,
                      "n_emulated": library.n_emulated()}))  # fmt: skip


if __name__ == "__main__":
    main()
