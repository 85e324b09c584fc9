"""What every variant of the ops of residual streams and of sparse gates promises; tests/kernels and
tests/gpu run it."""

from __future__ import annotations

from typing import Any

import numpy as np

from norm_checks import run
from pyroclast_kernels.cases import op_cases

# A case of several tokens, and what is NaN where an input's first token has one.
CASES = {
    "altup_predict": "3x45",
    "altup_correct": "3x45",
    "match_rms": "3x45",
    "sparse_gate": "3x45",
}
POISONED = [
    ("altup_predict", "streams", "out"),
    ("altup_correct", "streams", "out"),
    ("altup_correct", "predicted", "out"),
    ("match_rms", "x", "y"),
    ("match_rms", "y", "y"),
    ("sparse_gate", "gate_up", "gate_up"),
]


def case_of(op: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    [case] = [case for case in op_cases(op) if case.name == CASES[op]]
    return case.make(), case.outputs


def of_token(name: str, array: Any, token: int) -> Any:
    """The rows of one token; streams are one below the other."""
    rows = array[:, token : token + 1] if name == "streams" else array[token : token + 1]
    return rows.copy()


def check_a_token_has_the_same_bits_in_any_company(op: str, variant: str) -> None:
    given, outputs = case_of(op)
    together = run(op, variant, case_of(op)[0], 3)
    rows = ("streams", "predicted", "out", "x", "y", "gate_up")
    for token in range(int(given["n_tokens"][0])):
        own = {name: of_token(name, given[name], token) for name in rows if name in given}
        alone = given | own | {"n_tokens": np.array([1])}
        if "streams" in own:
            alone["stream_stride"] = given["d_model"]
        got = run(op, variant, alone)
        for name in outputs:
            want = of_token(name, together[name], token)
            assert got[name].tobytes() == want.tobytes(), (name, token)


def check_a_nan_stays_with_its_token(op: str, variant: str) -> None:
    for _, name, output in (each for each in POISONED if each[0] == op):
        given, _ = case_of(op)
        first = given[name][0] if name == "streams" else given[name]
        first[0, 7] = np.nan
        found = run(op, variant, given)[output]
        assert np.isnan(found[0]).any(), name
        assert np.isfinite(found[1:]).all(), name


CHECKED = [
    (op, check)
    for op in CASES
    for check in (check_a_token_has_the_same_bits_in_any_company, check_a_nan_stays_with_its_token)
]
