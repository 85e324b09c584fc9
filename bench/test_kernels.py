"""The kernels under pytest-benchmark: `pytest bench/ --benchmark-only`.

A small part of the cases by default, one of each op and of matmul each format; PYROCLAST_BENCH=all
times every one.  Warm caches, one thread, checked against the reference first.  For cold caches,
rooflines and all threads there is `pyroclast bench kernels`.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import pytest

from pyroclast.lab.check.check import Prepared, bind
from pyroclast.lab.check.inputs import copy_of
from pyroclast.lab.speed.timing import make_call
from pyroclast_kernels.cases import Case, bench_cases
from pyroclast_kernels.program import Program, make_executor
from pyroclast_kernels.registry import OP_NAMES
from pyroclast_kernels.selection import all_variants

# 0.2 s a kernel: the median is steady long before, and there are many kernels.
pytestmark = pytest.mark.benchmark(max_time=0.2, min_rounds=3)


def chosen(op: str) -> list[Case]:
    """The first case of each format, or all."""
    cases = bench_cases(op)
    if os.environ.get("PYROCLAST_BENCH") == "all":
        return cases
    return list({case.format: case for case in reversed(cases)}.values())[::-1]


PAIRS = [
    pytest.param(case, name, id=f"{case}-{name}")
    for op in OP_NAMES
    for case in chosen(op)
    for name, variant in all_variants(op).items()
    if not variant.unavailable and case.format in variant.formats
]


@lru_cache(maxsize=1)
def prepared(case: Case) -> Prepared:
    return Prepared(case)


@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_kernel(benchmark: Any, case: Case, name: str) -> None:
    kernel, executor = bind(case.op, case.format, name), make_executor(1)
    checked = copy_of(prepared(case).before)
    Program([make_call(kernel, checked)], executor).run()
    assert prepared(case).differences(checked) == [], case.reason
    program = Program([make_call(kernel, copy_of(prepared(case).before))], executor)
    benchmark.group = str(case)
    benchmark.extra_info.update(variant=name, flops=case.flops, bytes=case.bytes)
    benchmark(program.run)
