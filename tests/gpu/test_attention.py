"""Attention in Triton, beyond its case list: neighbours, limits, stale cells, outputs, scratch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.attention import cache
from pyroclast_kernels.attention.cases import _attention as attention_arguments
from pyroclast_kernels.attention.triton.attention import launch_attention
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.rope.cases import Shape
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits, limits_of, on_host

Arguments = dict[str, Any]
FORMATS = ("f32", "f16", "bf16")
# A prompt over several tiles of tokens, the rest of one, and one new token before and after a
# split's edge.
MIXED = Shape(6, 2, 32, ((0, 50), (300, 1), (45, 5), (20, 1)))


def made(shape: Shape, format: str, window: int = 0, **scoring: float) -> Arguments:
    return attention_arguments(shape, format, window, False, **scoring)


def run(format: str, arguments: Arguments, limits: Limits | None = None) -> np.ndarray[Any, Any]:
    """The rows of `out`, as float32."""
    launch = launch_attention(format)

    def launched(exact: Limits, **tensors: Any) -> None:
        launch(limits or exact, **tensors)

    with np.errstate(all="ignore"):  # of the interpreter: NaNs are what some tests are about
        on_host(launched)(**arguments)
    assert not triton_device.counters().any()
    n_tokens = int(arguments["n_tokens"][0])
    assert (arguments["out"][n_tokens:] == 7).all()  # as it was
    return arguments["out"][:n_tokens]


def alone(arguments: Arguments, seq: int) -> Arguments:
    """One sequence of a batch, in a batch of its own."""
    start, stop = arguments["seq_starts"][seq : seq + 2]
    return arguments | {
        "n_tokens": np.array([stop - start]),
        "n_seqs": np.array([1]),
        "seq_starts": np.array([0, stop - start], np.int32),
        "positions": arguments["positions"][start:stop],
        "block_tables": arguments["block_tables"][seq : seq + 1],
        "qkv": arguments["qkv"][start:stop],
        "out": np.full_like(arguments["out"], 7),
    }


@pytest.mark.parametrize(
    ("format", "window", "softcap", "sinks"),
    [("f32", 0, 0, None), ("f16", 0, 1.5, None), ("f16", 21, 0, 3), ("bf16", 21, 1.5, 3)],
)
def test_a_sequence_gets_the_same_bits_alone_and_in_company(
    format: str, window: int, softcap: float, sinks: float
) -> None:
    arguments = made(MIXED, format, window, softcap=softcap, sinks=sinks)
    together = run(format, arguments).copy()
    starts = arguments["seq_starts"]
    for seq in range(len(MIXED.spans)):
        lone = run(format, alone(arguments, seq))
        np.testing.assert_array_equal(together[starts[seq] : starts[seq + 1]], lone)


@pytest.mark.parametrize("format", FORMATS)
def test_limits_change_no_bit(format: str) -> None:
    arguments = made(Shape(4, 2, 32, ((300, 1), (20, 1))), format)
    exact = run(format, arguments).copy()
    limits = limits_of(arguments)
    assert limits == Limits(2, 2, 301, decode=True)
    arguments["out"][:] = 7
    wide = run(format, arguments, Limits(40, 5, 2000, decode=False))
    np.testing.assert_array_equal(exact, wide)


def poison_unseen(arguments: Arguments) -> None:
    """NaN in every block that is in no table, and behind and before what the tokens see."""
    in_pairs = arguments["k_cache"].dtype == np.uint16
    nan = 0x7FC0 if in_pairs else np.nan
    used = np.zeros((len(arguments["k_cache"]), cache.BLOCK_SIZE), bool)
    starts = arguments["seq_starts"]
    for seq, table in enumerate(arguments["block_tables"]):
        positions = arguments["positions"][starts[seq] : starts[seq + 1]]
        window = arguments["window"] or positions[-1] + 1
        seen = np.arange(max(0, positions[0] - window + 1), positions[-1] + 1)
        used[table[seen // cache.BLOCK_SIZE], seen % cache.BLOCK_SIZE] = True
    for block, slot in np.argwhere(~used):
        arguments["k_cache"][block, :, :, slot] = nan
        at = np.s_[block, :, slot // 2, :, slot % 2] if in_pairs else np.s_[block, :, slot]
        arguments["v_cache"][at] = nan


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("window", [0, 21])
def test_what_nobody_sees_may_be_anything(format: str, window: int) -> None:
    arguments = made(replace(MIXED, spans=((0, 20), (300, 1), (45, 5))), format, window)
    clean = run(format, arguments).copy()
    poison_unseen(arguments)
    arguments["out"][:] = 7
    np.testing.assert_array_equal(clean, run(format, arguments))


@pytest.mark.parametrize("format", FORMATS)
def test_sinks_far_from_the_scores(format: str) -> None:
    """Far below they change nothing, far above they leave nothing."""
    plain, below, above = (
        run(format, made(MIXED, format, **({} if about is None else {"sinks": about})))
        for about in (None, -200.0, 200.0)
    )
    np.testing.assert_array_equal(below, plain)
    assert not above.any() and plain.all()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("which", ["k_cache", "v_cache"])
@pytest.mark.parametrize("first", [40, 20])
def test_a_nan_reaches_those_who_see_it(format: str, which: str, first: int) -> None:
    """Those of a prompt's tokens from position 45 on; all, where it lies before the prompt."""
    shape = Shape(4, 2, 32, ((first + 10, 20),))
    arguments = made(shape, format)
    clean = run(format, arguments).copy()
    at = np.array([arguments["block_tables"][0, 1]]), np.array([45 % 32])
    one = np.ones((1, 2, 32), np.float32)
    one[0, 0, 5] = np.nan
    other = "v_cache" if which == "k_cache" else "k_cache"
    kept = arguments[other].copy()
    cache.write(arguments["k_cache"], arguments["v_cache"], *at, one, one, cache.BLOCK_SIZE)
    arguments[other] = kept
    arguments["out"][:] = 7
    got = run(format, arguments).reshape(-1, 4, 32)
    sees = arguments["positions"] >= 45
    assert np.isnan(got[sees, :2]).any(axis=-1).all()
    assert not np.isnan(got[:, 2:]).any()
    np.testing.assert_array_equal(got[~sees], clean.reshape(-1, 4, 32)[~sees])


