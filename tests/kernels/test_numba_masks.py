"""Masks of 16 lanes in Numba: exact with and without the instructions that newer CPUs have."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEATURES = {  # of the CPUs that Numba is told to compile for
    "nehalem": "",
    "haswell": "+avx,+avx2,+fma,+popcnt",  # no bmi2: lanes are compressed one by one
    "broadwell": "+avx,+avx2,+fma,+popcnt,+bmi,+bmi2",
}

CODE = """
import json
import numba, numpy as np
from pyroclast_kernels.numba.masks import *
from pyroclast_kernels.numba.simd import *

def compressed(args, part, n_parts):
    x, ids, out = load_pointer(args, 0), load_pointer(args, 8), load_pointer(args, 16)
    for mask in range(65536):
        place = 64 * mask
        compress_f32(out, 2 * place, load_f32x16(x, 0), mask)
        compress_i32(out, 2 * place + 64, load_i32x16(ids, 0), mask)

def compared(args, part, n_parts):
    x, y, out = load_pointer(args, 0), load_pointer(args, 8), load_pointer(args, 16)
    for i in range(64):
        a, b = load_f32x16(x, 64 * i), load_f32x16(y, 64 * i)
        masks = (at_least(a, b), above(a, b), equal(a, b), unordered(a, b))
        store_i64(out, 32 * i, masks[0])
        store_i64(out, 32 * i + 8, masks[1])
        store_i64(out, 32 * i + 16, masks[2])
        store_i64(out, 32 * i + 24, masks[3])

def tails(args, part, n_parts):
    x, out = load_pointer(args, 0), load_pointer(args, 8)
    for n in range(18):
        store_row(out, 32 * n, 32 * n + n, load_row(x, 0, n, splat(-1.0)))
        store_f32x16(out, 128 * n + 64, load_row(x, 0, n, splat(-1.0)))

def powers(args, part, n_parts):
    x, y, out = load_pointer(args, 0), load_pointer(args, 8), load_pointer(args, 16)
    for i in range(0, 4096, 16):
        v = times_power_of_floor(load_f32x16(x, 4 * i), load_f32x16(y, 4 * i))
        store_f32x16(out, 8 * i, v)
        store_f32x16(out, 8 * i + 64, floor(load_f32x16(y, 4 * i)))

def orders(args, part, n_parts):
    x, out = load_pointer(args, 0), load_pointer(args, 8)
    for i in range(0, 1024, 16):
        store_i32x16(out, 4 * i, ordered_lanes(load_f32x16(x, 4 * i)))

def call(kernel, *arrays):
    compiled = numba.cfunc("void(voidptr, int32, int32)")(kernel)
    slots = np.array([array.ctypes.data for array in arrays])
    compiled.ctypes(slots.ctypes.data, 0, 1)
    return arrays[-1]

rng = np.random.default_rng(0)
found = {}
x, ids = rng.normal(size=16).astype(np.float32), np.arange(16, dtype=np.int32)
out = call(compressed, x, ids, np.zeros((65536 + 1, 32), np.int32))
bits = (np.arange(65536)[:, None] >> np.arange(16)) & 1
found["compress"] = all(
    np.array_equal(out[m, :bits[m].sum()].view(np.float32), x[bits[m] == 1])
    and np.array_equal(out[m, 16 : 16 + bits[m].sum()], ids[bits[m] == 1])
    for m in range(65536)
)

a = rng.choice(np.array([-np.inf, -1, -0.0, 0, 2, np.inf, np.nan], np.float32), (64, 16))
b = rng.permuted(a)
out = call(compared, a, b, np.zeros((64, 4), np.int64))
lanes = [a >= b, a > b, a == b, np.isnan(a) | np.isnan(b)]
wanted = np.stack([(lane << np.arange(16)).sum(axis=1) for lane in lanes], axis=1)
found["compare"] = np.array_equal(out, wanted)

out = call(tails, x, np.full((18, 32), 7, np.float32))
found["tails"] = all(
    np.array_equal(out[n], [*x[:n], *[7] * (16 - n), *x[:n], *[-1] * (16 - n)]) for n in range(17)
) and np.array_equal(out[17], [*x, *x])

x = rng.uniform(1, 2, 4096).astype(np.float32)
y = np.concatenate([rng.uniform(-125, 0, 4064), -np.arange(32)]).astype(np.float32)
out = call(powers, x, y, np.zeros((256, 2, 16), np.float32))
found["powers"] = np.array_equal(out[:, 0].ravel(), np.ldexp(x, np.floor(y).astype(int)))
found["floor"] = np.array_equal(out[:, 1].ravel(), np.floor(y))

x = rng.normal(size=1024).astype(np.float32) * np.float32(10.0) ** rng.integers(-40, 38, 1024)
x = x.astype(np.float32)
x[:4] = 0.0, -0.0, np.inf, -np.inf
out = call(orders, x, np.zeros(1024, np.int32))
found["order"] = np.array_equal(np.argsort(x, kind="stable"), np.argsort(out, kind="stable"))
found["zeros"] = bool(out[0] == out[1])
print(json.dumps({name: bool(value) for name, value in found.items()}))
"""


@pytest.mark.parametrize("cpu", ["this one", *FEATURES])
def test_masks_are_exact_with_and_without_the_instructions(cpu: str) -> None:
    pytest.importorskip("numba")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    environment["PYTHONPATH"] = str(ROOT / "kernels")
    if cpu in FEATURES:
        if platform.machine() != "x86_64":
            pytest.skip("names an x86-64 CPU")
        environment |= {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": FEATURES[cpu]}
    run = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert len(found) == 7
    assert [name for name, holds in found.items() if not holds] == []
