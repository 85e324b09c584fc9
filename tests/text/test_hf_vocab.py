import json

import pytest

from pyroclast.errors import TokenizerError
from pyroclast.text.tokenizer import Tokenizer
from vocabularies import CONTROL, USER_DEFINED, byte_level, sentencepiece

OTHERS = [("<bos>", CONTROL), ("<|im_end|>", CONTROL), ("<tool>", USER_DEFINED)]
TEXTS = ["", "hello world", " hello", "é🚀 x", "a<|im_end|>b<tool>c", "<bos>"]


def folder(path, metadata, decoder, post_processor=None, **files):
    """A Hugging Face folder with the vocabulary of some GGUF metadata."""
    backend = Tokenizer.from_gguf_metadata(metadata)._backend.backend
    state = json.loads(backend.to_str())
    state |= {"decoder": decoder, "post_processor": post_processor}
    if state["normalizer"]:  # the prefix is put before a GGUF's text, and is none of its steps
        prepend = {"type": "Prepend", "prepend": "▁"}
        state["normalizer"] = {"type": "Sequence", "normalizers": [prepend, state["normalizer"]]}
        state["added_tokens"] = [token | {"normalized": False} for token in state["added_tokens"]]
    (path / "tokenizer.json").write_text(json.dumps(state))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}
SPM_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
BPE = byte_level(["he", "ll", "hell"], ["h e", "l l", "he ll"], OTHERS)
SPM = sentencepiece(["▁", *"helowrd", "he", "ll", "▁he"], OTHERS, add_bos_token=False)


@pytest.mark.parametrize(
    ("metadata", "decoder"), [(BPE, BYTE_LEVEL), (SPM, SPM_DECODER), (SPM, METASPACE)]
)
def test_a_folder_and_a_gguf_with_one_vocabulary_agree(tmp_path, metadata, decoder):
    gguf = Tokenizer.from_gguf_metadata(metadata)
    tok = Tokenizer.from_folder(folder(tmp_path, metadata, decoder))
    assert tok.vocab_size == gguf.vocab_size
    for text in TEXTS:
        if "<tool>" in text and metadata is SPM:
            continue  # SentencePiece begins no new text after it; this normalizer does
        for parse_special in (True, False):
            ids = tok.encode(text, add_special_tokens=False, parse_special=parse_special)
            assert ids == gguf.encode(text, add_special_tokens=False, parse_special=parse_special)
            for skip in (True, False):
                assert tok.decode(ids, skip) == gguf.decode(ids, skip)
            decoder = tok.decoder()
            assert "".join(map(decoder.step, ids)) + decoder.flush() == tok.decode(ids)


def test_control_tokens_past_the_model_vocabulary_keep_their_ids_in_plain_text(tmp_path):
    path = folder(tmp_path, BPE, BYTE_LEVEL)
    state = json.loads((path / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    state["added_tokens"] += [
        {"id": 270, "content": "<tail>", "special": False, **flags},
        {"id": 280, "content": "<tail2>", "special": True, **flags},
    ]
    (path / "tokenizer.json").write_text(json.dumps(state))
    tok = Tokenizer.from_folder(path)
    ids = tok.encode("<tail><tail2>", add_special_tokens=False)
    assert tok.decode(ids, skip_special_tokens=False) == "<tail><tail2>"
    assert max(ids) < tok.vocab_size
    plain = tok.encode("<tail><tail2>", add_special_tokens=False, parse_special=False)
    assert plain[0] == ids[0]
    assert ids[1] not in plain


TEMPLATE_PROCESSING = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<bos>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<bos>": {"id": "<bos>", "ids": [259], "tokens": ["<bos>"]}},
}


@pytest.mark.parametrize(
    ("post_processor", "config", "expected"),
    [
        (None, {}, [64]),
        (TEMPLATE_PROCESSING, {}, [259, 64]),
        (TEMPLATE_PROCESSING, {"add_bos_token": False, "bos_token": "<bos>"}, [64]),
        (None, {"add_bos_token": True, "bos_token": "<bos>"}, [259, 64]),
        (TEMPLATE_PROCESSING, {"add_bos_token": True, "bos_token": "<bos>"}, [259, 64]),
        (None, {"add_eos_token": True, "eos_token": {"content": "<|im_end|>"}}, [64, 260]),
    ],
)
def test_what_is_put_around_a_text(tmp_path, post_processor, config, expected):
    path = folder(tmp_path, BPE, BYTE_LEVEL, post_processor, tokenizer_config=config)
    assert Tokenizer.from_folder(path).encode("a") == expected


def test_a_post_processor_that_drops_the_text_is_refused(tmp_path):
    single = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}]
    path = folder(tmp_path, BPE, BYTE_LEVEL, TEMPLATE_PROCESSING | {"single": single})
    with pytest.raises(TokenizerError, match="post_processor drops the text's own tokens"):
        Tokenizer.from_folder(path)


