"""Activations in 8 bits: the scale that a block takes, and the same bits from every variant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.q8_blocks import BLOCK, LEVELS, Q8_BLOCK
from pyroclast_kernels.selection import Selection, all_variants

VARIANTS = [name for name, v in all_variants("quantize").items() if v.launch is None]
# From blocks of which nothing is left to the largest float32.
MAGNITUDES = (1.0, 1e-45, 1e-42, 1e-38, 3.7e-37, 1e-36, 1e-34, 1e-30, 1e30, 1e38, 0.0)


def activations(n_blocks: int = 37) -> Any:
    """Rows with the outliers that activations have, one for each magnitude; then whole numbers, for
    which the first level loses nothing, and equal ones."""
    values = np.random.default_rng(1).standard_t(3, (len(MAGNITUDES), n_blocks * BLOCK))
    values /= np.abs(values).max()
    with np.errstate(under="ignore"):
        rows = (values * np.array(MAGNITUDES)[:, None]).astype(np.float32)
    whole = np.rint(values[:1] * 126).astype(np.float32)
    whole[:, ::BLOCK] = 127
    return np.concatenate([rows, whole, np.full_like(whole, 1.5)])


def quantized(x: Any, variant: str) -> Any:
    if reason := all_variants("quantize")[variant].unavailable:
        pytest.skip(reason)
    n_tokens, n_cols = x.shape
    out = np.zeros((n_tokens, n_cols // BLOCK), Q8_BLOCK)
    recorder = Recorder(Selection(f"quantize={variant}"))
    recorder.call("quantize", n_tokens=np.array([n_tokens]), x=x, out_q8=out, n_cols=n_cols)
    Program(recorder.calls).run()
    return out


def errors(x: Any, blocks: Any) -> Any:
    """Sums of squares, of each block."""
    stored = blocks["values"].astype(np.float64) * blocks["scale"][..., None]
    return ((stored - x.reshape(stored.shape)) ** 2).sum(axis=-1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_takes_the_same_scales(variant: str) -> None:
    x = activations()
    assert quantized(x, variant).tobytes() == q8_blocks.quantize(x).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("variant", VARIANTS)
def test_of_a_block_that_is_not_finite_all_write_the_same(variant: str, bad: float) -> None:
    """Beside the scale of NaN, the other values; but Cython writes zeros."""
    x = activations()
    x[:, 5::70] = bad
    got, wanted = quantized(x, variant), q8_blocks.quantize(x)
    spoiled = np.isnan(wanted["scale"])
    assert spoiled.any() and not spoiled.all()
    for field in wanted.dtype.names or ():
        expected = wanted[field]
        if variant == "cython" and expected.dtype.kind == "i":
            expected[spoiled] = 0
        np.testing.assert_array_equal(got[field], expected, field)


def test_a_block_takes_the_level_that_loses_least(monkeypatch: pytest.MonkeyPatch) -> None:
    x = activations(500)[:1]
    chosen = q8_blocks.quantize(x)
    levels = np.rint(np.abs(x.reshape(*chosen.shape, BLOCK)).max(axis=-1) / chosen["scale"])
    assert set(levels.reshape(-1)) == set(LEVELS), "each is the best one of some block"
    others = []
    for i in range(len(LEVELS)):
        with monkeypatch.context() as only:
            for name in ("LEVELS", "LEVEL_FACTORS", "LOSS_FACTORS"):
                only.setattr(q8_blocks, name, getattr(q8_blocks, name)[i : i + 1])
            others.append(errors(x, q8_blocks.quantize(x)))
    best = np.min(others, axis=0)
    # An error of a 256th of a step in each of 32 values, at most, decides wrongly.
    slack = 32 * 2 * 0.5 / 256 * chosen["scale"].astype(np.float64) ** 2
    assert (errors(x, chosen) <= best + slack).all()
    assert errors(x, chosen).sum() < 0.92 * others[0].sum(), "the gain of having six"


def test_whole_numbers_keep_the_first_level() -> None:
    blocks = q8_blocks.quantize(activations()[-2:-1])
    assert (blocks["scale"] == 1).all()
    assert (errors(activations()[-2:-1], blocks) == 0).all()
