"""Rotary positions in Triton, beyond their case list: far positions, limits, bits of bfloat16."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from pyroclast_kernels.cases import EPS, op_cases
from pyroclast_kernels.registry import get_op
from pyroclast_kernels.rope.triton_kernels import launch_rope, launch_rope_table
from pyroclast_kernels.triton.launch import Launch, Limits, on_host

Arguments = dict[str, Any]


def arguments_of(format: str, name: str) -> Arguments:
    return next(c for c in op_cases("rope") if (c.name, c.format) == (name, format)).make()


def run(launch: Launch, limits: Limits, arguments: Arguments) -> Arguments:
    after = deepcopy(arguments)
    on_host(lambda _, **tensors: launch(limits, **tensors))(**after)
    return after


def test_far_positions_are_as_exact_as_near_ones() -> None:
    positions = np.array([0, 1, 4095, 65535, 100003, 131071], np.int32)
    inv_freq = (5e5 ** -(np.arange(48) / 48)).astype(np.float32)
    out = np.full((len(positions) + 1, 2, 48), 7, np.float32)
    on_host(launch_rope_table)(
        n_tokens=np.array([len(positions)]),
        positions=positions,
        inv_freq=inv_freq,
        out=out,
        half_dim=48,
        amplitude=1.0,
    )
    angles = (positions[:, None].astype(np.float32) * inv_freq).astype(np.float64)
    np.testing.assert_allclose(out[:-1], np.stack([np.cos(angles), np.sin(angles)], 1), atol=EPS)
    assert (out[-1] == 7).all()


@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("n_tokens", [2, 8, 9, 100])
def test_limits_change_no_bit(format: str, n_tokens: int) -> None:
    """A program per token, or tiles of them: tokens beyond the count do not exist."""
    before = arguments_of(format, "9h3k64d-5@0+2@31+1@100")
    before["n_tokens"] = np.array([2])
    two = run(launch_rope, Limits(2), before)
    got = run(launch_rope, Limits(n_tokens), before)
    for name in ("qkv", "k_cache", "v_cache"):
        np.testing.assert_array_equal(got[name], two[name])
        assert (got[name] != before[name]).any()
    np.testing.assert_array_equal(got["qkv"][2:], before["qkv"][2:])


def test_limits_change_no_bit_of_the_table() -> None:
    before = next(c for c in op_cases("rope_table") if c.name == "5x32").make()
    exact, wide = (run(launch_rope_table, Limits(n), before)["out"] for n in (5, 50))
    np.testing.assert_array_equal(exact, wide)


def test_bfloat16_cells_are_the_reference_s_bit_for_bit() -> None:
    """Ties, numbers that round up to the next power, tiny ones, and what is no number."""
    before = arguments_of("bf16", "14h2k24d-3@63")
    bits = [0x3F808000, 0x3F818000, 0x3FFFFFFF, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF]
    odd = np.array([*bits, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000], np.uint32)
    width = 2 * 24
    before["qkv"][:, -width:] = np.resize(odd.view(np.float32), (3, width))
    want = deepcopy(before)
    get_op("rope").reference(**want)
    got = run(launch_rope, Limits(3), before)
    np.testing.assert_array_equal(got["v_cache"], want["v_cache"])
    np.testing.assert_array_equal(got["k_cache"], want["k_cache"])
