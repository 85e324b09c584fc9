"""Compiles every Triton kernel for a GPU that is not there, and says what the assembler made of it.

    python tests/gpu/compile_sm90.py [--op matmul,...] [--format q8_0,...] [--arch 90] [--bench]

Runs each launch of the case lists (--bench: of the benchmarks' shapes), and those of neighbouring
calls in one kernel (--op fused), with a driver that compiles and launches nothing.  One line a
kernel and specialization: registers, bytes of stack and shared memory, and whether it has
tensor-core instructions.  Exits with 1 if one does not compile, or takes more shared memory than a
multiprocessor of that architecture can give.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10}
_TENSOR = r"wgmma\.mma_async\.\S+|mma\.sync\.\S+|dp4a\.\S+"


@dataclass(frozen=True)
class Compiled:
    """One kernel as it would be loaded."""

    name: str
    warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    tensor: str  # the shapes of its matrix instructions

    def __str__(self) -> str:
        return (
            f"{self.name:<28} {self.warps:>2} warps {self.registers:>4} registers "
            f"{self.stack_bytes:>5} B stack {self.shared_bytes >> 10:>4} KiB shared  {self.tensor}"
        )


class _Driver:
    """What Triton asks of a driver up to the point where a kernel would be loaded."""

    def __init__(self, arch: int) -> None:
        self._arch = arch

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


@cache
def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _measured(kernel: Any) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [_tool("cuobjdump"), "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    numbers = {key: int(n) for key, n in re.findall(r"(REG|STACK):(\d+)", text)}
    kinds = {re.sub(r".*\.(m\d+n\d+k\d+).*", r"\1", i) + ("" if "wgmma" in i else " (mma)")
             for i in re.findall(_TENSOR, kernel.asm["ptx"])}  # fmt: skip
    return Compiled(
        kernel.metadata.name,
        kernel.metadata.num_warps,
        numbers["REG"],
        numbers["STACK"],
        kernel.metadata.shared,
        " ".join(sorted(kinds)),
    )


def without_a_gpu(arch: int) -> list[Any]:
    """From now on kernels are compiled for `arch` and not launched; the list grows by each."""
    import torch
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from pyroclast_kernels.triton import device as triton_device

    found: dict[int, Any] = {}
    compiled: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        if id(kernel) not in found:
            found[id(kernel)] = kernel
            compiled.append(kernel)
        return kernel

    JITFunction.run = compile_only
    driver.set_active(_Driver(arch))
    triton_device.why_not = lambda: ""
    triton_device.device = lambda: torch.device("cpu")
    triton_device.SCRATCH_BYTES = 1 << 20
    return compiled


def _fused(formats: list[str], d_model: int, d_ff: int) -> list[tuple[str, Any]]:
    """(name, launch) of each kernel of gpu/fusion.py, for one token of a model of that size."""
    import torch

    from pyroclast_kernels.attention.cases import _attention
    from pyroclast_kernels.gpu.fusion import FUSIONS
    from pyroclast_kernels.matmul import BLOCK_FORMATS, FORMATS
    from pyroclast_kernels.matmul.cases import bench_weight
    from pyroclast_kernels.rope.cases import Shape
    from pyroclast_kernels.triton.launch import Limits, host_tensor
    from pyroclast_kernels.triton.weights import of_packed

    launch_of = {fusion.ops: fusion.launch for fusion in FUSIONS}
    n_tokens, limits = torch.ones(1, dtype=torch.int64), Limits(1)
    found: list[tuple[str, Any]] = []
    for format in formats or FORMATS:
        blocks, dtype = format in BLOCK_FORMATS, torch.bfloat16 if format == "bf16" else None
        values = None if blocks else torch.zeros(1, d_model, dtype=dtype)
        q8 = torch.zeros(1, d_model // 32, 64, dtype=torch.uint8) if blocks else None
        norm = {"rows": None, "x": torch.zeros(1, d_model), "weight": torch.ones(d_model)}
        norm |= {"out": values, "out_q8": q8, "d_model": d_model, "eps": 1e-5}
        product = {"n_tokens": n_tokens, "x": q8 if blocks else values, "n_cols": d_model}
        product["weight"] = of_packed(bench_weight(format, 2 * d_ff, d_model))
        out = {"out": torch.zeros(1, 2 * d_ff), "n_rows": 2 * d_ff, "out_stride": 2 * d_ff}
        matmul = product | out | {"bias": None, "accumulate": 0}
        gate = {"out": torch.zeros(1, d_ff, dtype=dtype), "out_q8": None, "d_ff": d_ff}
        gate["activation"] = 0
        calls: dict[tuple[str, ...], tuple[Any, ...]] = {("norm", "matmul"): (norm, matmul)}
        if blocks:
            calls[("norm", "gate_up")] = norm, product | gate
        else:
            calls[("matmul", "glu")] = matmul, gate
            calls[("norm", "matmul", "glu")] = norm, matmul, gate
        for ops, given in calls.items():
            name = f"{' + '.join(ops)} of {format}"
            found.append((name, partial(launch_of[ops], limits, *given)))
        for n in (64, 512):
            many = partial(launch_of[("matmul", "glu")], Limits(n), matmul, gate)
            found += [] if blocks else [(f"matmul + glu of {format}, {n} tokens", many)]
    for format in ("f32", "f16", "bf16"):
        made = _attention(Shape(32, 8, 128, ((600, 1),)), format, 0, False)
        tensors = {k: host_tensor(v) if hasattr(v, "dtype") else v for k, v in made.items()}
        rope = {"table": torch.zeros(1, 2, 64), "rotary_dim": 128}
        rope |= {"temperature": 0.0, "temperature_length": 1}
        launch = partial(launch_of[("rope", "attention")], Limits(1, 1, 4096), rope, tensors)
        found.append((f"rope + attention of {format}", launch))
    return found


def compile_all(
    ops: list[str], formats: list[str], arch: int, bench: bool = False
) -> tuple[list[Compiled], list[str]]:
    """(what was compiled, what was not and why)."""
    compiled = without_a_gpu(arch)
    from pyroclast_kernels.cases import bench_cases, op_cases
    from pyroclast_kernels.registry import OP_NAMES
    from pyroclast_kernels.selection import all_variants

    failed = []
    for op in [op for op in ops if op != "fused"] or (() if ops else OP_NAMES):
        for name, variant in all_variants(op).items():
            if variant.launch is None:
                continue
            for case in bench_cases(op) if bench else op_cases(op):
                wanted = case.format in (formats or variant.formats)
                if case.format not in variant.formats or not wanted:
                    continue
                try:
                    variant.bind(case.format)(**case.make())
                except Exception as error:  # noqa: BLE001 -- the next one may compile
                    failed.append(f"{case} of {name}: {type(error).__name__}: {str(error)[:2000]}")
    for name, launch in _fused(formats, 2048, 2048) if not ops or "fused" in ops else ():
        try:
            launch()
        except Exception as error:  # noqa: BLE001
            failed.append(f"{name}: {type(error).__name__}: {str(error)[:2000]}")
    return [_measured(kernel) for kernel in compiled], failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--op", default="")
    parser.add_argument("--format", default="")
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("--bench", action="store_true")
    args = parser.parse_args()
    lists = [[word for word in text.split(",") if word] for text in (args.op, args.format)]
    compiled, failed = compile_all(*lists, args.arch, args.bench)
    lines = sorted(set(map(str, compiled)))
    print("\n".join([*lines, *failed]))
    too_large = [k for k in compiled if k.shared_bytes > SHARED_BYTES.get(args.arch, 99 << 10)]
    for kernel in too_large:
        print(f"too much shared memory: {kernel}")
    print(f"{len(compiled)} kernels for sm_{args.arch}, {len(failed)} failed")
    return bool(failed or too_large or not compiled)


if __name__ == "__main__":
    sys.exit(main())
