"""Conversion: what is written is the same model, for us and for llama.cpp, or is refused.

PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python."""

import json
import os
import resource
import subprocess
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import tiny
from pyroclast import LLM, Tokenizer
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.convert.vocabulary import PROBES
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError, TokenizerError, UnsupportedModelError
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.encode import encode

PEERS = Path(__file__).parents[1] / "peers"
PROMPT = np.random.default_rng(5).integers(0, 256, 60).tolist()
WIDE = replace(tiny.BASE, d_model=256, n_heads=4, n_kv_heads=2, head_dim=64, d_ff=512, n_layers=8)


def peer(script, *arguments):
    """Runs a script with llama.cpp, or skips."""
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if not python:
        pytest.skip("PYROCLAST_LLAMA_PYTHON names no Python")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, str(PEERS / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def logits_of(path):
    with LLM(path, compute="float32", threads=1) as llm:
        return llm.logits(PROMPT)


def distance(got, want):
    """The largest difference over the largest logit."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def folder_of(path, config, dtype="float32"):
    return tiny.write_folder(path, config, tiny.random_weights(config), dtype)


def keys_of(path):
    return {key: each.contents() for key, each in gguf.GGUFReader(path).fields.items()}


def types_of(path):
    return {each.name: each.tensor_type.name.lower() for each in gguf.GGUFReader(path).tensors}


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


# -- text ------------------------------------------------------------------------------------


def test_text_tokens_and_templates_are_kept(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    templates = [{"name": "default", "template": "{{ messages[0].content }}"},
                 {"name": "tool_use", "template": "T{{ tools }}"}]  # fmt: skip
    path.write_text(json.dumps(config | {"chat_template": templates, "add_bos_token": True}))
    convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    ours, theirs = Tokenizer.from_gguf(tmp_path / "m.gguf"), Tokenizer.from_folder(folder)
    text = "the and in<|eos|> 12 ½ x\n\n  y"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.encode(text)[0] == 256
    assert ours.chat_templates == theirs.chat_templates
    assert ours.eos_token_ids == theirs.eos_token_ids
    assert ours.vocab_size == theirs.vocab_size == 320
    keys = keys_of(tmp_path / "m.gguf")
    assert keys["tokenizer.ggml.token_type"][256:259] == [3, 3, 1]
    assert keys["tokenizer.ggml.pre"] == "gpt-2"
    assert keys["tokenizer.chat_templates"] == ["tool_use"]


def edit_tokenizer(folder, change):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    change(tokenizer)
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("rule", "pattern"),
    [("llama3", None), ("qwen2", None), ("starcoder", None), (None, r"\p{L}{1,2}|[^\p{L}]+")],
)
def test_the_rule_that_splits_words_is_found(tmp_path, rule, pattern):
    from pyroclast.text.pretokenizers import PRE_RULES

    folder = folder_of(tmp_path / "folder", tiny.BASE)
    patterns = PRE_RULES[rule].patterns if rule else (pattern,)
    split = [{"type": "Split", "pattern": {"Regex": each}, "behavior": "Isolated", "invert": False}
             for each in patterns]  # fmt: skip
    last = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }

    def change(tokenizer):
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*split, last]}
        if rule:
            tokenizer["model"]["ignore_merges"] = PRE_RULES[rule].ignore_merges

    edit_tokenizer(folder, change)
    if rule is None:
        with pytest.raises(TokenizerError, match="no rule that GGUF has a name for"):
            convert(str(folder), str(tmp_path / "m.gguf"), "f32")
        assert not (tmp_path / "m.gguf").exists()
        return
    convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    assert keys_of(tmp_path / "m.gguf")["tokenizer.ggml.pre"] == rule


def test_normalization_that_gguf_does_not_record_is_told(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    assert convert(str(folder), str(tmp_path / "a.gguf"), "f32").notes == []
    edit_tokenizer(folder, lambda tokenizer: tokenizer.update(normalizer={"type": "NFC"}))
    [note] = convert(str(folder), str(tmp_path / "b.gguf"), "f32").notes
    assert "Unicode NFC" in note


def test_a_tokenizer_that_changes_text_is_refused(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    edit_tokenizer(folder, lambda tokenizer: tokenizer.update(normalizer={"type": "NFKC"}))
    with pytest.raises(TokenizerError, match="a GGUF file cannot hold this tokenizer: token"):
        convert(str(folder), str(tmp_path / "m.gguf"), "f32")


def test_tokens_without_a_row_of_the_embedding_are_refused(tmp_path):
    config = replace(tiny.BASE, vocab_size=300)
    folder = folder_of(tmp_path / "folder", config)
    tiny.write_hf_tokenizer(folder, tiny.BASE)
    with pytest.raises(TokenizerError, match=r"has a token 319, but the model only 0\.\.299"):
        convert(str(folder), str(tmp_path / "m.gguf"), "f32")


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


def sentencepiece_folder(folder):
    """Merges whose order the scores must keep, byte fallback, and the space before a text."""
    folder_of(folder, tiny.BASE)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("t", "h"), ("a", "n"), ("▁", "an")]
    pieces += sorted({part for pair in merges for part in pair} | {"".join(p) for p in merges})

    def change(tokenizer):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        tokenizer["added_tokens"] = [
            {"id": i, "content": pieces[i], "special": True, **flags} for i in range(3)
        ]
        tokenizer["normalizer"] = {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        }
        tokenizer["pre_tokenizer"] = None
        tokenizer["decoder"] = {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        }
        tokenizer["model"] = {
            "type": "BPE", "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [list(pair) for pair in merges], "byte_fallback": True, "fuse_unk": True,
            "unk_token": "<unk>", "ignore_merges": False,
        }  # fmt: skip

    edit_tokenizer(folder, change)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 1, "eos_token_id": 2}))
    return folder


def test_sentencepiece_by_scores(tmp_path):
    folder = sentencepiece_folder(tmp_path / "folder")
    convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    ours, theirs = Tokenizer.from_gguf(tmp_path / "m.gguf"), Tokenizer.from_folder(folder)
    for text in ("the than hethe an", "é the", "</s>the", "  the"):
        assert ours.encode(text) == theirs.encode(text)
    keys = keys_of(tmp_path / "m.gguf")
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.token_type"][:5] == [2, 3, 3, 6, 6]
    assert keys["tokenizer.ggml.add_space_prefix"] is True


@pytest.mark.parametrize("make", [sentencepiece_folder, lambda f: folder_of(f, tiny.BASE)])
def test_llama_cpp_reads_the_same_tokens(tmp_path, make):
    folder = make(tmp_path / "folder")
    convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    (tmp_path / "texts.json").write_text(json.dumps(PROBES))
    paths = [tmp_path / each for each in ("m.gguf", "texts.json", "ids.json")]
    peer("llama_tokens.py", *paths)
    tokenizer = Tokenizer.from_folder(folder)
    assert json.loads(paths[-1].read_text()) == [tokenizer.encode(text) for text in PROBES]


# -- refusals, and files that stay as they were --------------------------------------------


def test_what_gguf_cannot_say_is_refused(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    with pytest.raises(UnsupportedModelError, match=r"no way to say that .*activation is 'gelu'"):
        convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_window_that_llama_cpp_ignores_is_told(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.CONFIGS["mistral"])
    [note] = convert(str(folder), str(tmp_path / "m.gguf"), "f32").notes
    assert "llama.cpp ignores the attention window of 24 positions" in note


@pytest.mark.parametrize("to", ["q9_9", "iq4_nl", "Q4_K_M", ""])
def test_unknown_formats_list_the_known(tmp_path, to):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    with pytest.raises(ModelFileError, match=f"cannot convert to '{to}'; supported: f32, f16"):
        convert(str(folder), str(tmp_path / "m.gguf"), to)


def test_places_that_cannot_be_written(tmp_path):
    source = str(folder_of(tmp_path / "folder", tiny.BASE))
    with pytest.raises(ModelFileError, match="no such folder; make it first"):
        convert(source, str(tmp_path / "none" / "m.gguf"), "f32")
    with pytest.raises(ModelFileError, match="is a folder; name the file"):
        convert(source, str(tmp_path), "f32")
    convert(source, str(tmp_path / "m.gguf"), "f32")
    with pytest.raises(ModelFileError, match="is what is to be converted"):
        convert(str(tmp_path / "m.gguf"), str(tmp_path / "m.gguf"), "q8_0")
    with pytest.raises(ModelFileError, match="random weights"):
        convert("dummy:smollm2-135m", str(tmp_path / "d.gguf"), "q8_0")
    with pytest.raises(ModelFileError, match="leave out @q4_0"):
        convert(f"{source}@q4_0", str(tmp_path / "d.gguf"), "q8_0")


@pytest.mark.parametrize("cut", [20, 700, -5000])
def test_a_source_that_is_cut_short_leaves_the_old_file(tmp_path, cut):
    config = tiny.BASE
    source = tiny.write_gguf(tmp_path / "a.gguf", config, tiny.random_weights(config), "F32")
    source.write_bytes(source.read_bytes()[:cut])
    (tmp_path / "b.gguf").write_bytes(b"old")
    with pytest.raises(ModelFileError):
        convert(str(source), str(tmp_path / "b.gguf"), "q8_0")
    assert (tmp_path / "b.gguf").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_old_file(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    (tmp_path / "m.gguf").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(ModelFileError, match="cannot be written: File too large"):
            convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "m.gguf").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "m.gguf"]


def test_too_little_room_is_seen_before_any_work(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    real = os.statvfs

    def full(path):
        status = real(path)
        return os.statvfs_result([*status[:4], 0, *status[5:]])

    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(ModelFileError, match="are needed and 0 MiB are free"):
        convert(str(folder), str(tmp_path / "m.gguf"), "f32")


def test_a_link_stays_one(tmp_path):
    folder = folder_of(tmp_path / "folder", tiny.BASE)
    (tmp_path / "real.gguf").write_bytes(b"old")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real.gguf")
    convert(str(folder), str(tmp_path / "link.gguf"), "f32")
    assert (tmp_path / "link.gguf").is_symlink()
    assert (tmp_path / "real.gguf").read_bytes()[:4] == b"GGUF"


def test_formats_of_the_file_are_what_was_counted(tmp_path):
    folder = folder_of(tmp_path / "folder", WIDE)
    done = convert(str(folder), str(tmp_path / "m.gguf"), "q4_k_m")
    types = list(types_of(tmp_path / "m.gguf").values())
    assert {name: row["tensors"] for name, row in done.formats.items()} == {
        name: types.count(name) for name in set(types)
    }
    assert sum(row["n_bytes"] for row in done.formats.values()) < done.n_bytes
    assert set(done.formats) <= set(formats.FORMATS)
