"""What every variant of low_rank promises; tests/kernels and tests/gpu run these checks."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.cases import Case, op_cases
from pyroclast_kernels.program import Program, Recorder, make_executor
from pyroclast_kernels.selection import Selection, all_variants
from pyroclast_kernels.triton.launch import on_host

[MIXED] = [case for case in op_cases("low_rank") if case.name == "7x300x96-r16r1r70-some"]


def run(variant: str, arguments: dict[str, Any], n_threads: int = 1) -> Any:
    """out, after a run of the forced variant."""
    found = all_variants("low_rank")[variant]
    assert not found.unavailable, found.unavailable
    if found.launch is not None:
        on_host(found.launch("f32"))(**arguments)
    else:
        recorder = Recorder(Selection(f"low_rank={variant}"))
        recorder.call("low_rank", **arguments)
        Program(recorder.calls, make_executor(n_threads)).run()
    return arguments["out"]


def alone(case: Case, token: int) -> dict[str, Any]:
    """The arguments of the case with one of its tokens and no other."""
    given = case.make()
    rows = {name: given[name][token : token + 1].copy() for name in ("x", "out")}
    adapter = given["adapter_of_token"][token : token + 1]
    n_adapted = np.array([np.count_nonzero(adapter >= 0)])
    one = {"n_tokens": np.array([1]), "n_adapted": n_adapted, "adapter_of_token": adapter}
    return given | rows | one


def check_a_token_has_the_same_bits_in_any_company(variant: str) -> None:
    together = run(variant, MIXED.make(), 3)
    for token in range(7):
        one = run(variant, alone(MIXED, token))
        assert one[0].tobytes() == together[token].tobytes(), token


def check_a_token_without_an_adapter_keeps_its_row(variant: str) -> None:
    given = MIXED.make()
    before = given["out"].copy()
    after = run(variant, given)
    same = (after == before).all(axis=1)
    assert same.tolist() == [adapter < 0 for adapter in given["adapter_of_token"][:7]] + [True]


def check_without_adapted_tokens_nothing_else_is_read(variant: str) -> None:
    """Numbers of adapters that do not exist would be read from far outside the arrays."""
    given = MIXED.make() | {"n_adapted": np.array([0])}
    given["adapter_of_token"][:] = 1 << 30
    before = given["out"].copy()
    assert (run(variant, given) == before).all()


def check_the_scale_of_each_adapter_counts(variant: str) -> None:
    given = MIXED.make()
    given["out"][:] = 0
    doubled = {name: np.copy(value) for name, value in given.items()} | {
        name: given[name] for name in ("n_rows", "n_cols", "max_rank", "out_stride")
    }
    doubled["scales"] *= 2
    np.testing.assert_array_equal(run(variant, doubled), 2 * run(variant, given))


CHECKS = (
    check_a_token_has_the_same_bits_in_any_company,
    check_a_token_without_an_adapter_keeps_its_row,
    check_without_adapted_tokens_nothing_else_is_read,
    check_the_scale_of_each_adapter_counts,
)
