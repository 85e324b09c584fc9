"""Every Triton variant of every op against the NumPy reference, over the op's own case list."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from pyroclast_kernels.cases import Case, expected, mismatches, op_cases
from pyroclast_kernels.registry import OP_NAMES, Variant
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits, limits_of, on_host

VARIANTS = {
    (op, name): variant
    for op in OP_NAMES
    for name, variant in all_variants(op).items()
    if variant.launch is not None
}
CASES = [
    pytest.param(variant, case, id=f"{case}-{name}")
    for (op, name), variant in VARIANTS.items()
    for case in op_cases(op)
    if case.format in variant.formats
]


def run(variant: Variant, case: Case, arguments: dict[str, Any]) -> None:
    function = variant.bind(case.format)
    assert callable(function)
    function(**arguments)


def test_every_op_of_a_step_has_one() -> None:
    assert {op for op, _ in VARIANTS} == set(OP_NAMES) - {"pack"}  # weights are laid out at load


@pytest.mark.parametrize(("variant", "case"), CASES)
def test_matches_the_reference(variant: Variant, case: Case) -> None:
    before, after = expected(case)
    got = deepcopy(before)
    run(variant, case, got)
    assert not mismatches(case, before, after, got, variant.rounds), case.reason
    assert not triton_device.counters().any()


def widened(launch: Any, limits: Limits, more: int) -> Any:
    """The launch with room for more than there is."""
    wide = replace(limits, n_tokens=limits.n_tokens + more, longest=limits.longest + 70 * more)
    return lambda _, **tensors: launch(wide, **tensors)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda v: f"{v.op}-{v.name}")
def test_the_grid_changes_no_bit(variant: Variant) -> None:
    """Limits say how much there may be; what there is, kernels read."""
    assert variant.launch is not None
    for format in variant.formats:
        case = [c for c in op_cases(variant.op) if c.format == format][-1]
        results = []
        for more in (0, 3):
            arguments = case.make()
            launch = widened(variant.launch(format), limits_of(arguments), more)
            on_host(launch)(**arguments)
            results.append(
                [arguments[o].tobytes() for o in case.outputs if arguments[o] is not None]
            )
        assert results[0] == results[1]
