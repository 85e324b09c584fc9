"""`rope_table` and `rope` beyond their case lists: what each parameter changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyroclast_kernels.attention import FORMATS
from pyroclast_kernels.cases import expected, mismatches, op_cases
from pyroclast_kernels.registry import get_op
from pyroclast_kernels.rope.cases import Shape, paged, rotation

Arguments = dict[str, Any]
SHAPE = Shape(4, 2, 64, ((30, 5), (100, 2)))


def rotated(rotary_dim: int, temperature: float = 0.0, length: int = 1) -> tuple[Arguments, Any]:
    """(the arguments after the reference has run, q and k before)."""
    arguments = paged(SHAPE, "f32", np.random.default_rng(1))
    del arguments["n_seqs"], arguments["seq_starts"]
    arguments |= rotation(arguments["positions"], rotary_dim, temperature, length)
    before = arguments["qkv"].copy()
    get_op("rope").reference(**arguments)
    return arguments, before


@pytest.mark.parametrize("rotary_dim", [64, 16, 2, 0])
def test_the_first_dimensions_rotate_and_the_rest_passes(rotary_dim: int) -> None:
    after, before = rotated(rotary_dim)
    before, got = (x[:, : 6 * 64].reshape(-1, 6, 64) for x in (before, after["qkv"]))
    np.testing.assert_array_equal(got[..., rotary_dim:], before[..., rotary_dim:])
    half = rotary_dim // 2
    turned = (before[..., :half] + 1j * before[..., half:rotary_dim]) * (
        after["table"][:, None, 0] + 1j * after["table"][:, None, 1]
    )
    np.testing.assert_allclose(got[..., :half], turned.real, atol=1e-5)
    np.testing.assert_allclose(got[..., half:rotary_dim], turned.imag, atol=1e-5)
    assert rotary_dim == 0 or np.abs(got - before)[..., :rotary_dim].max() > 0.1


def test_queries_grow_at_multiples_of_the_length_and_keys_do_not() -> None:
    plain, _ = rotated(16)
    warm, _ = rotated(16, 0.5, 32)
    steps = np.array([0, 0, 1, 1, 1, 3, 3])  # positions 30..34, 100 and 101
    factor = (1 + 0.5 * np.log(1 + steps))[:, None]
    q = 4 * 64
    np.testing.assert_allclose(warm["qkv"][:, :q], plain["qkv"][:, :q] * factor, rtol=1e-6)
    np.testing.assert_array_equal(warm["qkv"][:, q:], plain["qkv"][:, q:])
    np.testing.assert_array_equal(warm["k_cache"], plain["k_cache"])


@pytest.mark.parametrize("amplitude", [1.0, 1.25])
def test_the_amplitude_multiplies_cosines_and_sines(amplitude: float) -> None:
    arguments = next(c for c in op_cases("rope_table") if c.name == "5x32").make()
    get_op("rope_table").reference(**(arguments | {"amplitude": amplitude}))
    lengths = np.hypot(*arguments["out"][:5].swapaxes(0, 1))
    np.testing.assert_allclose(lengths, amplitude, rtol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("parameter", ["rotary_dim", "temperature", "temperature_length"])
def test_a_variant_that_ignores_a_parameter_fails_a_case(parameter: str, format: str) -> None:
    caught = 0
    for case in op_cases("rope"):
        got = case.make()
        names = ("rotary_dim", "temperature", "temperature_length")
        how = {name: got[name] for name in names}
        neutral = {"rotary_dim": got["head_dim"], "temperature": 0.0, "temperature_length": 1}
        if case.format != format or how[parameter] == neutral[parameter]:
            continue
        how[parameter] = neutral[parameter]
        got |= rotation(got["positions"], **how)
        get_op("rope").reference(**got)
        caught += bool(mismatches(case, *expected(case), got, rounds=True))
    assert caught >= 2


def test_a_variant_that_ignores_the_amplitude_fails_a_case() -> None:
    cases = [case for case in op_cases("rope_table") if case.make()["amplitude"] != 1]
    for case in cases:
        got = case.make()
        get_op("rope_table").reference(**(got | {"amplitude": 1.0}))
        assert mismatches(case, *expected(case), got)
    assert cases
