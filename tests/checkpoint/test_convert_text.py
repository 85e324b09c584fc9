"""Conversion of tokenizers and templates: the same tokens for us and llama.cpp, or a refusal."""

import json
from dataclasses import replace

import pytest

import tiny
from converted import folder_of, keys_of, peer
from pyroclast import Tokenizer
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.convert.vocabulary import PROBES
from pyroclast.errors import TokenizerError


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
