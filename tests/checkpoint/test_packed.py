"""Packed files: the bits of their source."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
import tiny_experts
from family_folders import FamilyFolders
from lora_files import random_pairs, write_peft
from packed_files import TOKENS, logits, packed_copy, random_rows, same_bits, write_gguf
from pyroclast import LLM
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint, open_tokenizer
from pyroclast.checkpoint.tensor import Scratch
from pyroclast.files.model_file import ModelFile
from pyroclast.model.write_packed import write_packed
from pyroclast_kernels import mapped_file
from pyroclast_kernels.weights import PACKED_FORMATS, formats
from pyroclast_kernels.weights.packing import LAYOUT_VERSION, PackedWeight, group_bytes, pack_rows
from pyroclast_kernels.weights.recode import RECODED

# Every format that a file may have; the rest is what loading makes of some.
STORED = [name for name, layout in formats.FORMATS.items() if layout.ggml_type is not None]


# ---- the same bits -------------------------------------------------------------------------


@pytest.mark.parametrize("format", STORED)
def test_logits_are_those_of_the_source(format: str, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", format)
    packed = packed_copy(source)
    with open_checkpoint(packed) as checkpoint:
        assert checkpoint.tensors["layers.0.wq"].format == (
            RECODED[format].target if format in RECODED else format
        )
    expected = logits(source)
    assert np.isfinite(expected).all()
    assert same_bits(expected, logits(packed))


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_family_and_option(name: str, tmp_path: Path) -> None:
    config = tiny.CONFIGS[name]
    source = write_gguf(tmp_path / "m.gguf", "q8_0", config)
    packed = packed_copy(source)
    with open_checkpoint(source) as one, open_checkpoint(packed) as other:
        assert one.config == other.config
        assert one.tensors.keys() == other.tensors.keys()
    assert same_bits(logits(source), logits(packed))


@pytest.mark.parametrize("format", ["q8_0", "q4_0", "f16"])
def test_float32_dequantizes_what_is_packed(format: str, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", format)
    packed = packed_copy(source)
    assert same_bits(logits(source, compute="float32"), logits(packed, compute="float32"))
    with open_checkpoint(source) as one, open_checkpoint(packed) as other:
        for name, tensor in one.tensors.items():
            # Not the sign of a zero, which a product does not tell apart.
            assert np.array_equal(tensor.float32(), other.tensors[name].float32()), name


@pytest.mark.parametrize("format", PACKED_FORMATS)
def test_packed_values_are_the_files_own(format: str) -> None:
    """What float32 mode computes with, whichever way it comes."""
    if format in ("f32", "f16", "bf16"):
        raw = formats.quantize(
            np.linspace(-2, 2, 40 * 256, dtype=np.float32).reshape(40, 256), format
        )
    else:
        raw = random_rows(format, 40, 256)
    weight = PackedWeight.empty(format, 40, 256)
    pack_rows(raw, weight, 0)
    assert np.array_equal(weight.dequantize(), formats.dequantize(raw, format))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_folder_keeps_its_format(dtype: str, tmp_path: Path) -> None:
    weights = tiny.random_weights(tiny.BASE)
    folder = tiny.write_folder(tmp_path / "folder", tiny.BASE, weights, dtype)
    packed = packed_copy(folder)
    assert same_bits(logits(folder), logits(packed))
    assert [path.name for path in tmp_path.iterdir() if path != folder] == [packed.name]


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "phi3"])
def test_folders_of_families_that_files_store_otherwise(
    name: str, family_folders: FamilyFolders, tmp_path: Path
) -> None:
    """Norms with an offset, transposed matrices, fused ones, learned positions."""
    pytest.importorskip("transformers", reason="pip install '.[test]'")
    source, packed = family_folders(name), tmp_path / "m.pyro"
    write_packed(str(source), str(packed), threads=2)
    assert same_bits(logits(source), logits(packed))


@pytest.mark.parametrize("quant", ["F32", "BF16", "Q8_0", "Q4_0", "MXFP4"])
def test_experts_are_packed_together(quant: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    source = tiny_experts.write_gguf(path, tiny_experts.weights(), quant)
    packed = packed_copy(source)
    assert same_bits(logits(source), logits(packed))
    assert same_bits(logits(source, compute="float32"), logits(packed, compute="float32"))
    with open_checkpoint(source) as one, open_checkpoint(packed) as other:
        assert one.config == other.config
        assert one.tensors.keys() == other.tensors.keys()
        for name, tensor in one.tensors.items():
            assert np.array_equal(tensor.float32(), other.tensors[name].float32()), name


@pytest.mark.parametrize("name", ["qwen3-moe", "gpt-oss", "granite-moe", "qwen3_5", "lfm2-moe"])
@pytest.mark.parametrize("to", [None, "q8_0"])
def test_folders_with_experts_and_states(
    name: str, to: str | None, family_folders: FamilyFolders, tmp_path: Path
) -> None:
    """Experts of both kinds of folders, with biases and without; recurrent layers."""
    pytest.importorskip("transformers", reason="pip install '.[test]'")
    folder, source, packed = family_folders(name), tmp_path / "m.gguf", tmp_path / "m.pyro"
    write_packed(str(folder), str(packed), to, threads=2)
    convert(str(folder), str(source), to or "f32")  # a GGUF file rounds numbers of the config
    assert same_bits(logits(source), logits(packed))
    assert same_bits(logits(source, compute="float32"), logits(packed, compute="float32"))


def test_an_adapter_is_merged_or_run_beside(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", "f32", tiny.BASE)
    adapter = write_peft(tmp_path / "adapter", random_pairs(tiny.BASE, 3))
    convert(str(source), str(tmp_path / "merged.gguf"), "f32", adapter=str(adapter))
    merged = packed_copy(source, adapter=str(adapter))
    assert same_bits(logits(tmp_path / "merged.gguf"), logits(merged))
    found = []
    for model in (source, packed_copy(source)):
        with LLM(model, device="cpu", n_blocks=4, adapters={"a": adapter}) as llm:
            found.append(llm.logits(TOKENS, adapter="a"))
    assert same_bits(*found)
    assert not same_bits(found[0], logits(source))


def test_a_format_can_be_asked_for(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", "f32")
    convert(str(source), str(tmp_path / "q.gguf"), "q4_0")
    packed = packed_copy(source, to="q4_0")
    assert same_bits(logits(tmp_path / "q.gguf"), logits(packed))


def test_parts_become_one_file(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "whole.gguf", "q8_0")
    from torture.bases import parts_of
    from torture.gguf_image import Image

    for number, part in enumerate(parts_of(Image.read(source), 2)):
        (tmp_path / f"m-{number + 1:05}-of-00002.gguf").write_bytes(part.to_bytes())
    packed = packed_copy(tmp_path / "m-00001-of-00002.gguf")
    assert same_bits(logits(source), logits(packed))


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", "q8_0")
    packed = packed_copy(source)
    text = "the cat and the hat"
    with open_checkpoint(source) as one, open_checkpoint(packed) as other:
        assert one.tokenizer().encode(text) == other.tokenizer().encode(text)
    tokenizer, name = open_tokenizer(packed)
    assert (name, tokenizer.encode(text)) == ("m.gguf", other_ids(source, text))


def other_ids(source: Path, text: str) -> list[int]:
    return open_tokenizer(source)[0].encode(text)


def test_without_native_code_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = packed_copy(write_gguf(tmp_path / "m.gguf", "q8_0"))
    mapped = logits(packed)
    monkeypatch.setattr(mapped_file, "native_mapping", lambda *_: None)
    assert same_bits(mapped, logits(packed))


def test_rows_that_are_read_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large matrix is dequantized piece by piece: each read of it all would take for ever."""
    packed = packed_copy(write_gguf(tmp_path / "m.gguf", "q8_0"))
    n_read = []
    read_into = ModelFile.read_into

    def counting(file: ModelFile, out: Any, offset: int, what: str) -> None:
        n_read.append(memoryview(out).nbytes)
        read_into(file, out, offset, what)

    with open_checkpoint(packed) as checkpoint:
        whole = {
            name: tensor.source.rows(0, tensor.n_rows, Scratch())
            for name, tensor in checkpoint.tensors.items()
        }
    monkeypatch.setattr(mapped_file, "native_mapping", lambda *_: None)
    monkeypatch.setattr(ModelFile, "read_into", counting)
    for name in ("token_embd", "layers.0.wk", "layers.0.w_up"):
        with open_checkpoint(packed) as checkpoint:
            tensor = checkpoint.tensors[name]
            rows = partial(tensor.source.rows, scratch=Scratch())
            rows(0, 1)  # finds out that it cannot be mapped
            for first, last in ((0, 1), (15, 17), (16, 32), (tensor.n_rows - 3, tensor.n_rows)):
                n_read.clear()
                assert np.array_equal(rows(first, last), whole[name][first:last])
                n_groups = 2 if first == 15 else 1
                assert sum(n_read) <= n_groups * group_bytes(tensor.shape[1], "q8_0")


def test_the_layout_has_not_changed() -> None:
    """If this fails, packed files of users would be read wrongly: count up LAYOUT_VERSION."""
    found = hashlib.sha256()
    for format in PACKED_FORMATS:
        if format in ("f32", "f16", "bf16"):
            raw = np.arange(20 * formats.row_bytes(256, format), dtype=np.uint8).reshape(20, -1)
        else:
            raw = np.resize(np.arange(251, dtype=np.uint8), (20, formats.row_bytes(256, format)))
        weight = PackedWeight.empty(format, 20, 256)
        pack_rows(raw, weight, 0)
        found.update(weight.data.tobytes())
    assert (LAYOUT_VERSION, found.hexdigest()[:16]) == (1, "09bd52cd798ef171")
