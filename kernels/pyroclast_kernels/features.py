"""Detects what this machine offers: instruction sets and threads.  No other module asks.

PYROCLAST_MAX_ISA=LEVEL, a key of LEVEL_FLAGS, caps them, to test what an older CPU would run.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

from pyroclast_kernels import cgroups
from pyroclast_kernels.errors import KernelError

_V3 = ("avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm")  # Linux calls LZCNT abm
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
# Best first.  A level's shared object is opened only if the CPU has every flag (as Linux spells
# them, which it does only if the operating system saves the registers as well).
LEVEL_FLAGS: dict[str, tuple[str, ...]] = {
    "avx512vnni": (*_V4, "avx512_vnni", "avx512_bf16", "avx512vbmi", "avx512_vbmi2"),  # Zen 4
    "avx512int8": (*_V4, "avx512_vnni"),  # Cascade Lake, Ice Lake
    "avx512": _V4,  # Skylake-X
    "avxvnni": (*_V3, "avx_vnni"),  # Alder Lake and later, without AVX-512
    "avx2": _V3,
    "baseline": ("sse4_2", "ssse3", "popcnt", "cx16"),
}


@cache
def _cpuinfo(field: str) -> str:
    """What /proc/cpuinfo says of the first CPU; empty where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


@cache
def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags, as in /proc/cpuinfo; empty where that cannot be read."""
    return frozenset(_cpuinfo("flags").split())


def cpu_name() -> str:
    """The CPU's model name, for reports."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def has_fast_bf16_dot() -> bool:
    """Whether the dot product of bfloat16 pairs beats float32 multiply-adds.

    By vendor, since a measurement at load would let noise decide which bits a model gives.  AMD
    (Zen 4 on) does twice as many products a cycle.  On an Intel server CPU (Emerald Rapids) it was
    slower than multiply-adds, of which that CPU starts two a cycle.
    """
    return _cpuinfo("vendor_id") == "AuthenticAMD"


def max_isa() -> str:
    """The best level that may be used: all of them unless PYROCLAST_MAX_ISA says otherwise."""
    levels = list(LEVEL_FLAGS)
    wanted = os.environ.get("PYROCLAST_MAX_ISA", levels[0])
    if wanted not in levels:
        raise KernelError(f"PYROCLAST_MAX_ISA must be one of {', '.join(levels)}, got {wanted!r}")
    return wanted


def why_not(level: str) -> str:
    """Why this machine cannot run `level`; empty if it can."""
    levels = list(LEVEL_FLAGS)
    if levels.index(level) < levels.index(max_isa()):
        return f"PYROCLAST_MAX_ISA={max_isa()} excludes it"
    if platform.machine() not in ("x86_64", "AMD64"):
        return "" if level == "baseline" else f"needs an x86-64 CPU, this is {platform.machine()}"
    missing = [flag for flag in LEVEL_FLAGS[level] if flag not in cpu_flags()]
    return f"this CPU lacks {', '.join(missing)}" if missing else ""


def n_cpus() -> int:
    """How many threads are worth starting: the affinity mask, or a cgroup's quota if lower."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, cgroups.cpu_quota() or allowed))
