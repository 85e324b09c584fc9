"""Encoders whose scales are searched: near the values, and as good as ggml's own.

PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python."""

import os
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.encode import ENCODERS, encodable_formats, encode

K_FORMATS = [name for name in ENCODERS if name.endswith("_k")]
# The root mean square error of normal values, as a share of their deviation: a tenth above what was
# measured.
ERRORS = {"q2_k": 0.32, "q3_k": 0.17, "q4_k": 0.08, "q5_k": 0.041, "q6_k": 0.02}
PEER = Path(__file__).parents[1] / "peers" / "llama_quantize.py"


def some_values(shape=(16, 512), seed=0):
    """Normal rows, rows with heavy tails, and groups of zeros, constants and one sign."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(shape) * 0.02).astype(np.float32)
    values[1::4] = rng.standard_t(3, values[1::4].shape)
    values[2, :64] = 0
    values[2, 64:128] = 0.25
    values[3] = np.abs(values[3])
    values[4] = -np.abs(values[4])
    return values


def error(values, raw, name):
    """Root mean square of what the format loses."""
    return float(np.sqrt(((formats.dequantize(raw, name) - values) ** 2).mean()))


@pytest.mark.parametrize("name", K_FORMATS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_the_error_is_small_at_every_scale(name, scale):
    values = np.random.default_rng(1).standard_normal((8, 1024)).astype(np.float32) * scale
    assert error(values, encode(values, name), name) < ERRORS[name] * scale


@pytest.mark.parametrize("name", K_FORMATS)
def test_zeros_and_signs(name):
    values = some_values()
    back = formats.dequantize(encode(values, name), name)
    assert np.array_equal(back[2, :64], np.zeros(64, np.float32))
    # A constant group is not lost among its neighbours.
    assert np.abs(back[2, 64:128] - 0.25).max() < 0.05
    assert error(values[3:5], encode(values[3:5], name), name) < 0.02 * ERRORS[name] * 1.1


@pytest.mark.parametrize("name", ["q5_0", "q5_1"])
@pytest.mark.parametrize("scale", [1e-6, 0.02, 3000.0])
def test_five_bits_are_rounded_as_ggml_rounds(name, scale):
    values = some_values() * np.float32(scale / 0.02)
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name.upper()])
    assert np.array_equal(encode(values, name), expected.view(np.uint8))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_stay_visible(name, bad):
    values = np.ones((2, 512), dtype=np.float32)
    values[1, 300] = bad
    back = formats.dequantize(encode(values, name), name)
    assert np.isfinite(back[0]).all()
    assert not np.isfinite(back[1, 300])


@pytest.mark.parametrize("name", ENCODERS)
def test_rows_do_not_depend_on_their_neighbours(name):
    values = some_values((300, 512))
    raw = encode(values, name)
    assert np.array_equal(raw[[0, 256, 299]], encode(values[[0, 256, 299]], name))


def test_formats_that_are_rounded_are_those_of_quantize():
    values = some_values()
    for name in formats.quantizable_formats():
        assert np.array_equal(encode(values, name), formats.quantize(values, name))
    assert set(encodable_formats()) == {*ENCODERS, *formats.quantizable_formats()}
    with pytest.raises(KernelError, match="cannot encode iq4_nl; supported: f32, f16"):
        encode(values, "iq4_nl")


@pytest.mark.parametrize("name", ENCODERS)
def test_the_error_is_not_above_ggml_s(tmp_path, name):
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if not python:
        pytest.skip("PYROCLAST_LLAMA_PYTHON names no Python")
    values = some_values((64, 1024))
    np.save(tmp_path / "values.npy", values)
    layout = formats.FORMATS[name]
    row_bytes = formats.row_bytes(1024, name)
    command = [python, PEER, tmp_path / "values.npy", layout.ggml_type, row_bytes, tmp_path / "o"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([str(each) for each in command], env=environment, check=True)
    theirs = np.fromfile(tmp_path / "o", np.uint8).reshape(64, row_bytes)
    for rows in (slice(0, None, 4), slice(1, None, 4)):  # normal, heavy tails
        mine = error(values[rows], encode(values[rows], name), name)
        assert mine <= 1.1 * error(values[rows], theirs[rows], name)
