"""gate_up stands for matmul and glu: the same bits, and only where nobody asked otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tiny
from pyroclast import LLM
from pyroclast_kernels.cases import Case, op_cases
from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.selection import Selection, all_variants

VARIANTS = [
    name for name, v in all_variants("gate_up").items() if name != "numpy" and v.launch is None
]


def rules_of(variant: str) -> str:
    """A level that holds products alone has glu from avx2."""
    is_whole = variant in all_variants("glu")
    return f"*={variant}" if is_whole else f"*={variant},glu=cpp-avx2"


def parts(arguments: dict[str, Any], format: str, variant: str) -> dict[str, Any]:
    """What matmul and then glu give for the arguments of gate_up."""
    n_tokens, d_ff = int(arguments["n_tokens"][0]), arguments["d_ff"]
    gate_up = np.zeros((n_tokens, 2 * d_ff), np.float32)
    recorder = Recorder(Selection(rules_of(variant)))
    recorder.call(
        "matmul",
        format,
        n_tokens=arguments["n_tokens"],
        x=arguments["x"],
        weight=arguments["weight"],
        bias=None,
        out=gate_up,
        n_rows=2 * d_ff,
        n_cols=arguments["n_cols"],
        out_stride=2 * d_ff,
        accumulate=0,
    )
    outputs = {name: arguments[name] for name in ("out", "out_q8")}
    rest = {name: arguments[name] for name in ("d_ff", "activation")}
    rest |= {"gated": 1}
    recorder.call("glu", n_tokens=arguments["n_tokens"], gate_up=gate_up, **outputs, **rest)
    Program(recorder.calls).run()
    return outputs


@pytest.mark.native
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", op_cases("gate_up"), ids=str)
def test_same_bits_as_matmul_and_glu(case: Case, variant: str) -> None:
    if reason := all_variants("gate_up")[variant].unavailable:
        pytest.skip(reason)
    got, apart = case.make(), case.make()
    recorder = Recorder(Selection(f"*={variant}"))
    recorder.call("gate_up", case.format, **got)
    Program(recorder.calls).run()
    for name, expected in parts(apart, case.format, variant).items():
        if expected is not None:
            assert got[name].tobytes() == expected.tobytes(), name


@pytest.mark.parametrize(
    ("rules", "variant"),
    [
        ("*=numpy", "numpy"),
        ("matmul=numpy,glu=numpy", "numpy"),
        ("glu=numpy", None),  # the parts differ: nobody may stand for them
        ("matmul.q4_0=numpy", None),
        ("gate_up=numpy", "numpy"),  # a rule for the fused op itself
    ],
)
def test_rules_for_the_parts_are_kept(rules: str, variant: str | None) -> None:
    kernels = Selection(rules).fused("gate_up", "q4_0", op_cases("gate_up")[0].make())
    native = any(not all_variants("gate_up")[name].unavailable for name in VARIANTS)
    if variant is None and not native:
        pytest.skip("NumPy is all there is here, so the parts agree")
    assert (kernels and kernels[0].variant) == variant


def test_a_technology_without_it_runs_the_parts() -> None:
    if reason := all_variants("glu")["numba"].unavailable:
        pytest.skip(reason)
    assert Selection("*=numba").fused("gate_up", "q4_0", {}) is None


@pytest.mark.native
def test_a_model_gives_the_same_logits_with_the_parts_forced_apart(tmp_path: Any) -> None:
    weights = tiny.random_weights(tiny.BASE)
    path = tiny.write_gguf(tmp_path / "model.gguf", tiny.BASE, weights, "Q8_0")
    logits = []
    for rules in (None, "gate_up=numpy"):
        with LLM(path, kernels=rules) as llm:
            logits.append(llm.logits([1, 2, 3, 4]))
            assert any(name.startswith("gate_up") for name in llm.kernels)
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=0.05 * np.abs(logits[1]).max())
