"""Vocabularies and folders made to panic, to hang, or to take memory without bound."""

import base64
import json
import os
import threading
import time

import pytest

from pyroclast.errors import ModelFileError, TokenizerError
from pyroclast.files.hf_folder import HFFolder
from pyroclast.files.small_file import read_small_file
from pyroclast.text import encoding_process
from pyroclast.text.native_tokenizer import call_native
from pyroclast.text.patterns import alternatives, is_linear
from pyroclast.text.pretokenizers import PRE_RULES
from pyroclast.text.tokenizer import Tokenizer
from vocabularies import CONTROL, USER_DEFINED, byte_level, sentencepiece

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
BYTE_LEVEL |= {"use_regex": False}
SLOW = r"(?:x+x+)+y"  # known to nobody, and exponential


def folder(path, normalizer=None, split=None, **changes):
    """A byte-level tokenizer.json with these steps in it."""
    state = json.loads(Tokenizer.from_gguf_metadata(byte_level())._backend.backend.to_str())
    steps = [BYTE_LEVEL] if split is None else [*split, BYTE_LEVEL]
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    state |= {"decoder": BYTE_LEVEL, "normalizer": normalizer}
    model = changes.pop("model", {})
    state |= changes
    state["model"] |= model
    (path / "tokenizer.json").write_text(json.dumps(state))
    return path


def split(regex):
    return {
        "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False
    }  # fmt: skip


# --- panics


def test_a_panic_is_a_tokenizer_error_and_an_interrupt_passes():
    def panic():
        from tokenizers import Regex, models
        from tokenizers import Tokenizer as Backend
        from tokenizers.pre_tokenizers import Split

        backend = Backend(models.BPE({"x": 0}, []))
        backend.pre_tokenizer = Split(Regex(SLOW), "isolated")
        backend.encode("x" * 60)

    def interrupt():
        raise KeyboardInterrupt

    def speak():
        raise ValueError("x" * 1_000_000)

    with pytest.raises(TokenizerError, match=r"^it failed: .*retry-limit"):
        call_native("it failed", panic)
    with pytest.raises(KeyboardInterrupt):
        call_native("it failed", interrupt)
    with pytest.raises(TokenizerError) as caught:
        call_native("it failed", speak)
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is None


def test_merges_without_a_token_are_refused():
    unused = [("<|a|>", CONTROL), ("<|b|>", CONTROL)]
    with pytest.raises(TokenizerError, match="merges does not fit its tokens"):
        Tokenizer.from_gguf_metadata(byte_level(merges=["<|a|> <|b|>"], others=unused))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": [{"type": "FixedLength", "length": 0}]}, "FixedLength"),
        ({"post_processor": {"type": "TemplateProcessing", "single": [], "pair": [],
                             "special_tokens": {}}}, None),
        ({"post_processor": {"type": "RobertaProcessing", "sep": ["x", 2**32 - 1],
                             "cls": ["y", 7], "trim_offsets": True, "add_prefix_space": True}},
         None),
        ({"model": {"merges": [["Ā", "Ā"]]}}, "cannot be read"),
        ({"model": {"continuing_subword_prefix": "x" * 100}}, "continuing_subword_prefix"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 100}}, "Prepend"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "x"}, "content": "y" * 65}},
         "Replace"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "y"}}, "Replace"),
        ({"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"}] * 5}},
         "can make 4096 char"),
        ({"split": [BYTE_LEVEL] * 5}, "can make 4096 char"),
        ({"split": [{"type": "Digits", "individual_digits": True}] * 40}, "41 steps"),
    ],
)  # fmt: skip
def test_a_step_without_bound_is_refused(tmp_path, changes, message):
    if message is None:  # a panic at load, or nothing: never another exception
        try:
            Tokenizer.from_folder(folder(tmp_path, **changes)).encode("hello")
        except TokenizerError:
            return
    else:
        with pytest.raises(TokenizerError, match=message):
            Tokenizer.from_folder(folder(tmp_path, **changes))


