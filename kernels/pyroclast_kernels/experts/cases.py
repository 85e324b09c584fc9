"""Cases of `expert_gate_up`, `expert_down` and `combine`: ragged groups, experts without tokens,
all tokens on one, and the shapes of real models."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from pyroclast_kernels.cases import Arguments, Case
from pyroclast_kernels.experts import EXPERT_ACTIVATIONS, combine_cases, stacked_rows
from pyroclast_kernels.experts.down_cases import down, down_case
from pyroclast_kernels.experts.gate_up_cases import Kind, gate_up, gate_up_case
from pyroclast_kernels.experts.inputs import Shape, chosen
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.weights import BLOCK_FORMATS, PACKED_FORMATS
from pyroclast_kernels.weights.blocks import LAYOUTS
from pyroclast_kernels.weights.packing import PackedWeight, pack_rows

# gpt-oss: a clamped gated unit with biases.
_CLAMPED = Kind("values-q8", "quick_gelu", bias=True, limit=0.5, up_offset=1.0)
_SIZES = [
    (1, 5, 2, 32, 1, Kind("values-q8")),
    (7, 4, 3, 48, 2, Kind("values")),
    (13, 3, 2, 40, 1, Kind("values", bias=True)),
    (25, 6, 1, 96, 2, Kind("q8")),
]
_KINDS = [
    *(Kind("values", activation) for activation in EXPERT_ACTIVATIONS[1:]),
    _CLAMPED,
    Kind("values-q8", limit=0.4),
    Kind("values", "relu2", gated=False, bias=True),
    Kind("values-q8", "silu", gated=False),
]


def _for_values(kind: Kind) -> Kind:
    """The same without quantized results, which products of plain values have no use for."""
    return replace(kind, outputs="values")


def _columns(format: str) -> int:
    return LAYOUTS[format].columns if format in LAYOUTS else 19


CASES = [
    case
    for f in PACKED_FORMATS
    for case in (
        *(
            gate_up_case(
                Shape(n, experts, active, d_ff, n_blocks * _columns(f)),
                f,
                kind if f in BLOCK_FORMATS else _for_values(kind),
            )
            for n, experts, active, d_ff, n_blocks, kind in _SIZES
        ),
        gate_up_case(Shape(40, 5, 2, 64, _columns(f), crowded=True), f, Kind("values")),
        down_case(Shape(1, 5, 2, 17, _columns(f)), f),
        down_case(Shape(7, 4, 3, 50, 2 * _columns(f)), f, bias=True),
        down_case(Shape(25, 6, 1, 33, 3 * _columns(f)), f),
        down_case(Shape(40, 3, 3, 130, _columns(f), crowded=True), f),
    )
]
CASES += [
    gate_up_case(Shape(n, 4, 2, 64, columns), f, kind if f != "f32" else _for_values(kind))
    for f, columns in (("q8_0", 96), ("q4_k", 256), ("f32", 33))
    for kind in _KINDS
    for n in (1, 9)
]
CASES += [
    case
    for f, columns, n_experts, n_active in (
        ("q8_0", 64, 128, 8), ("f32", 20, 128, 8), ("mxfp4", 64, 32, 4), ("bf16", 31, 32, 4),
    )
    for case in (
        gate_up_case(Shape(5, n_experts, n_active, 32, columns), f, _for_values(_CLAMPED)),
        down_case(Shape(5, n_experts, n_active, 33, columns), f),
    )
]  # fmt: skip
CASES += [
    down_case(Shape(9, 4, 4, 40, 2048), "f32"),
    down_case(Shape(9, 4, 4, 40, 2048), "q8_0"),
]
CASES += combine_cases.CASES


@lru_cache(maxsize=1)
def _bench_weight(format: str, n_rows: int, n_cols: int) -> PackedWeight:
    """A weight that neighbouring cases share, since it takes seconds to make; not to be written."""
    first = PackedWeight.empty(format, 256, n_cols)
    pack_rows(raw_rows(np.random.default_rng([n_rows, n_cols]), 256, n_cols, format), first, 0)
    weight = PackedWeight.empty(format, n_rows, n_cols)
    for group_no in range(0, len(weight.data), 16):  # no product can tell that its rows repeat
        weight.data[group_no : group_no + 16] = first.data[: len(weight.data) - group_no]
    return weight


def _bench(case: Case, shape: Shape, n_parts: int) -> Arguments:
    """The case's arguments, made of one expert, with all of them in the weight."""
    few = replace(shape, n_experts=shape.n_active)
    make = gate_up(few, case.format, Kind("q8")) if n_parts == 2 else down(few, case.format, False)
    rng = np.random.default_rng([shape.n_tokens, shape.n_experts])
    n_rows = shape.n_experts * n_parts * stacked_rows(shape.rows)
    weight = _bench_weight(case.format, n_rows, shape.n_cols)
    return make | chosen(shape, rng) | {"weight": weight, "n_experts": shape.n_experts}


def _bench_case(shape: Shape, format: str, n_parts: int) -> Case:
    case = gate_up_case(shape, format, Kind("q8")) if n_parts == 2 else down_case(shape, format)
    return replace(case, make=lambda: _bench(case, shape, n_parts))


# Qwen3-30B-A3B, 8 of 128 experts: a step of one token, one of eight, and a prompt, of which NumPy
# could not do all experts in a minute, with the 32 tokens that an expert gets of 512.
_BENCH_SIZES = [(1, 128, 8), (8, 128, 8), (128, 16, 4)]
BENCH_CASES = [
    case
    for f in ("q4_k", "q8_0")
    for n_parts, rows, n_cols in ((2, 768, 2048), (1, 2048, 768))
    for case in (_bench_case(Shape(*size, rows, n_cols), f, n_parts) for size in _BENCH_SIZES)
] + [
    _bench_case(Shape(n, 32, 4, 2880, 2880), "mxfp4", n_parts) for n_parts in (2, 1) for n in (1, 8)
]
BENCH_CASES += combine_cases.BENCH_CASES