@pytest.mark.parametrize("format", FORMATS)
def test_bfloat16_and_8_bit_outputs_are_the_float32_output_rounded(format: str) -> None:
    arguments = made(MIXED, format)
    exact = run(format, arguments).copy()
    n_tokens, width = exact.shape
    arguments["out_q8"] = np.zeros((n_tokens + 1, width // 32), q8_blocks.Q8_BLOCK)
    arguments["out"] = cache.to_bf16(arguments["out"])
    launch = launch_attention(format)
    on_host(launch)(**arguments)
    rounded = cache.from_bf16(arguments["out"])
    assert (rounded[n_tokens] == 7).all()
    np.testing.assert_allclose(rounded[:n_tokens], exact, rtol=2.0**-7)
    want, got = q8_blocks.quantize(exact), arguments["out_q8"]
    for field in q8_blocks.Q8_BLOCK.names or ():
        np.testing.assert_array_equal(got[:n_tokens][field], want[field], err_msg=field)
    assert (got[n_tokens:] == np.zeros((), q8_blocks.Q8_BLOCK)).all()


def test_8_bit_output_alone() -> None:
    arguments = made(Shape(4, 2, 32, ((300, 1), (7, 3))), "f16")
    exact = run("f16", arguments).copy()
    arguments["out"] = None
    arguments["out_q8"] = np.zeros((len(exact), 4), q8_blocks.Q8_BLOCK)
    on_host(launch_attention("f16"))(**arguments)
    want = q8_blocks.quantize(exact)["values"]
    np.testing.assert_array_equal(arguments["out_q8"]["values"], want)


def test_many_sequences_share_a_small_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = made(Shape(4, 2, 32, ((600, 1), (300, 1), (530, 1), (20, 1), (700, 1))), "f16")
    ample = run("f16", arguments).copy()
    arguments["out"][:] = 7
    two = 2 * 4 * 3 * (32 + 2) * 4  # sequences, heads, splits of 256 positions, floats
    small = torch.zeros(two, dtype=torch.uint8, device=triton_device.device())
    monkeypatch.setattr(triton_device, "scratch", lambda: small)
    np.testing.assert_array_equal(ample, run("f16", arguments))
    smaller = small[: two // 4]
    monkeypatch.setattr(triton_device, "scratch", lambda: smaller)
    with pytest.raises(KernelError, match=f"4 heads take {two // 2} bytes, scratch has {two // 4}"):
        run("f16", arguments)
