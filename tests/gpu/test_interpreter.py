"""`pyroclast_kernels.triton.interpreter` changes how fast the interpreter is, and nothing else."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from pyroclast_kernels.triton import device as triton_device

pytestmark = pytest.mark.skipif(not triton_device.INTERPRETED, reason="a GPU runs these kernels")


@pytest.fixture(scope="module")
def untouched() -> ModuleType:
    """The interpreter as Triton brings it."""
    spec = importlib.util.find_spec("triton.runtime.interpreter")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_types_are_those_of_numpy_that_they_were(untouched: ModuleType) -> None:
    scalars = [t for t in vars(tl).values() if type(t) is tl.dtype and t.name != "void"]
    assert {tl.float32, tl.bfloat16, tl.int1, tl.uint64, tl.float8e5} <= set(scalars)
    pointers = [tl.pointer_type(each) for each in scalars]
    blocks = [tl.block_type(each, [4, 8]) for each in (*scalars, *pointers)]
    for given in (*scalars, *pointers, *blocks):
        assert interpreter._get_np_dtype(given) == untouched._get_np_dtype(given), given


def test_a_tuple_is_of_the_type_of_its_values() -> None:
    values = tl.tuple([tl.constexpr(3), tl.constexpr(1.5)])
    assert values.type == tl.core._type_for_tuple_values(values.values)
    named = tl.core.tuple_type([tl.int32], ["count"])
    assert tl.tuple([tl.constexpr(7)], named).count.value == 7
    values._setitem(0, tl.constexpr("a"))
    assert values.type == tl.core._type_for_tuple_values(values.values)


@triton.jit
def _doubled(x):
    return tl.where(x > 0, x + x, tl.zeros_like(x))


@triton.jit
def _sums(x, out, n: tl.constexpr):
    values = tl.load(x + tl.arange(0, n))
    tl.store(out, tl.sum(_doubled(values)))
    tl.store(out + 1, tl.max(values * values))


def test_functions_that_kernels_call_compute_and_are_put_back() -> None:
    names: list[tuple[Any, str]] = [(tl, "range"), (tl, "load"), (tl.tensor, "__add__")]
    before = [getattr(owner, name) for owner, name in names]
    out = torch.zeros(2, dtype=torch.int32)
    for _ in range(2):  # what the first call put back, the second replaces again
        _sums[(1,)](torch.tensor([1, -2, 3, 8], dtype=torch.int32), out, 4)
        assert out.tolist() == [24, 64]
        assert [getattr(owner, name) for owner, name in names] == before
