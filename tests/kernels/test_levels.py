"""Instruction-set levels: who gets which, what partial ones hold, and bits under emulation."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyroclast_kernels
from pyroclast_kernels import features, selection
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.native import compile as native_compile
from pyroclast_kernels.registry import OP_NAMES, PARTIAL_LEVELS, cpp_kernels, get_op
from pyroclast_kernels.selection import PREFERENCE, Selection, all_variants
from pyroclast_kernels.weights import BLOCK_FORMATS

ROOT = Path(__file__).resolve().parents[2]
V3 = "sse4_2 ssse3 popcnt cx16 avx2 fma f16c bmi1 bmi2 movbe abm"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
# As /proc/cpuinfo has them, the flags that matter here; and the levels above baseline, best first.
CPUS = {
    "Nehalem": ("sse4_2 ssse3 popcnt cx16", ""),
    "Haswell": (V3, "avx2"),
    "Alder Lake": (f"{V3} avx_vnni", "avxvnni avx2"),
    "Knights Landing": (f"{V3} avx512f avx512cd", "avx2"),
    "Skylake-X": (V4, "avx512 avx2"),
    "Cascade Lake": (f"{V4} avx512_vnni", "avx512int8 avx512 avx2"),
    "Cooper Lake": (f"{V4} avx512_vnni avx512_bf16", "avx512int8 avx512 avx2"),
    "Ice Lake": (f"{V4} avx512_vnni avx512vbmi avx512_vbmi2", "avx512int8 avx512 avx2"),
    "Zen 4": (
        f"{V4} avx512_vnni avx512vbmi avx512_vbmi2 avx512_bf16",
        "avx512vnni avx512int8 avx512 avx2",
    ),
    "Sapphire Rapids": (
        f"{V4} avx512_vnni avx512vbmi avx512_vbmi2 avx512_bf16 avx_vnni",
        "avx512vnni avx512int8 avx512 avxvnni avx2",
    ),
}


def levels() -> list[str]:
    return [level for level in features.LEVEL_FLAGS if not features.why_not(level)]


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this machine a CPU with the given flags."""

    def become(flags: str) -> None:
        monkeypatch.setattr(features, "cpu_flags", lambda: frozenset(flags.split()))
        monkeypatch.setattr("platform.machine", lambda: "x86_64")

    monkeypatch.delenv("PYROCLAST_MAX_ISA", raising=False)
    return become


@pytest.mark.parametrize("name", CPUS)
def test_a_cpu_gets_the_levels_whose_flags_it_has(name: str, cpu: Any) -> None:
    flags, expected = CPUS[name]
    cpu(flags)
    assert levels() == [*expected.split(), "baseline"]