def test_a_charsmap_is_bounded_by_its_longest_replacement(tmp_path):
    trie = (4).to_bytes(4, "little") + bytes(4)
    charsmap = base64.b64encode(trie + b"ok\0" + b"x" * 5000 + b"\0").decode()
    changes = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap}}
    with pytest.raises(TokenizerError, match="can make 20000 characters of one"):
        Tokenizer.from_folder(folder(tmp_path, **changes))


@pytest.mark.parametrize("spelling", ["precompiled_charsmap", "precompiled\\u005fcharsmap"])
@pytest.mark.parametrize("claimed", [5, 5_000_000_000 % 2**32])
def test_a_charsmap_cannot_claim_more_than_it_has(tmp_path, spelling, claimed):
    charsmap = base64.b64encode(claimed.to_bytes(4, "little") + bytes(4)).decode()
    step = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    path = folder(tmp_path, normalizer=step) / "tokenizer.json"
    text = path.read_text().replace("precompiled_charsmap", spelling)
    path.write_text(text[:-1] + ', "normalizer": null}')  # every one that is read counts
    with pytest.raises(TokenizerError, match="charsmap claims more than it has"):
        Tokenizer.from_folder(tmp_path)


# --- patterns


def test_published_patterns_are_known_and_others_are_not():
    assert alternatives(r"a|(b|c)|[|\]]|\|") == ["a", "(b|c)", r"[|\]]", r"\|"]
    for rule in PRE_RULES.values():
        assert all(map(is_linear, rule.patterns))
    for pattern in (
        r"\p{N}{1,3}",
        r"[一-龥ぁ-ヿ]+",
        " ",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ):
        assert is_linear(pattern), pattern
    for pattern in (SLOW, r"\s+$", "(a|aa)*b", r"a*a*b", r"\s*[\r\n]+", "(?=a+b)", r"(a)\1", "a+b"):
        assert not is_linear(pattern), pattern