def test_where_special_tokens_and_templates_are_named(tmp_path):
    path = folder(
        tmp_path,
        BPE,
        BYTE_LEVEL,
        special_tokens_map={"bos_token": "<bos>", "eos_token": "<tool>"},
        tokenizer_config={"chat_template": "from the config"},
        generation_config={"eos_token_id": [1, 2]},
        config={"eos_token_id": 3},
    )
    tok = Tokenizer.from_folder(path)
    assert tok.bos_token_id == 259
    assert tok.eos_token_ids == {1, 2, 3, 260, 261}  # also <|im_end|>, which ends a turn
    assert tok.chat_template == "from the config"
    (path / "chat_template.jinja").write_text("from the file")
    assert Tokenizer.from_folder(path).chat_template == "from the file"


def test_of_several_templates_the_default_one_is_taken(tmp_path):
    templates = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    path = folder(tmp_path, BPE, BYTE_LEVEL, tokenizer_config={"chat_template": templates})
    tok = Tokenizer.from_folder(path)
    assert tok.chat_template == "d"
    hi = [{"role": "user", "content": "hi"}]
    assert (tok.apply_chat_template(hi), tok.apply_chat_template(hi, tools=[])) == ("d", "t")
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tool_use.jinja").write_text("of a file")
    assert Tokenizer.from_folder(path).apply_chat_template(hi, tools=[]) == "of a file"


def test_the_tokens_that_templates_know_by_name(tmp_path):
    template = "{{ bos_token }}{{ pad_token }}{{ unk_token }}{{ boi_token }}"
    path = folder(
        tmp_path,
        BPE,
        BYTE_LEVEL,
        special_tokens_map={"pad_token": {"content": "<tool>"}, "unk_token": "<bos>"},
        tokenizer_config={"bos_token": None, "boi_token": "<tool>", "chat_template": template},
    )
    hi = [{"role": "user", "content": "hi"}]
    assert Tokenizer.from_folder(path).apply_chat_template(hi) == "<tool><bos><tool>"


def test_a_folder_without_a_tokenizer_says_what_it_needs(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json does not exist"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "{", "cannot be read"),
        ("tokenizer.json", "{}", "cannot be read"),
        ("tokenizer_config.json", "[1]", "must be a JSON object, got list"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: not valid JSON"),
        ("tokenizer_config.json", '{"add_bos_token": true}', "names no such token"),
        ("generation_config.json", '{"eos_token_id": 10000}', r"10000.*0\.\.261"),
        ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id 'x'"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, name, text, message):
    path = folder(tmp_path, BPE, BYTE_LEVEL)
    (path / name).write_text(text)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_folder(path)


@pytest.mark.parametrize("decoder", [None, {"type": "CTC", "pad_token": "", "cleanup": True,
                                            "word_delimiter_token": "|"}])  # fmt: skip
def test_a_spelling_of_bytes_that_is_not_known_is_an_error(tmp_path, decoder):
    with pytest.raises(TokenizerError, match=r"decoder .* is not supported; supported: ByteLevel"):
        Tokenizer.from_folder(folder(tmp_path, BPE, decoder))
