"""What every variant of the ops of experts promises; tests/kernels and tests/gpu run it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.experts import stacked_rows
from pyroclast_kernels.experts.down_cases import down
from pyroclast_kernels.experts.gate_up_cases import Kind, gate_up
from pyroclast_kernels.experts.inputs import Shape
from pyroclast_kernels.program import Program, Recorder, make_executor
from pyroclast_kernels.route import SCORINGS
from pyroclast_kernels.route.reference import group
from pyroclast_kernels.selection import Selection, all_variants
from pyroclast_kernels.triton.launch import on_host
from pyroclast_kernels.weights.packing import LANES, PackedWeight

# 1, 2 and more tokens an expert, and none: a stream of weights, and every tile.
SHAPE = Shape(23, 7, 2, 96, 512)


def run(
    op: str, format: str, variant: str, arguments: dict[str, Any], n_threads: int = 1
) -> dict[str, Any]:
    """The arguments, after a run of the forced variant."""
    found = all_variants(op)[variant]
    assert not found.unavailable, found.unavailable
    if found.launch is not None:
        on_host(found.launch(format))(**arguments)
    else:
        recorder = Recorder(Selection(f"{op}={variant}"))
        recorder.call(op, format, **arguments)
        Program(recorder.calls, make_executor(n_threads)).run()
    return arguments


def _expert(weight: PackedWeight, expert: int, n_rows: int) -> PackedWeight:
    """The weight of one expert, n_rows of a stack, on its own."""
    n_groups = n_rows // LANES
    data = weight.data[expert * n_groups : (expert + 1) * n_groups].copy()
    return PackedWeight(weight.format, n_rows, weight.n_cols, data)


def _matmul(x: Any, weight: PackedWeight, n_rows: int, variant: str) -> Any:
    out = np.zeros((len(x), n_rows), np.float32)
    arguments = {
        "n_tokens": np.array([len(x)]),
        "x": x,
        "weight": weight,
        "bias": None,
        "out": out,
        "n_rows": n_rows,
        "n_cols": weight.n_cols,
        "out_stride": n_rows,
        "accumulate": 0,
    }
    run("matmul", weight.format, variant, arguments)
    return out


def _glu(gate_up: Any, d_ff: int, variant: str) -> Any:
    out = np.zeros((len(gate_up), d_ff), np.float32)
    arguments = {
        "n_tokens": np.array([len(gate_up)]),
        "gate_up": gate_up,
        "out": out,
        "out_q8": None,
        "d_ff": d_ff,
        "activation": ACTIVATIONS.index("silu"),
        "gated": 1,
    }
    run("glu", "f32", variant if variant in all_variants("glu") else "cpp-avx2", arguments)
    return out


def _of(given: dict[str, Any], expert: int) -> Any:
    return given["order"][given["starts"][expert] : given["starts"][expert + 1]]


def check_an_expert_has_the_bits_of_matmul(variant: str, format: str) -> None:
    """Of its own weight, for all tokens that chose it: both halves of the feed-forward."""
    given = run("expert_down", format, variant, down(SHAPE, format, False), 3)
    n_rows = stacked_rows(SHAPE.rows)
    for expert in range(SHAPE.n_experts):
        pairs = _of(given, expert)
        alone = _expert(given["weight"], expert, n_rows)
        if len(pairs):
            y = _matmul(given["x"][pairs], alone, SHAPE.rows, variant)
            assert y.tobytes() == given["out"][pairs].tobytes(), expert
    given = run("expert_gate_up", format, variant, gate_up(SHAPE, format, Kind("values")), 3)
    for expert in range(SHAPE.n_experts):
        pairs = _of(given, expert)
        alone = _expert(given["weight"], expert, 2 * n_rows)
        if len(pairs):
            y = _matmul(given["x"][pairs // SHAPE.n_active], alone, 2 * n_rows, variant)
            expected = _glu(y, SHAPE.rows, variant)
            assert expected.tobytes() == given["out"][pairs].tobytes(), expert


def _alone(given: dict[str, Any], token: int) -> dict[str, Any]:
    """The arguments of a product of experts with one of its tokens and no other."""
    n_active, n_experts = given["n_active"], given["n_experts"]
    expert_of_pair = np.zeros(given["starts"][-1], np.int32)
    for expert in range(n_experts):
        expert_of_pair[_of(given, expert)] = expert
    pairs = slice(token * n_active, (token + 1) * n_active)
    order, starts = np.zeros(n_active, np.int32), np.zeros(n_experts + 1, np.int32)
    group(np.array([1]), expert_of_pair[pairs][None], order, starts, n_experts, n_active)
    of_token = slice(token, token + 1) if "d_ff" in given else pairs
    one = {"n_tokens": np.array([1]), "order": order, "starts": starts, "x": given["x"][of_token]}
    outs = {o: np.zeros_like(given[o][pairs]) for o in ("out", "out_q8") if o in given}
    return given | one | outs


def check_a_token_has_the_same_bits_in_any_company(variant: str, format: str) -> None:
    kind = Kind("values-q8", "quick_gelu", bias=True, limit=0.5, up_offset=1.0)
    for op, make in (
        ("expert_gate_up", lambda: gate_up(SHAPE, format, kind)),
        ("expert_down", lambda: down(SHAPE, format, True)),
    ):
        together = run(op, format, variant, make(), 3)
        for token in (0, 9, 22):
            one = run(op, format, variant, _alone(make(), token))
            pairs = slice(token * SHAPE.n_active, (token + 1) * SHAPE.n_active)
            for name in ("out", "out_q8"):
                if name in one:
                    assert one[name].tobytes() == together[name][pairs].tobytes(), (op, token)


def _routed(
    logits: Any, variant: str, scoring: str = "softmax", bias: Any = None, gate_scales: Any = None
) -> Any:
    n_tokens, n_experts = logits.shape
    arguments = {
        "n_tokens": np.array([n_tokens]),
        "logits": logits,
        "bias": bias,
        "gate_scales": gate_scales,
        "experts": np.full((n_tokens, 3), 1 << 30, np.int32),
        "gates": np.zeros((n_tokens, 3), np.float32),
        "n_experts": n_experts,
        "n_active": 3,
        "scoring": SCORINGS.index(scoring),
        "renormalize": 1,
        "scale": 1.0,
    }
    run("route", "f32", variant, arguments)
    return arguments["experts"], arguments["gates"]


def check_equal_logits_are_taken_by_index(variant: str) -> None:
    logits = np.array([[0, 1, 1, -0.0, 1, 1], [2, 2, 2, 2, 2, 2], [-0.0, 0, -0.0, 0, -1, -1]])
    for scoring in SCORINGS:
        experts, _ = _routed(logits.astype(np.float32), variant, scoring)
        assert experts.tolist() == [[1, 2, 4], [0, 1, 2], [0, 1, 2]]


def check_a_nan_stays_with_its_token_and_no_index_leaves_the_range(variant: str) -> None:
    rng = np.random.default_rng(7)
    clean = rng.standard_normal((4, 6)).astype(np.float32)
    bad = clean.copy()
    bad[1, 4] = np.nan
    bad[2] = [np.nan, np.inf, -np.inf, np.nan, np.nan, np.nan]
    bias = rng.standard_normal(6).astype(np.float32)
    for scoring in SCORINGS:
        for of_expert in (None, bias):
            experts, gates = _routed(bad, variant, scoring, of_expert)
            assert ((experts >= 0) & (experts < 6)).all()
            assert all(len(set(chosen)) == 3 for chosen in experts.tolist())
            assert np.isnan(gates).any(axis=1).tolist() == [False, True, True, False]
            wanted = _routed(clean, variant, scoring, of_expert)
            for token in (0, 3):
                assert experts[token].tolist() == wanted[0][token].tolist()
                assert gates[token].tobytes() == wanted[1][token].tobytes()


def check_a_bias_chooses_but_does_not_weigh(variant: str) -> None:
    logits = np.array([[3, 2, 1, 0, -1, -2]], np.float32)
    bias = np.array([0, 0, 0, 0, 5, 4], np.float32)
    experts, gates = _routed(logits, variant, "sigmoid", bias)
    assert experts.tolist() == [[4, 5, 0]]
    scores = 1 / (1 + np.exp(-logits[0, [4, 5, 0]]))
    np.testing.assert_allclose(gates[0], scores / scores.sum(), rtol=1e-5)


def check_a_scale_weighs_but_does_not_choose(variant: str) -> None:
    logits = np.array([[3, 2, 1, 0, -1, -2], [0, 1, 0, 5, 0, 4]], np.float32)
    scales = np.array([0, 1, -2, 1 + 2**-23, 9, 1 / 3], np.float32)
    experts, gates = _routed(logits, variant)
    chosen, scaled = _routed(logits, variant, gate_scales=scales)
    assert chosen.tolist() == experts.tolist() == [[0, 1, 2], [3, 5, 1]]
    assert scaled.tobytes() == (gates * scales[experts]).tobytes()
    assert _routed(logits, variant, gate_scales=np.ones(6, np.float32))[1].tobytes() == (
        gates.tobytes()
    )


ROUTE_CHECKS = (
    check_equal_logits_are_taken_by_index,
    check_a_nan_stays_with_its_token_and_no_index_leaves_the_range,
    check_a_bias_chooses_but_does_not_weigh,
    check_a_scale_weighs_but_does_not_choose,
)
PRODUCT_CHECKS = (
    check_an_expert_has_the_bits_of_matmul,
    check_a_token_has_the_same_bits_in_any_company,
)
