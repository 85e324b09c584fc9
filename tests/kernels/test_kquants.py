"""q5_0, q5_1, the K formats and those with a table: packed exactly, and run by whole models that
hold them.

The models are random blocks, whose values the `gguf` package tells, not code of Pyroclast.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul import BLOCK_FORMATS, SIMPLE_FORMATS
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.packing import PackedWeight, group_bytes, pack_rows
from raw_blocks import random_blocks as random_blocks_of
from stepping import load, logits_of, step
from tiny import BASE, random_weights, write_gguf

Array = NDArray[Any]

ON_DISK = [f for f in BLOCK_FORMATS if formats.FORMATS[f].ggml_type is not None]
NEW_FORMATS = [f for f in ON_DISK if f not in SIMPLE_FORMATS]
CONFIG = replace(BASE, d_model=256, n_heads=4, n_kv_heads=2, head_dim=64, d_ff=512)
TOKENS = np.random.default_rng(3).integers(0, 256, 70).tolist()
TYPES = {format: format.upper() for format in BLOCK_FORMATS}
# As llama.cpp mixes them in a Q4_K_M file: the values, the way down and the head have more bits.
MIXED = {"wv": "q6_k", "w_down": "q6_k", "output": "q6_k", "wo": "q5_k"}


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_packed_rows_have_the_values_of_the_file(format: str) -> None:
    raw = raw_rows(np.random.default_rng(5), 37, 512, format)
    weight = PackedWeight.empty(format, 42, 512)
    pack_rows(raw, weight, 5)
    want = formats.dequantize(raw, format)
    assert np.array_equal(weight.dequantize(slice(5, None)), want)
    if format in ON_DISK:
        known = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[TYPES[format]])
        assert np.array_equal(known, want)
    assert not weight.dequantize(slice(0, 5)).any()  # rows never written


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_packed_rows_are_about_as_long_as_the_files(format: str) -> None:
    for n_cols in (512, 768, 4096):  # 256: a lone header of q3_k takes the room of two, 20%
        file_bytes = 16 * formats.row_bytes(n_cols, format)
        # iq3_s without its grid: 4 bits of a code, where the file has 13 of four.
        most = 1.31 if format == "iq3_s" else 1.15
        assert file_bytes <= group_bytes(n_cols, format) <= most * file_bytes


@pytest.mark.parametrize(
    "format", [f for f in BLOCK_FORMATS if formats.FORMATS[f].block_columns == 256]
)
def test_columns_that_do_not_fill_a_super_block_are_an_error(format: str) -> None:
    with pytest.raises(KernelError, match=rf"{format} needs a multiple of 256 columns, got 288"):
        PackedWeight.empty(format, 16, 288)


def random_blocks(name: str, mixed: dict[str, str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """(tensor -> (type, rows), tensor -> float32 values); `mixed` names the formats of some
    tensors, the other matrices are in the format `name`."""
    blocks, values = {}, random_weights(CONFIG)
    for tensor, matrix in values.items():
        if matrix.ndim == 1:
            continue
        format = mixed.get(tensor.rpartition(".")[2], name)
        # As random_weights has them, so that logits come out near 1.
        raw = random_blocks_of(*matrix.shape, format, 0.8 / np.sqrt(matrix.shape[1]), len(blocks))
        blocks[tensor] = (TYPES[format], raw)
        values[tensor] = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[TYPES[format]])
    return blocks, values


@pytest.fixture(scope="module", params=[*NEW_FORMATS, "mixed"])
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A file of random blocks, and a float32 file of the same values."""
    folder, mixed = tmp_path_factory.mktemp("kquants"), request.param == "mixed"
    blocks, values = random_blocks("q4_k" if mixed else request.param, MIXED if mixed else {})
    return (
        write_gguf(folder / "blocks.gguf", CONFIG, values, raw=blocks),
        write_gguf(folder / "values.gguf", CONFIG, values),
    )


def test_the_file_is_read_as_the_values_it_holds(files: tuple[Path, Path]) -> None:
    got, want = (logits_of(load(path, compute="float32"), TOKENS[:40]) for path in files)
    assert np.array_equal(got, want)
    assert 0.3 < got.std() < 3


def test_quantized_logits_are_those_of_float32_but_for_8_bit_activations(
    files: tuple[Path, Path],
) -> None:
    want = logits_of(load(files[1], compute="float32"), TOKENS)
    got = logits_of(load(files[0], kv_dtype="f16"), TOKENS)
    spread = float(want.std())
    assert np.abs(got - want).mean() < 0.03 * spread  # one step of 127 is 1% of a block
    assert np.abs(got - want).max() < 0.2 * spread


@pytest.mark.native
def test_native_equals_the_numpy_reference(files: tuple[Path, Path]) -> None:
    """Within the steps of 8-bit activations: a value near a tie may round the other way."""
    want = logits_of(load(files[0], kv_dtype="f16", kernels="*=numpy"), TOKENS[:40])
    got = logits_of(load(files[0], kv_dtype="f16"), TOKENS[:40])
    assert np.abs(got - want).mean() < 0.03 * float(want.std())
    assert np.abs(got - want).max() < 0.2 * float(want.std())


@pytest.mark.native
def test_bits_do_not_depend_on_chunks_threads_or_the_width_of_registers(
    files: tuple[Path, Path],
) -> None:
    want = logits_of(load(files[0], kv_dtype="f16", threads=1), TOKENS)
    model = load(files[0], kv_dtype="f16", threads=2)
    for size in (1, 7, 33):
        spans = [(0, i, TOKENS[i : i + size]) for i in range(0, len(TOKENS), size)]
        parts = [step(model, [span])[0] for span in spans]
        assert np.array_equal(np.concatenate(parts), want)
    variant = all_variants("matmul")["cpp-avx2"]
    if variant.unavailable or set(model.kernels.values()) == {"cpp-baseline"}:
        pytest.skip(f"one level only: {variant.unavailable}")
    assert np.array_equal(
        logits_of(load(files[0], kv_dtype="f16", kernels="*=cpp-avx2"), TOKENS), want
    )
