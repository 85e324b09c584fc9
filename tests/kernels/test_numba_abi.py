"""Numba as a technology: when it is imported, where code is kept, and what a plainer CPU runs.

Each test asks a fresh interpreter, since a process imports and compiles only once.
"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from fresh import BIND, python


def test_listing_the_variants_does_not_import_numba() -> None:
    loaded = python("""
from pyroclast_kernels.registry import OP_NAMES
from pyroclast_kernels.selection import all_variants
found = [op for op in OP_NAMES if "numba" in all_variants(op)]
print(json.dumps({"found": found, "imported": "numba" in sys.modules}))
""")
    assert {"matmul", "pack", "rope", "rope_table", "attention"} <= set(loaded["found"])
    assert not loaded["imported"]


def test_without_numba_the_variant_says_what_to_install() -> None:
    told = python("""
sys.modules["numba"] = None  # as if it were not installed
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.selection import Selection, all_variants
try:
    Selection("norm=numba").kernel("norm")
except KernelError as error:
    print(json.dumps([all_variants("norm")["numba"].unavailable, str(error)]))
""")
    assert all("pip install numba" in words for words in told)


def test_a_numba_told_not_to_compile_is_unavailable() -> None:
    pytest.importorskip("numba")
    code = """
from pyroclast_kernels.selection import all_variants
print(json.dumps(all_variants("norm")["numba"].unavailable))
"""
    assert "NUMBA_DISABLE_JIT" in python(code, NUMBA_DISABLE_JIT="1")
    assert python(code) == ""


def test_a_numba_that_cannot_be_imported_is_a_kernel_error(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs another NumPy')")
    told = python(f"""
sys.path.insert(0, {str(tmp_path)!r})
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.selection import Selection
try:
    Selection("norm=numba").kernel("norm")
except KernelError as error:
    print(json.dumps(str(error)))
""")
    assert "norm=numba" in told and "another NumPy" in told


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "NUMBA_CACHE_DIR"])
def test_compiled_code_is_found_again_by_the_next_process(tmp_path: Path, variable: str) -> None:
    pytest.importorskip("numba")
    assert python(BIND, **{variable: str(tmp_path)}) == {"bound": True, "hits": 0}
    assert python(BIND, **{variable: str(tmp_path)}) == {"bound": True, "hits": 1}


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    (tmp_path / "file").touch()
    unwritable = str(tmp_path / "file" / "below")
    assert python(BIND, XDG_CACHE_HOME=unwritable) == {"bound": True, "hits": 0}


ARITHMETIC = """
import ctypes, struct
import numba, numpy as np
from pyroclast_kernels.numba.simd import *

def to_float(args, part, n_parts):
    for i in range(0, 65536, 16):
        store_f32x16(load_pointer(args, 8), 4 * i, load_halfx16(load_pointer(args, 0), 2 * i))

def to_half(args, part, n_parts):
    for i in range(65536):
        store_half(load_pointer(args, 8), 2 * i, load_f32(load_pointer(args, 0), 4 * i))

def dot(args, part, n_parts):
    w, x = load_pointer(args, 0), load_pointer(args, 8)
    for i in range(256):
        s = dot_bytes(splat_i32(i), load_i32x16(w, 64 * i), load_i32(x, 4 * i))
        store_f32x16(load_pointer(args, 16), 64 * i, to_f32(s))

table = tuple(range(240, 80, -10))
named = look_up(table)

def look(args, part, n_parts):
    for i in range(16):
        codes = load_i32x16(load_pointer(args, 0), 64 * i)
        store_i32x16(load_pointer(args, 8), 64 * i, named(codes))

to_f32 = sys.modules["pyroclast_kernels.numba.simd"].to_float

def call(kernel, *arrays):
    compiled = numba.cfunc("void(voidptr, int32, int32)")(kernel)
    slots = np.array([array.ctypes.data for array in arrays])
    compiled.ctypes(slots.ctypes.data, 0, 1)
    return arrays[-1]

rng = np.random.default_rng(0)
halves = np.arange(65536, dtype=np.uint16)
floats = call(to_float, halves, np.zeros(65536, np.float32))
want = halves.view(np.float16).astype(np.float32)
same_floats = np.array_equal(floats, want, equal_nan=True)

# Every half and what lies around it: ties, the overflow to infinity, denormals, NaN.
same_halves = True
for step in (0, 0x0FFF, 0x1000, 0x1001):
    bits = want.view(np.uint32) + np.uint32(step) * np.isfinite(want)
    source = bits.view(np.float32)
    back = call(to_half, source, np.zeros(65536, np.uint16)).view(np.float16)
    with np.errstate(over="ignore"):
        same_halves &= np.array_equal(back, source.astype(np.float16), equal_nan=True)

w = rng.integers(0, 256, (256, 16, 4)).astype(np.uint8)
x = rng.integers(-127, 128, (256, 4)).astype(np.int8)
w[0], x[0], w[1], x[1] = 255, -127, 255, 127  # the largest sums
sums = call(dot, w, x, np.zeros((256, 16), np.float32))
exact = np.einsum("ilj,ij->il", w.astype(np.int64), x.astype(np.int64)) + np.arange(256)[:, None]
codes = rng.integers(0, 16, (16, 64)).astype(np.uint8)
found = call(look, codes, np.zeros((16, 64), np.uint8))
same_bytes = np.array_equal(found, np.array(table, np.uint8)[codes])
print(json.dumps([same_floats, bool(same_halves), np.array_equal(sums, exact), same_bytes]))
"""


@pytest.mark.parametrize("cpu", ["this one", "nehalem", "haswell"])
def test_halves_and_bytes_are_exact_with_and_without_the_instructions(cpu: str) -> None:
    """nehalem converts no halves and looks no 32 bytes up, and haswell has no VNNI: both must give
    what this CPU gives."""
    pytest.importorskip("numba")
    features = {"nehalem": "", "haswell": "+avx,+avx2,+fma,+f16c"}
    environment = {}
    if cpu in features:
        if platform.machine() != "x86_64":
            pytest.skip("names an x86-64 CPU")
        environment = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features[cpu]}
    assert python(ARITHMETIC, **environment) == [True, True, True, True]