def test_an_unknown_pattern_is_stopped_at_its_deadline(tmp_path, monkeypatch):
    quadratic = r"x+x+(?=y)"
    tok = Tokenizer.from_folder(folder(tmp_path, split=[split(quadratic)]))
    plain = Tokenizer.from_folder(folder(tmp_path))
    text = "hello xxy<|x|> é"
    assert tok.uses_process
    assert not plain.uses_process
    assert tok.encode(text) == plain.encode(text)
    assert tok.encode(text, parse_special=False) == plain.encode(text, parse_special=False)
    monkeypatch.setattr(encoding_process, "_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(TokenizerError, match=r"took more than .* s and was stopped.*x\+x\+"):
        tok.encode("x" * 4000)
    assert time.monotonic() - start < 60
    monkeypatch.undo()
    assert tok.encode(text) == plain.encode(text)  # a new process
    with pytest.raises(TokenizerError, match="surrogate"):
        tok.encode("\udc80")


def test_a_process_of_its_own_neither_cuts_nor_pads(tmp_path):
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    tok = Tokenizer.from_folder(folder(tmp_path, split=[split(r"x+x+(?=y)")], truncation=cut))
    for parse_special in (True, False):
        assert tok.decode(tok.encode("hello hello", parse_special=parse_special)) == "hello hello"


def test_a_catastrophic_pattern_is_a_tokenizer_error(tmp_path):
    tok = Tokenizer.from_folder(folder(tmp_path, split=[split(SLOW)]))
    with pytest.raises(TokenizerError, match="retry-limit"):
        tok.encode("x" * 60)
    assert len(tok.encode("hello")) == 5


def test_the_process_ends_with_its_tokenizer(tmp_path):
    tok = Tokenizer.from_folder(folder(tmp_path, split=[split(SLOW)]))
    threads = [threading.Thread(target=tok.encode, args=("hello",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = tok._backend.process._child
    assert child.poll() is None
    del tok
    assert child.wait(timeout=60) != 0


# --- sizes


@pytest.mark.parametrize("kind", [CONTROL, USER_DEFINED])
def test_special_tokens_are_bounded(kind):
    with pytest.raises(TokenizerError, match="100001 characters"):
        Tokenizer.from_gguf_metadata(byte_level(others=[("<" + "x" * 100_000, kind)]))
    many = [(f"<{i}" + "x" * 900, kind) for i in range(1200)]
    with pytest.raises(TokenizerError, match="special tokens have"):
        Tokenizer.from_gguf_metadata(byte_level(others=many))


def test_special_tokens_of_a_folder_are_bounded(tmp_path):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = {"id": 256, "content": "<" + "x" * 2000, "special": True, **flags}
    with pytest.raises(TokenizerError, match="2001 characters"):
        Tokenizer.from_folder(folder(tmp_path, added_tokens=[token]))


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (["a" * i for i in range(1, 1000)], "16 pairs for each of"),
        ([f"{i}" + "a" * 4000 for i in range(80)], "too long to find"),
        (["a" * 5000], "5000 characters"),
    ],
)
def test_pieces_that_split_into_too_many_pairs_are_refused(pieces, message):
    start = time.thread_time()
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_gguf_metadata(sentencepiece(pieces))
    assert time.thread_time() - start < 3


# --- values of the wrong kind


def test_a_chat_template_whose_name_is_no_text_is_passed_over(tmp_path):
    named = [{"name": ["default"], "template": "a"}, {"name": "default", "template": "b"}]
    (folder(tmp_path) / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert Tokenizer.from_folder(tmp_path).chat_templates == {"default": "b"}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["9" * 5000], "from ids to tokens"),
        (["٣"], "from ids to tokens"),
        (["1", "01"], "the id 1"),
    ],
)
def test_ids_of_added_tokens_are_numbers(tmp_path, ids, message):
    declared = {"added_tokens_decoder": {i: {"content": f"<{i}>"[:9]} for i in ids}}
    (folder(tmp_path) / "tokenizer_config.json").write_text(json.dumps(declared))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_half_a_character_is_refused(tmp_path, name):
    whole = {"added_tokens_decoder": {"256": "\U0001f600"}}  # both halves, as JSON escapes
    path = folder(tmp_path) / name
    path.write_text(json.dumps(whole))
    assert Tokenizer.from_folder(tmp_path).vocab_size == 257
    path.write_text(json.dumps({"added_tokens_decoder": {"256": "\ud83d"}}))
    with pytest.raises(TokenizerError, match=f"{name}: not valid JSON: .*surrogates"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["token_type", "scores"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1"])
def test_types_and_scores_are_finite(name, value):
    metadata = sentencepiece(["a", "b"])
    metadata[f"tokenizer.ggml.{name}"][-1] = value
    with pytest.raises(TokenizerError, match=f"{name} must hold finite numbers only"):
        Tokenizer.from_gguf_metadata(metadata)


# --- files


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "huge"])
def test_a_folder_of_odd_files_is_refused_at_once(tmp_path, name, kind):
    path = folder(tmp_path) / name
    path.unlink(missing_ok=True)
    {
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "huge": lambda: (path.touch(), os.truncate(path, 1 << 40)),
    }[kind]()
    with pytest.raises(TokenizerError, match=r"not a regular file|cannot be read|larger than"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_the_configurations_of_a_model_are_read_the_same_way(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ModelFileError, match="not a regular file"):
        HFFolder(tmp_path)


def test_a_small_file_is_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_small_file(path, 5) == b"12345"
    with pytest.raises(ModelFileError, match="larger than 4 bytes"):
        read_small_file(path, 4)
    with pytest.raises(FileNotFoundError):
        read_small_file(tmp_path / "y", 5)