@pytest.mark.parametrize("cap", features.LEVEL_FLAGS)
def test_every_level_can_be_forced(cap: str, cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(CPUS["Sapphire Rapids"][0])
    monkeypatch.setenv("PYROCLAST_MAX_ISA", cap)
    assert levels() == list(features.LEVEL_FLAGS)[list(features.LEVEL_FLAGS).index(cap) :]


def test_the_order_of_choice_is_that_of_the_levels() -> None:
    named = [name for name in PREFERENCE if name.startswith("cpp-") and not name.endswith("bf16")]
    kinds = [[f"cpp-{level}" for level in kind] for kind in (features._X86_64, features._AARCH64)]
    for order in kinds:
        assert [name for name in named if name in order] == order
    assert set(named) == {name for order in kinds for name in order}


@pytest.mark.native
@pytest.mark.parametrize("level", PARTIAL_LEVELS)
def test_a_partial_level_holds_the_ops_that_it_is_said_to(level: str) -> None:
    """Read off the file, since this CPU may lack the level."""
    file = Path(pyroclast_kernels.__file__).parent / f"_cpp_{level}.abi3.so"
    if not file.exists():
        pytest.skip("installed without a compiler, or without this level")
    code = file.read_bytes()
    found = {
        (op, format)
        for op in OP_NAMES
        for format in get_op(op).formats
        if f"{op}.{format}\0".encode() in code  # a linker may share the tails of names
    }
    plain = level != "avxvnni"
    assert found == {
        (op, format)
        for op in PARTIAL_LEVELS[level]
        for format in (get_op(op).formats if plain else BLOCK_FORMATS)
    }


@pytest.mark.native
def test_ops_that_a_level_lacks_run_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU had avxvnni: products by it, fused ones too, the rest by avx2."""
    if all_variants("glu")["cpp-avx2"].unavailable:
        pytest.skip(all_variants("glu")["cpp-avx2"].unavailable)
    for op in PARTIAL_LEVELS["avxvnni"]:
        variant = all_variants(op)["cpp-avxvnni"]
        runs = dataclasses.replace(variant, unavailable="", formats=BLOCK_FORMATS, bind=lambda _: 1)
        monkeypatch.setitem(get_op(op).variants, "cpp-avxvnni", runs)
    order = ("cpp-avxvnni", "cpp-avx2", "numpy")
    monkeypatch.setattr(selection, "PREFERENCE", order)
    chosen = Selection("frozen")
    assert chosen.variant("matmul", "q4_0").name == "cpp-avxvnni"
    assert chosen.variant("matmul", "f16").name == chosen.variant("glu").name == "cpp-avx2"
    fused = chosen.fused("gate_up", "q4_0", {})
    assert fused is not None and {kernel.variant for kernel in fused} == {"cpp-avxvnni"}
    # A rule for a part is kept to the letter: the fused op would not run it.
    assert Selection("frozen,glu=cpp-avx2").fused("gate_up", "q4_0", {}) is None
    assert Selection("frozen,matmul=numpy").fused("gate_up", "q4_0", {}) is None


_CHOICES = """
import sys
from pyroclast_kernels.registry import OP_NAMES, get_op
from pyroclast_kernels.selection import Selection
chosen = Selection(sys.argv[1])
for op in OP_NAMES:
    for format in get_op(op).formats:
        print(op, format, chosen.variant(op, format).name)
        if op == "gate_up":
            print(chosen.fused(op, format, {}))
"""


@pytest.mark.native
@pytest.mark.parametrize("level", PARTIAL_LEVELS)
def test_a_rule_for_every_op_gives_the_level_and_below_it_the_next(level: str) -> None:
    """As PYROCLAST_MAX_ISA does, fused ops too; matmul in bf16 has variants beside a level."""
    if reason := cpp_kernels(level)[1] if level in features.LEVEL_FLAGS else "of another CPU":
        pytest.skip(reason)

    def choices(rules: str, **environment: str) -> str:
        path = os.pathsep.join(sys.path)
        done = subprocess.run(
            [sys.executable, "-c", _CHOICES, rules],
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return "\n".join(line.split(" address=")[0] for line in done.stdout.splitlines())

    by_rule = choices(f"frozen,*=cpp-{level}")
    assert by_rule == choices("frozen", PYROCLAST_MAX_ISA=level)
    assert f"matmul q8_0 cpp-{level}" in by_rule and "embed q8_0 cpp-avx2" in by_rule


def test_a_rule_for_every_op_with_a_level_that_cannot_run_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "avxvnni" not in features.LEVEL_FLAGS:
        pytest.skip("of another CPU")
    monkeypatch.setattr(selection, "cpp_kernels", lambda _: ({}, "lacks avx_vnni"))
    with pytest.raises(KernelError, match=r"\*=cpp-avxvnni cannot run here: lacks avx_vnni"):
        Selection("*=cpp-avxvnni").variant("embed", "q8_0")


@pytest.mark.native
def test_avxvnni_gives_the_bits_of_avx2() -> None:
    """Where the CPU lacks its instruction, a handler of SIGILL carries it out."""
    if reason := features.why_not("avx2") or cpp_kernels("avx2")[1]:
        pytest.skip(reason)
    if not (Path(pyroclast_kernels.__file__).parent / "_cpp_avxvnni.abi3.so").exists():
        pytest.skip("installed without this level")
    if native_compile.compiler() is None:
        pytest.skip("needs a C++ compiler")
    library = native_compile.shared_object(ROOT / "tests/emulated/avx_vnni.cpp")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/emulated/avx_vnni.py"), str(library), "100_000"],
        env={**os.environ, "PYTHONPATH": str(Path(pyroclast_kernels.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["different"] == []
    assert set(found["n_cases"]) == {
        f"{op}.{format}" for op in PARTIAL_LEVELS["avxvnni"] for format in BLOCK_FORMATS
    }
    assert found["native"] or found["n_emulated"] > 10_000
