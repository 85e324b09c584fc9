"""Detects what this machine offers: instruction sets and threads.  No other module asks.

PYROCLAST_MAX_ISA=LEVEL, a key of LEVEL_FLAGS, caps them, to test what an older CPU would run.
"""

from __future__ import annotations

import ctypes
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
_X86_64: dict[str, tuple[str, ...]] = {
    "avx512vnni": (*_V4, "avx512_vnni", "avx512_bf16", "avx512vbmi", "avx512_vbmi2"),  # Zen 4
    "avx512int8": (*_V4, "avx512_vnni"),  # Cascade Lake, Ice Lake
    "avx512": _V4,  # Skylake-X
    "avxvnni": (*_V3, "avx_vnni"),  # Alder Lake and later, without AVX-512
    "avx2": _V3,
    "baseline": ("sse4_2", "ssse3", "popcnt", "cx16"),
}
_ARMV8_2 = ("crc32", "atomics", "asimdrdm", "asimddp")
_AARCH64: dict[str, tuple[str, ...]] = {
    "i8mm": (*_ARMV8_2, "i8mm"),
    "dotprod": _ARMV8_2,
    "baseline": (),  # NEON is a part of aarch64
}
# Bits of the words AT_HWCAP and AT_HWCAP2, which Linux hands to every process (asm/hwcap.h).
_HWCAP = {"crc32": 7, "atomics": 8, "asimdrdm": 12, "asimddp": 20}
_HWCAP2 = {"i8mm": 13}
_AT_HWCAP, _AT_HWCAP2 = 16, 26

# Marked variants that need more than the level in whose build they are: the flags of the CPU.
_BESIDE_LEVEL = {"amxbf16": ("amx_tile", "amx_bf16")}
# What a process asks Linux for before it may use AMX's registers (asm/prctl.h, asm/fpu/types.h).
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILE_DATA = 158, 0x1023, 18

_IS_X86_64 = platform.machine() in ("x86_64", "AMD64")
_IS_AARCH64 = platform.machine() in ("aarch64", "arm64")
# The levels that this machine's kind of CPU may have.
LEVEL_FLAGS: dict[str, tuple[str, ...]] = (
    _X86_64 if _IS_X86_64 else _AARCH64 if _IS_AARCH64 else {"baseline": ()}
)


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
    """The CPU's feature flags, as Linux names them: of x86-64 those in /proc/cpuinfo, of aarch64
    those that LEVEL_FLAGS names; empty where there is no way to ask."""
    return _arm_flags() if _IS_AARCH64 else frozenset(_cpuinfo("flags").split())


def _arm_flags() -> frozenset[str]:
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except AttributeError:  # not Linux
        return frozenset()
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    words = ((_HWCAP, getauxval(_AT_HWCAP)), (_HWCAP2, getauxval(_AT_HWCAP2)))
    return frozenset(name for bits, word in words for name, bit in bits.items() if word >> bit & 1)


def cpu_name() -> str:
    """The CPU's model name, for reports; of aarch64 the numbers of its maker and model."""
    model = _cpuinfo("model name") or platform.processor() or platform.machine()
    numbers = [_cpuinfo("CPU implementer"), _cpuinfo("CPU part")] if _IS_AARCH64 else []
    return " ".join((model, *filter(None, numbers)))


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


def bit_group(level: str) -> str:
    """The variants whose bits those of `level` have: "baseline" where a multiply-add rounds twice,
    else "fma"."""
    return "baseline" if level == "baseline" and not _IS_AARCH64 else "fma"


def why_not(level: str) -> str:
    """Why this machine cannot run `level`; empty if it can."""
    levels = list(LEVEL_FLAGS)
    if level not in levels:
        wanted = "an x86-64 CPU" if level in _X86_64 else "an aarch64 CPU"
        return f"needs {wanted}, this is {platform.machine()}"
    if levels.index(level) < levels.index(max_isa()):
        return f"PYROCLAST_MAX_ISA={max_isa()} excludes it"
    missing = [flag for flag in LEVEL_FLAGS[level] if flag not in cpu_flags()]
    return f"this CPU lacks {', '.join(missing)}" if missing else ""


@cache
def why_not_beside_level(mark: str) -> str:
    """Why this machine cannot run the variants of that mark, where its level runs; empty if it can.

    Linux saves the 8 KiB of AMX's registers only for processes that asked to use them.  It says no
    where a signal handler's stack could not hold them.
    """
    if mark not in _BESIDE_LEVEL:
        return ""
    missing = [flag for flag in _BESIDE_LEVEL[mark] if flag not in cpu_flags()]
    if missing:
        return f"this CPU lacks {', '.join(missing)}"
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    if syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILE_DATA) == 0:
        return ""
    return f"the system does not lend AMX's registers: {os.strerror(ctypes.get_errno())}"


def n_cpus() -> int:
    """How many threads are worth starting: the affinity mask, or a cgroup's quota if lower."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, cgroups.cpu_quota() or allowed))
