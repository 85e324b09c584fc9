"""Special tokens count wherever a file declares them; names of ends count unless they are words."""

import json

import pytest
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from pyroclast.errors import TokenizerError
from pyroclast.text.tokenizer import Tokenizer
from vocabularies import CONTROL, NORMAL, USER_DEFINED, byte_level, sentencepiece

WORDS = ("<x>", "<|im_end|>", "<pad>", "</s>", "</")
X, END, PAD, HTML = range(256, 260)


def folder(path, added=(), merges=(), pattern=None, **files):
    """A folder whose vocabulary has WORDS; `added` are the added tokens of tokenizer.json."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate([*alphabet, *WORDS, "s>"])}
    backend = Backend(models.BPE(vocabulary, list(merges)))
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    if pattern:
        steps.insert(0, pre_tokenizers.Split(Regex(pattern), "isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(list(added))
    backend.save(str(path / "tokenizer.json"))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return Tokenizer.from_folder(path)


DECLARATIONS = [
    {"tokenizer_config": {"image_token": "<x>"}},
    {"tokenizer_config": {"bos_token": {"content": "<x>"}}},
    {"tokenizer_config": {"additional_special_tokens": ["<x>"]}},
    {"tokenizer_config": {"additional_special_tokens": [{"content": "<x>", "lstrip": False}]}},
    {"tokenizer_config": {"extra_special_tokens": {"boi_token": "<x>"}}},
    {"tokenizer_config": {"extra_special_tokens": ["<x>"]}},
    {"tokenizer_config": {"added_tokens_decoder": {"256": {"content": "<x>", "special": True}}}},
    {"special_tokens_map": {"unk_token": "<x>"}},
    {"special_tokens_map": {"additional_special_tokens": ["<x>"]}},
]


@pytest.mark.parametrize("files", DECLARATIONS, ids=json.dumps)
@pytest.mark.parametrize("pattern", [None, r"(?:\w|\W)+?(?=\w)"])
def test_a_special_token_is_read_wherever_it_is_declared(tmp_path, files, pattern):
    tok = folder(tmp_path, pattern=pattern, **files)
    ids = tok.encode("a<x>", add_special_tokens=False)
    assert ids[-1] == X
    assert tok.decode(ids) == "a"
    assert tok.decode(ids, skip_special_tokens=False) == "a<x>"
    assert X not in tok.encode("a<x>", add_special_tokens=False, parse_special=False)


def test_what_no_file_declares_is_text(tmp_path):
    tok = folder(tmp_path, tokenizer_config={"image_token": "<nowhere>", "padding_side": "<x>"})
    assert X not in tok.encode("a<x>")


def test_declared_flags_replace_those_of_tokenizer_json(tmp_path):
    flags = {"content": "<x>", "special": False, "rstrip": True, "normalized": False}
    added = [AddedToken("<x>", special=False, normalized=False)]
    tok = folder(tmp_path, added, tokenizer_config={"added_tokens_decoder": {"256": flags}})
    assert tok.encode("<x>  a")[:2] == [X, tok.encode("a")[0]]
    assert tok.decode([X]) == "<x>"


def test_a_declared_token_that_is_new_takes_the_next_id(tmp_path):
    new = {"content": "<new>", "special": True}
    tok = folder(tmp_path, tokenizer_config={"added_tokens_decoder": {"262": new}})
    assert tok.encode("<new>") == [262]
    with pytest.raises(TokenizerError, match=r"'<new>' the id 300.* next id is 262"):
        folder(tmp_path, tokenizer_config={"added_tokens_decoder": {"300": new}})


@pytest.mark.parametrize("table", [[1], {"x": {"content": "a"}}, {"1": {}}, {"1": 5}])
def test_a_damaged_table_of_tokens_is_an_error(tmp_path, table):
    with pytest.raises(TokenizerError, match="added_tokens_decoder"):
        folder(tmp_path, tokenizer_config={"added_tokens_decoder": table})


@pytest.mark.parametrize("special", [True, False, None])
def test_an_end_of_turn_ends_the_answer_however_it_is_declared(tmp_path, special):
    tokens = [] if special is None else [AddedToken("<|im_end|>", special=special)]
    tok = folder(tmp_path, tokens)
    assert tok.eos_token_ids == {END}
    assert tok.encode("a<|im_end|>")[-1] == END


def test_a_word_called_like_an_end_of_turn_ends_nothing(tmp_path):
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    assert folder(tmp_path, merges=merges).eos_token_ids == {END}  # Qwen2
    html = [AddedToken("</s>", special=False)]  # Gemma
    assert folder(tmp_path, html).eos_token_ids == {END}
    control = [AddedToken("</s>", special=True)]
    assert folder(tmp_path, control).eos_token_ids == {END, HTML}


@pytest.mark.parametrize("kind", [CONTROL, USER_DEFINED, NORMAL])
@pytest.mark.parametrize("make", [byte_level, lambda **keys: sentencepiece(["▁", "a"], **keys)])
def test_an_end_of_turn_in_a_gguf_ends_the_answer_whatever_its_type(make, kind):
    metadata = make(others=[("<|im_end|>", kind)])
    tok = Tokenizer.from_gguf_metadata(metadata)
    end = len(metadata["tokenizer.ggml.tokens"]) - 1
    assert end in tok.eos_token_ids
    assert tok.encode("a<|im_end|>")[-1] == end
    assert tok.decode([end]) == ""


def test_a_word_in_a_gguf_called_like_an_end_of_turn_ends_nothing():
    words = ["</", "s>", "</s>", "[EOT]"]
    merges = ["< /", "s >", "</ s>"]
    tok = Tokenizer.from_gguf_metadata(byte_level(words, merges))
    assert tok.eos_token_ids == {259}  # no merge makes [EOT]
    tok = Tokenizer.from_gguf_metadata(byte_level(others=[("</s>", USER_DEFINED)]))
    assert tok.eos_token_ids == set()


def test_ids_that_pad_the_vocabulary_have_no_text(tmp_path):
    tok = folder(tmp_path, config={"vocab_size": 400})
    assert tok.vocab_size == 400
    assert tok.decode([tok.encode("a")[0], 399, 300]) == "a"
    assert tok.token_bytes(399) == b""
    with pytest.raises(TokenizerError, match=r"0\.\.399"):
        tok.decode([400])
    assert folder(tmp_path, config={"text_config": {"vocab_size": 500}}).decode([499]) == ""
    assert folder(tmp_path, config={"vocab_size": 10**15}).vocab_size == 262
    metadata = byte_level() | {"general.architecture": "llama", "llama.vocab_size": 300}
    tok = Tokenizer.from_gguf_metadata(metadata)
    assert tok.decode([299, 64]) == tok.decode([64])
