"""quantize and glu in Triton, where their case lists do not look: exact blocks, bfloat16,
infinities, neighbours."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.activation.reference import glu as reference
from pyroclast_kernels.cases import EPS
from pyroclast_kernels.q8_blocks import Q8_BLOCK
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.triton.device import INTERPRETED

QUANTIZE: Any = all_variants("quantize")["triton"].bind("f32")
GLU: Any = all_variants("glu")["triton"].bind("f32")
# What a number loses as bfloat16, with its 8 bits: the interpreter of Triton 3.6 does not round.
LOST = 2.0**-7 if INTERPRETED else 2.0**-8
RNG = np.random.default_rng(5)


def quantized(x: Any, n_tokens: int | None = None) -> Any:
    """x (rows, n), the first n_tokens of them quantized; float32 or bfloat16 as uint16."""
    n_rows, n_cols = x.shape
    out = np.zeros((n_rows, n_cols // 32), Q8_BLOCK)
    count = n_rows if n_tokens is None else n_tokens
    QUANTIZE(n_tokens=np.array([count]), x=x.copy(), out_q8=out, n_cols=n_cols)
    return out


def glu(
    gate_up: Any,
    activation: str = "silu",
    *,
    bfloat16: bool = False,
    blocks: bool = False,
    gated: int = 1,
) -> Any:
    """(the values, the blocks) of every row."""
    n_rows, d_ff = gate_up.shape[0], gate_up.shape[1] // (1 + gated)
    out = np.full((n_rows, d_ff), 7, np.uint16 if bfloat16 else np.float32)
    out_q8 = np.zeros((n_rows, d_ff // 32), Q8_BLOCK) if blocks else None
    GLU(
        n_tokens=np.array([n_rows]),
        gate_up=gate_up.copy(),
        out=out,
        out_q8=out_q8,
        d_ff=d_ff,
        activation=ACTIVATIONS.index(activation),
        gated=gated,
    )
    return (as_float(out) if bfloat16 else out), out_q8


def as_float(bfloat16: Any) -> Any:
    return (bfloat16.astype(np.uint32) << 16).view(np.float32)


def wanted(gate_up: Any) -> Any:
    out = np.zeros((len(gate_up), gate_up.shape[1] // 2), np.float32)
    given = deepcopy(gate_up)
    with np.errstate(all="ignore"):
        reference(np.array([len(given)]), given, out, None, out.shape[1], 0, 1)
    return out


# ---- quantize ---------------------------------------------------------------------------------


def assert_the_same_blocks(x: Any, got: Any) -> None:
    blocks = q8_blocks.quantize(x)
    for field in Q8_BLOCK.names or ():
        np.testing.assert_array_equal(got[field], blocks[field], err_msg=field)


@pytest.mark.parametrize("n_cols", [32, 1056, 2048])
def test_quantize_gives_the_bits_of_the_reference(n_cols: int) -> None:
    scales = np.exp(RNG.uniform(-60.0, 60.0, (3, 1)))
    x = (RNG.standard_normal((3, n_cols)) * scales).astype(np.float32)
    assert_the_same_blocks(x, quantized(x))


def test_ties_go_to_the_even_number() -> None:
    x = np.arange(-16, 16, dtype=np.float32)[None]  # whole numbers, for which a scale of 1 is best
    x[0, 15:19] = -0.5, 0.5, 1.5, 2.5
    x[0, 0] = 127.0
    assert_the_same_blocks(x, quantized(x))
    assert quantized(x)["values"][0, 0, 15:19].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_poisons_the_scale_of_its_block_alone(bad: float) -> None:
    x = RNG.standard_normal((2, 96)).astype(np.float32)
    x[1, 40] = bad
    got = quantized(x)
    assert_the_same_blocks(x, got)
    assert np.isnan(got["scale"]).tolist() == [[False] * 3, [False, True, False]]


def test_blocks_too_small_for_an_inverse() -> None:
    x = np.array([[1e-40, 3e-38, 0.0, -2e-37] * 8], np.float32)
    got = quantized(x)
    assert np.abs(q8_blocks.dequantize(got) - x).max() < 4e-37


def test_quantize_takes_bfloat16_and_leaves_the_rest_alone() -> None:
    cut = (RNG.standard_normal((4, 64)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    got = quantized(cut, 3)
    assert_the_same_blocks(as_float(cut)[:3], got[:3])
    assert not got[3:].view(np.uint8).any(), "wrote beyond the tokens"


# ---- glu -----------------------------------------------------------------------------------


@pytest.mark.parametrize("d_ff", [1, 33, 1000, 1056])
def test_glu_of_widths_of_every_kind(d_ff: int) -> None:
    gate_up = (RNG.standard_normal((2, 2 * d_ff)) * 3).astype(np.float32)
    expected = wanted(gate_up)
    assert (np.abs(glu(gate_up)[0] - expected) <= 8 * EPS * np.abs(expected)).all()


def test_gates_from_one_end_of_the_exponential_to_the_other() -> None:
    gate = np.concatenate([np.linspace(-95.0, 95.0, 3801), np.linspace(-88.8, -87.0, 295)])
    gate_up = np.stack([np.concatenate([gate, np.full(len(gate), up)]) for up in (1.0, -0.25)])
    gate_up = gate_up.astype(np.float32)
    exact = gate_up[:, : len(gate)].astype(np.float64)
    exact = exact / (1 + np.exp(-exact)) * gate_up[:, len(gate) :]
    assert (np.abs(glu(gate_up)[0] - exact) <= 8 * EPS * np.abs(exact) + 1e-36).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_that_are_not_finite(activation: str) -> None:
    gate_up = np.array([[3e38, -3e38, np.nan, np.inf, -np.inf, *[1.0] * 5]], np.float32)
    top = np.inf if activation == "relu2" else np.float32(3e38)
    bottom = 0.0 if activation in ("relu", "relu2") else np.nan
    wanted = [top, 0.0, np.nan, np.inf, bottom]
    assert np.array_equal(glu(gate_up, activation)[0][0], wanted, True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_without_a_gate_up_is_one(activation: str) -> None:
    x = RNG.standard_normal((3, 96)).astype(np.float32)
    for kind in ({}, {"bfloat16": True}):
        values, blocks = glu(x, activation, gated=0, blocks=True, **kind)
        same, same_q8 = glu(np.hstack([x, np.ones_like(x)]), activation, blocks=True, **kind)
        assert values.tobytes() == same.tobytes()
        assert blocks.tobytes() == same_q8.tobytes()


def test_bfloat16_is_the_float32_result_rounded() -> None:
    gate_up = RNG.standard_normal((3, 2 * 96)).astype(np.float32)
    exact = glu(gate_up)[0]
    got = glu(gate_up, bfloat16=True)[0]
    assert (np.abs(got - exact) <= LOST * np.abs(exact)).all()
    assert (got != exact).any()


def test_the_blocks_are_those_of_the_values() -> None:
    values, blocks = glu(RNG.standard_normal((3, 2 * 1056)).astype(np.float32), blocks=True)
    assert_the_same_blocks(values, blocks)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_token_does_not_see_its_neighbours(activation: str) -> None:
    gate_up = RNG.standard_normal((4, 2 * 352)).astype(np.float32)
    values, blocks = glu(gate_up, activation, blocks=True)
    for row in range(4):
        one, one_q8 = glu(gate_up[row : row + 1], activation, blocks=True)
        assert one.tobytes() == values[row].tobytes()
        assert one_q8.tobytes() == blocks[row].tobytes()


def test_no_tokens() -> None:
    assert not quantized(np.ones((2, 64), np.float32), 0).view(np.uint8).any()
    out = np.full((1, 40), 7.0, np.float32)
    gate_up = np.ones((1, 80), np.float32)
    sizes = {"d_ff": 40, "activation": 0, "gated": 1}
    GLU(n_tokens=np.array([0]), gate_up=gate_up, out=out, out_q8=None, **sizes)
    assert (out == 7.0).all()
