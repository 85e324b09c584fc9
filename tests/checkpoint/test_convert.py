"""Conversion: what is written is the same model, for us and for llama.cpp."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest

import tiny
from converted import PROMPT, WIDE, distance, folder_of, keys_of, logits_of, peer, types_of
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast_kernels.weights.encode import encode

# -- the same model --------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_folder_s_file_has_the_folder_s_logits(tmp_path, name):
    folder = folder_of(tmp_path / "folder", tiny.CONFIGS[name])
    done = convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    assert done.n_bytes == (tmp_path / "m.gguf").stat().st_size
    assert distance(logits_of(tmp_path / "m.gguf"), logits_of(folder)) < 1e-6


@pytest.mark.parametrize("name", ["llama-llama3", "llama-wide-head", "llama-tied", "qwen2"])
def test_llama_cpp_agrees(tmp_path, name):
    folder = folder_of(tmp_path / "folder", tiny.CONFIGS[name])
    convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    (tmp_path / "ids.json").write_text(json.dumps(PROMPT))
    peer("llama_logits.py", tmp_path / "m.gguf", tmp_path / "ids.json", tmp_path / "logits.npy")
    assert distance(logits_of(folder), np.load(tmp_path / "logits.npy")) < 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_type_of_a_folder_is_read(tmp_path, dtype):
    config = tiny.CONFIGS["llama"]
    folder = folder_of(tmp_path / "folder", config, dtype)
    convert(str(folder), str(tmp_path / "m.gguf"), "f16")
    types = types_of(tmp_path / "m.gguf")
    assert {kind for name, kind in types.items() if "norm" in name} == {"f32"}
    assert {kind for name, kind in types.items() if "norm" not in name} == {"f16"}
    assert distance(logits_of(tmp_path / "m.gguf"), logits_of(folder)) < 1e-6


@pytest.mark.parametrize("to", ["bf16", "q8_0", "q4_0", "q5_1", "q4_k", "q6_k"])
def test_matrices_are_encoded_and_the_rest_is_exact(tmp_path, to):
    folder, target = folder_of(tmp_path / "folder", WIDE), tmp_path / "m.gguf"
    done = convert(str(folder), str(target), to, threads=2)
    weights = tiny.random_weights(WIDE)
    with open_checkpoint(target) as checkpoint:
        for name, values in weights.items():
            tensor = checkpoint.tensors[name]
            if values.ndim == 1:
                assert np.array_equal(tensor.float32(), values)
            else:
                assert np.array_equal(tensor.rows(), encode(values, to)), name
    matrices = sum(each.ndim == 2 for each in weights.values())
    assert done.formats[to]["tensors"] == matrices
    assert done.formats["f32"]["tensors"] == len(weights) - matrices


def test_threads_change_nothing(tmp_path):
    folder = folder_of(tmp_path / "folder", WIDE)
    for threads in (1, 3):
        convert(str(folder), str(tmp_path / f"{threads}.gguf"), "q5_k", threads=threads)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()


# -- GGUF to GGUF ----------------------------------------------------------------------------


def test_a_file_keeps_its_metadata_and_order(tmp_path):
    config = tiny.CONFIGS["llama-llama3"]
    source = tiny.write_gguf(tmp_path / "a.gguf", config, tiny.random_weights(config), "F16")
    done = convert(str(source), str(tmp_path / "b.gguf"), "f16")
    before, after = keys_of(source), keys_of(tmp_path / "b.gguf")
    new = {"general.file_type", "general.quantization_version", "GGUF.kv_count"}
    assert {k: v for k, v in after.items() if k not in new} == {
        k: v for k, v in before.items() if k not in new
    }
    assert after["general.file_type"] == 1
    for one, other in zip(*(gguf.GGUFReader(p).tensors for p in (source, tmp_path / "b.gguf")),
                          strict=True):  # fmt: skip
        assert (one.name, one.tensor_type) == (other.name, other.tensor_type)
        assert np.array_equal(one.data, other.data)
    assert done.notes == []


def test_a_quantized_file_is_decoded_and_said_to_lose_twice(tmp_path):
    weights = tiny.random_weights(WIDE)
    source = tiny.write_gguf(tmp_path / "a.gguf", WIDE, weights, "Q8_0")
    done = convert(str(source), str(tmp_path / "b.gguf"), "q4_k")
    assert any("quantized already" in note for note in done.notes)
    # wq and wk keep the file's own row order: what is encoded is what the file holds.
    reader = {each.name: each for each in gguf.GGUFReader(source).tensors}
    for tensor in gguf.GGUFReader(tmp_path / "b.gguf").tensors:
        if tensor.tensor_type.name == "Q4_K":
            values = gguf.quants.dequantize(
                reader[tensor.name].data, gguf.GGMLQuantizationType.Q8_0
            )
            assert np.array_equal(tensor.data, encode(values, "q4_k"))
    back = convert(str(source), str(tmp_path / "c.gguf"), "f32")
    assert back.notes == []
    assert distance(logits_of(tmp_path / "c.gguf"), logits_of(source)) < 1e-6


def test_parts_become_one_file(tmp_path):
    weights = tiny.random_weights(tiny.BASE)
    whole = tiny.write_gguf(tmp_path / "a.gguf", tiny.BASE, weights, "F16")
    parts = split_in_two(whole, tmp_path)
    convert(str(parts[1]), str(tmp_path / "b.gguf"), "f16")
    assert not [key for key in keys_of(tmp_path / "b.gguf") if key.startswith("split.")]
    assert np.array_equal(logits_of(tmp_path / "b.gguf"), logits_of(whole))


def split_in_two(whole, folder):
    """The file as two parts, written by the `gguf` package."""
    reader = gguf.GGUFReader(whole)
    paths = [folder / f"m-{i + 1:05}-of-00002.gguf" for i in range(2)]
    for i, path in enumerate(paths):
        writer = gguf.GGUFWriter(path, "llama")
        for key, each in reader.fields.items() if i == 0 else ():
            if not key.startswith("GGUF.") and key != "general.architecture":
                kind = each.types[0]
                sub_type = each.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(key, each.contents(), kind, sub_type=sub_type)
        writer.add_uint16("split.no", i)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[i::2]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


# -- mixes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["q4_k_m", "q4_k_s", "q5_k_m", "q6_k"])
@pytest.mark.parametrize("shape", ["wide", "tied", "narrow"])
def test_a_mix_is_llama_cpp_s(tmp_path, to, shape):
    changes = {
        "wide": {},
        "tied": {"tie_embeddings": True, "n_layers": 17},
        "narrow": {"d_model": 96, "head_dim": 24, "d_ff": 256},
    }
    config = replace(WIDE, **changes[shape])
    source = tmp_path / "f32.gguf"
    convert(str(folder_of(tmp_path / "folder", config)), str(source), "f32")
    convert(str(source), str(tmp_path / "ours.gguf"), to)
    peer("llama_quantize_file.py", source, tmp_path / "theirs.gguf", to)
    assert types_of(tmp_path / "ours.gguf") == types_of(tmp_path / "theirs.gguf")
    same = ("general.file_type", "general.quantization_version")
    ours, theirs = keys_of(tmp_path / "ours.gguf"), keys_of(tmp_path / "theirs.gguf")
    assert [ours[key] for key in same] == [theirs[key] for key in same]


def test_mixes_spend_bits_where_they_count(tmp_path):
    folder = folder_of(tmp_path / "folder", WIDE)
    convert(str(folder), str(tmp_path / "m.gguf"), "q4_k_m")
    types = types_of(tmp_path / "m.gguf")
    assert types["output.weight"] == "q6_k"
    assert types["token_embd.weight"] == types["blk.3.attn_q.weight"] == "q4_k"
    high = [i for i in range(8) if types[f"blk.{i}.attn_v.weight"] == "q6_k"]
    assert high == [0, 3, 6, 7]
    assert [i for i in range(8) if types[f"blk.{i}.ffn_down.weight"] == "q6_k"] == high
    convert(str(folder), str(tmp_path / "s.gguf"), "q4_k_s")
    types = types_of(tmp_path / "s.gguf")
    assert [i for i in range(8) if types[f"blk.{i}.attn_v.weight"] == "q5_k"] == [0, 1, 2, 3]
    assert [i for i in range(8) if types[f"blk.{i}.ffn_down.weight"] == "q5_k"] == [0]


def test_narrow_rows_get_the_nearest_format(tmp_path):
    config = replace(tiny.BASE, d_ff=80)
    convert(str(folder_of(tmp_path / "folder", config)), str(tmp_path / "m.gguf"), "q5_k")
    types = types_of(tmp_path / "m.gguf")
    assert types["blk.0.attn_q.weight"] == "q5_1"
    assert types["blk.0.ffn_down.weight"] == "f16", "80 columns fill no block at all"


def test_odd_names_of_tensors_are_no_error(tmp_path):
    """Layers that no model has, and products outside of any layer."""
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "odd")
    values = np.ones((2, 256), np.float32)
    names = ["blk.99999999999999999999.attn_v.weight", "x.attn_v.weight", "blk.7.ffn_down.weight"]
    for name in names:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert(str(tmp_path / "a.gguf"), str(tmp_path / "b.gguf"), "q4_k_m")
    assert types_of(tmp_path / "b.gguf") == dict(zip(names, ["q4_k", "q4_k", "q6_k"], strict=True))
