"""What every variant of norm, residual and qk_norm promises; tests/kernels and tests/gpu run it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.cases import Case, op_cases
from pyroclast_kernels.program import Program, Recorder, make_executor
from pyroclast_kernels.selection import Selection, all_variants
from pyroclast_kernels.triton.launch import on_host

# Cases of several tokens whose rows are not gathered.
COMPANY = {
    "norm": ("3x77-layer-gathered", "64x576-layer-bias-q8", "2x608-bias-q8", "64x576-q8"),
    "residual": ("3x77", "64x576-rms-times0.22", "3x77-layer-times3", "5x2048-layer-bias"),
    "qk_norm": ("9x14h2k64d", "33x3h3k80d", "17x16h16k128d-whole"),
}


def run(op: str, variant: str, arguments: dict[str, Any], n_threads: int = 1) -> dict[str, Any]:
    """The arguments, after a run of the forced variant."""
    found = all_variants(op)[variant]
    assert not found.unavailable, found.unavailable
    if found.launch is not None:
        on_host(found.launch("f32"))(**arguments)
    else:
        recorder = Recorder(Selection(f"{op}={variant}"))
        recorder.call(op, **arguments)
        Program(recorder.calls, make_executor(n_threads)).run()
    return arguments


def alone(case: Case, token: int) -> dict[str, Any]:
    """The arguments of the case with one of its tokens and no other."""
    given = case.make()
    source = token if given.get("rows") is None else given["rows"][token]
    at = {"x": source, "y": token, "qkv": token, "out": token, "out_q8": token}
    own = {
        name: given[name][row : row + 1].copy()
        for name, row in at.items()
        if given.get(name) is not None
    }
    if given.get("rows") is not None:
        own["rows"] = np.zeros(1, np.int32)
    return given | own | {"n_tokens": np.array([1])}


def check_a_token_has_the_same_bits_in_any_company(op: str, variant: str) -> None:
    cases = [case for case in op_cases(op) if case.name in COMPANY[op]]
    assert len(cases) == len(COMPANY[op])
    for case in cases:
        together = run(op, variant, case.make(), 3)
        for token in range(int(together["n_tokens"][0])):
            one = run(op, variant, alone(case, token))
            for output in case.outputs:
                if one[output] is not None:
                    assert one[output][0].tobytes() == together[output][token].tobytes(), case


def layer_norm(op: str, variant: str, x: Any) -> Any:
    """A plain layer norm of the rows of x, by an op that has one: weights 1, no bias, eps 0."""
    n, d_model = x.shape
    common = {"d_model": d_model, "eps": 0.0, "kind": 1}
    ones, zeros = np.ones(d_model, np.float32), np.zeros((n, d_model), np.float32)
    given: dict[str, Any] = {"n_tokens": np.array([n])}
    if op == "norm":
        given |= {"rows": None, "x": x, "weight": ones, "bias": None, "out": zeros, "out_q8": None}
        return run(op, variant, given | common)["out"]
    given |= {"x": zeros, "y": x, "weight": ones, "bias": None, "x_scale": None}
    return run(op, variant, given | common | {"scale": 1.0})["x"]


def check_a_layer_norm_of_rows_far_from_zero_is_as_exact_as_near_it(op: str, variant: str) -> None:
    """Whole numbers, so that adding 2^20 rounds nothing: what is normed stays the same numbers."""
    x = np.random.default_rng(3).integers(-8, 9, (4, 201)).astype(np.float32)
    near, far = layer_norm(op, variant, x), layer_norm(op, variant, x + np.float32(2**20))
    assert np.abs(near).max() > 1
    np.testing.assert_allclose(far, near, rtol=0, atol=4e-6)


def check_a_nan_stays_in_its_row(op: str, variant: str) -> None:
    for kind in (0, 1):
        [name] = {"norm": ["x"], "residual": ["y"], "qk_norm": ["qkv"]}[op]
        case = next(case for case in op_cases(op) if case.name in COMPANY[op])
        given = case.make()
        if "kind" in given:
            given |= {"kind": kind, "weight": np.ones(given["d_model"], np.float32)}
        row = 1 if given.get("rows") is None else given["rows"][1]
        given[name][row, 5] = np.nan
        got = run(op, variant, given)[case.outputs[0]]
        assert np.isnan(got[1]).any()
        same = [t for t in range(3) if given.get("rows") is not None and given["rows"][t] == row]
        assert np.isfinite(np.delete(got[:3], same or [1], axis=0)).all()


CHECKS = (check_a_token_has_the_same_bits_in_any_company, check_a_nan_stays_in_its_row)
LAYER_CHECKS = (check_a_layer_norm_of_rows_far_from_zero_is_as_exact_as_near_it,)
CHECKED = [(op, check) for op in COMPANY for check in CHECKS] + [
    (op, check) for op in ("norm", "residual") for check in LAYER_CHECKS
]
