"""Files in types that no kernel computes: converted at load, said in one line, counted as such."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from pyroclast import LLM, SamplingParams
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.checkpoint.tensor import Scratch
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.recode import RECODED
from raw_blocks import CONFIG, file_pair
from stepping import load, logits_of
from tiny import random_weights

TOKENS = np.random.default_rng(3).integers(0, 256, 40).tolist()


@pytest.mark.parametrize("format", RECODED)
def test_logits_are_those_of_the_stored_values(tmp_path: Path, format: str) -> None:
    stored, values = file_pair(tmp_path, format)
    want = logits_of(load(values, compute="float32"), TOKENS)
    got = logits_of(load(stored, compute="float32"), TOKENS)
    assert 0.2 < want.std() < 5
    assert np.abs(got - want).max() < 2e-3 * np.abs(want).max()


def test_the_line_names_tensors_and_formats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored, _ = file_pair(tmp_path, "tq2_0")
    with caplog.at_level(logging.WARNING, "pyroclast"), LLM(stored, device="cpu") as llm:
        llm.generate([1, 2, 3], SamplingParams(max_tokens=1))
    with open_checkpoint(stored) as checkpoint:
        n_matrices = sum(len(tensor.shape) == 2 for tensor in checkpoint.tensors.values())
        line = checkpoint.conversion_line()
        assert {t.stored_format for t in checkpoint.tensors.values()} == {None, "tq2_0"}
    assert line == (
        f"tensors converted at load: {n_matrices} in TQ2_0 to q2_k (token_embd.weight, "
        "output.weight, ...)"
    )
    assert [record.message for record in caplog.records] == [f"blocks: {line}"]


def test_nothing_is_said_of_a_file_that_needs_no_conversion(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, values = file_pair(tmp_path, "tq2_0")
    with caplog.at_level(logging.WARNING, "pyroclast"), LLM(values, device="cpu"):
        assert not caplog.records


def test_memory_is_planned_for_the_converted_size(tmp_path: Path) -> None:
    stored, _ = file_pair(tmp_path, "nvfp4")
    with open_checkpoint(stored) as checkpoint:
        tensor = checkpoint.tensors["layers.0.w_down"]
        assert tensor.n_bytes == 256 * formats.row_bytes(512, "f16")
        assert tensor.rows().nbytes == tensor.n_bytes
    model = load(stored)
    n_values = sum(m.size for m in random_weights(CONFIG).values() if m.ndim == 2)
    assert model.weight_bytes >= 2 * (n_values - 256 * CONFIG.vocab_size)


def test_a_conversion_that_was_asked_for_comes_from_the_stored_values(tmp_path: Path) -> None:
    stored, _ = file_pair(tmp_path, "iq2_s")
    with open_checkpoint(f"{stored}@q8_0") as checkpoint, open_checkpoint(stored) as plain:
        assert not checkpoint.conversion_line()
        tensor = checkpoint.tensors["layers.0.w_up"]
        raw = plain.tensors["layers.0.w_up"].source.inner.rows(0, tensor.n_rows, Scratch())  # type: ignore[attr-defined]
        want = formats.quantize(formats.dequantize(raw, "iq2_s"), "q8_0")
        assert tensor.format == "q8_0" and np.array_equal(tensor.rows(), want)
