"""norm in Triton, where the op's case list does not look: bfloat16, empty calls, neighbours."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from pyroclast_kernels.cases import EPS
from pyroclast_kernels.norm.reference import norm as reference
from pyroclast_kernels.q8_blocks import Q8_BLOCK
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.triton.device import INTERPRETED

# What a number loses as bfloat16, with its 8 bits: the interpreter of Triton 3.6 does not round.
LOST = 2.0**-7 if INTERPRETED else 2.0**-8
NORM: Any = all_variants("norm")["triton"].bind("f32")


def arguments(n_tokens: int, d_model: int, *, gathered: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng([n_tokens, d_model])
    return {
        "n_tokens": np.array([n_tokens]),
        "rows": rng.permutation(n_tokens + 2).astype(np.int32) if gathered else None,
        "x": rng.standard_normal((n_tokens + 2, d_model)).astype(np.float32),
        "weight": rng.standard_normal(d_model).astype(np.float32),
        "bias": None,
        "out": np.full((n_tokens + 2, d_model), 77.0, np.float32),
        "out_q8": None,
        "d_model": d_model,
        "eps": 1e-6,
        "kind": 0,
    }


def with_blocks(given: dict[str, Any]) -> dict[str, Any]:
    n_blocks = given["d_model"] // 32
    return {**given, "out_q8": np.zeros((len(given["x"]), n_blocks), Q8_BLOCK)}


def as_float(bfloat16: Any) -> Any:
    return (bfloat16.astype(np.uint32) << 16).view(np.float32)


def run(given: dict[str, Any]) -> dict[str, Any]:
    given = deepcopy(given)
    NORM(**given)
    return given


@pytest.mark.parametrize("d_model", [1, 31, 33, 96, 255, 1000, 4097, 8192, 12288])
def test_widths_of_every_kind(d_model: int) -> None:
    given = arguments(2, d_model, gathered=True)
    wanted = deepcopy(given)
    reference(**wanted)
    got = run(given)["out"]
    bound = (np.log2(d_model) + 16) * EPS * np.abs(wanted["out"])
    assert (np.abs(got - wanted["out"]) <= bound).all()
    assert (got[2:] == 77.0).all(), "wrote beyond the tokens"


@pytest.mark.parametrize("d_model", [45, 576])
def test_bfloat16_is_the_float32_result_rounded(d_model: int) -> None:
    given = arguments(3, d_model)
    exact = run(given)["out"][:3]
    got = run({**given, "out": np.zeros((5, d_model), np.uint16)})["out"]
    # 16 EPS: the sum may run in another order.
    assert (np.abs(as_float(got[:3]) - exact) <= (LOST + 16 * EPS) * np.abs(exact)).all()
    assert (got[3:] == 0).all()


def test_bfloat16_input_is_its_value() -> None:
    given = arguments(2, 64)
    cut = (given["x"].view(np.uint32) >> 16).astype(np.uint16)
    a = run({**given, "x": cut})["out"]
    b = run({**given, "x": as_float(cut)})["out"]
    np.testing.assert_allclose(a, b, rtol=16 * EPS)


def test_blocks_alone_and_beside_the_values() -> None:
    both = run(with_blocks(arguments(3, 160)))
    alone = run({**with_blocks(arguments(3, 160)), "out": None})
    assert both["out_q8"].tobytes() == alone["out_q8"].tobytes()
    assert not alone["out_q8"][3:].view(np.uint8).any(), "wrote beyond the tokens"


def test_a_token_does_not_see_its_neighbours() -> None:
    given = with_blocks(arguments(5, 352))
    together = run(given)
    for token in range(5):
        one = {name: given[name][token : token + 1].copy() for name in ("x", "out", "out_q8")}
        alone = run({**given, **one, "n_tokens": np.array([1])})
        for name in ("out", "out_q8"):
            assert alone[name][0].tobytes() == together[name][token].tobytes()


def test_a_nan_stays_in_its_row_and_is_seen_in_the_scales() -> None:
    given = with_blocks(arguments(2, 64))
    given["x"][0, 40] = np.nan
    got = run(given)
    assert np.isnan(got["out"][0]).all() and np.isnan(got["out_q8"]["scale"][0]).all()
    assert np.isfinite(got["out"][1]).all() and np.isfinite(got["out_q8"]["scale"][1]).all()


def test_no_tokens() -> None:
    got = run({**arguments(2, 64), "n_tokens": np.array([0])})
    assert (got["out"] == 77.0).all()
