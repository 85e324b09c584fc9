"""Files in types that no kernel computes: converted at load, said in one line, counted as such."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from pyroclast import LLM, SamplingParams
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.checkpoint.tensor import Scratch
from pyroclast.errors import ModelFileError
from pyroclast.files.gguf import GGUFFile
from pyroclast.lab.peers.client import WORKERS, Client
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.recode import RECODED
from raw_blocks import CONFIG, file_pair
from stepping import load, logits_of
from tiny import random_weights, write_gguf

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


# -- scales of whole weights -------------------------------------------------------------------

SCALES = {"blk.0.attn_q": 0.25, "blk.1.ffn_down": 3.0, "blk.1.attn_v": 1e-3}


def with_scales(path: Path, scales: dict[str, object]) -> Path:
    """The file with tensors `<name>.scale`, and `.input_scale`, of these numbers."""
    reader, found = gguf.GGUFReader(path), path.with_name("scaled.gguf")
    writer = gguf.GGUFWriter(found, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            element = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, values in scales.items():
        writer.add_tensor(f"{name}.scale", np.array(values, np.float32, ndmin=1))
        writer.add_tensor(f"{name}.input_scale", np.ones(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found


def scaled_values(folder: Path, values: Path) -> Path:
    """A float32 file of a file's weights, multiplied beforehand."""
    names = {"blk.0.attn_q": "layers.0.wq", "blk.1.ffn_down": "layers.1.w_down",
             "blk.1.attn_v": "layers.1.wv"}  # fmt: skip
    with open_checkpoint(values) as checkpoint:
        weights = {name: tensor.float32().copy() for name, tensor in checkpoint.tensors.items()}
    for name, factor in SCALES.items():
        weights[names[name]] *= np.float32(factor)
    return write_gguf(folder / "multiplied.gguf", CONFIG, weights)


@pytest.mark.parametrize("format", ["nvfp4", "q8_0", "f32"])
def test_a_scale_multiplies_its_weight(tmp_path: Path, format: str) -> None:
    stored, values = file_pair(tmp_path, format)
    want = logits_of(load(scaled_values(tmp_path, values), compute="float32"), TOKENS)
    path = with_scales(stored, dict(SCALES))
    got = logits_of(load(path, compute="float32"), TOKENS)
    assert np.abs(got - want).max() < 1e-3 * np.abs(want).max()
    plain = logits_of(load(values, compute="float32"), TOKENS)
    assert np.abs(plain - want).max() > 0.05 * np.abs(want).max()


def test_llama_cpp_multiplies_alike(tmp_path: Path) -> None:
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if not python:
        pytest.skip("PYROCLAST_LLAMA_PYTHON names no Python")
    path = with_scales(file_pair(tmp_path, "nvfp4")[0], dict(SCALES))
    got = logits_of(load(path, compute="float32"), TOKENS)
    with Client(python, WORKERS / "llama_worker.py", {}) as llama:
        room = {"n_prompt": len(TOKENS), "n_gen": 0, "n_depth": 0, "n_batch": 1}
        llama.ask("load", model=str(path), threads=1, repack=False, workloads=[room])
        llama.ask("every_logit", token_ids=TOKENS, path=str(tmp_path / "logits.npy"))
    its = np.load(tmp_path / "logits.npy")
    # It rounds activations to 8 bits.
    assert np.abs(its - got).mean() < 0.06 * got.std()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1.0, 2.0], r"'blk.0.attn_q.scale' must be one number in F32, got shape \(2,\) in F32"),
        (float("nan"), "'blk.0.attn_q.scale' must be a finite number, got nan"),
    ],
)
def test_a_bad_scale_is_named(tmp_path: Path, value: object, words: str) -> None:
    path = with_scales(file_pair(tmp_path, "nvfp4")[0], {"blk.0.attn_q": value})
    with pytest.raises(ModelFileError, match=words):
        open_checkpoint(path)


def test_a_file_cut_short_of_a_scale_opens_but_gives_no_unscaled_rows(tmp_path: Path) -> None:
    path = with_scales(file_pair(tmp_path, "q8_0")[0], dict(SCALES))
    file = GGUFFile(path)
    os.truncate(path, file.tensors["blk.0.attn_q.scale"].offset)
    file.close()
    with open_checkpoint(path, complete=False) as checkpoint:
        scaled, other = checkpoint.tensors["layers.0.wq"], checkpoint.tensors["layers.0.wk"]
        assert other.rows().size
        with pytest.raises(ModelFileError, match=r"'blk.0.attn_q.scale', which .* was cut off"):
            scaled.rows()
