import os
import random
import subprocess
import sys
import threading
import time

import pytest

from pyroclast.errors import ModelFileError, TokenizerError
from pyroclast.text.tokenizer import Tokenizer
from vocabularies import (
    CONTROL,
    REAL_VOCABULARIES,
    UNUSED,
    USER_DEFINED,
    byte_level,
    sentencepiece,
)

REAL = [pytest.param(path, id=path.stem) for path in REAL_VOCABULARIES] or [
    pytest.param(None, marks=pytest.mark.skip(reason="../shared/data/tokenizers is not here"))
]


def tokenizer(metadata):
    return Tokenizer.from_gguf_metadata(metadata)


def encode(tok, text, **options):
    return tok.encode(text, **{"add_special_tokens": False, **options})


def streamed(tok, ids, **options):
    decoder = tok.decoder(**options)
    return "".join([decoder.step(i) for i in ids]) + decoder.flush()


@pytest.fixture(scope="module")
def real(request):
    return Tokenizer.from_gguf(request.param)


# --- the files' own test strings


@pytest.mark.parametrize("path", REAL)
def test_every_test_string_gives_the_expected_ids_and_comes_back(path):
    with open(f"{path}.inp", encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")[:-1]
    with open(f"{path}.out", encoding="utf-8") as file:
        expected = [[int(i) for i in line.split()] for line in file]
    assert len(texts) == len(expected) > 40
    tok = Tokenizer.from_gguf(path)
    for text, ids in zip(texts, expected, strict=True):
        assert encode(tok, text) == ids, repr(text)
        assert tok.decode(ids) == text
        assert streamed(tok, ids) == text
        assert tok.decode(tok.encode(text)) == text  # with BOS where the model has one


@pytest.mark.parametrize("real", REAL, indirect=True)
def test_a_stream_gives_what_decode_gives_also_for_ids_that_are_no_text(real):
    rng = random.Random(7)
    for _ in range(100):
        ids = [rng.randrange(real.vocab_size) for _ in range(rng.randint(0, 30))]
        for skip in (True, False):
            for continuation in (True, False):
                options = {"skip_special_tokens": skip, "continuation": continuation}
                assert streamed(real, ids, **options) == real.decode(ids, **options)


@pytest.mark.parametrize("real", REAL, indirect=True)
def test_random_unicode_comes_back(real):
    rng = random.Random(3)
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x400, 0x500), (0x4E00, 0x9FFF), (0x1F600, 0x1F650)]
    for _ in range(300):
        text = "".join(chr(rng.randrange(*rng.choice(blocks))) for _ in range(rng.randint(0, 20)))
        assert real.decode(real.encode(text)) == text


@pytest.mark.parametrize("real", REAL, indirect=True)
def test_a_step_of_the_stream_costs_a_few_microseconds(real):
    ids = encode(real, "It was the best of times, it was the worst of times. " * 200)
    decoder = real.decoder()
    start = time.thread_time()
    for token_id in ids:
        decoder.step(token_id)
    assert (time.thread_time() - start) / len(ids) < 20e-6


# --- byte-level BPE


def test_ignore_merges_takes_a_word_that_is_a_token_whole():
    metadata = byte_level(words=["hello"])
    assert len(encode(tokenizer(metadata), "hello")) == 5
    assert encode(tokenizer({**metadata, "tokenizer.ggml.pre": "llama-bpe"}), "hello") == [256]


def test_merges_apply_in_their_order():
    words = ["ab", "bc", "abc"]
    assert encode(tokenizer(byte_level(words, ["a b", "b c"])), "abc")[0] == 256
    assert encode(tokenizer(byte_level(words, ["b c", "a b"])), "abc")[1] == 257
    assert encode(tokenizer(byte_level(words, ["b c", "a bc"])), "abc") == [258]


def test_a_byte_without_a_token_is_an_error_and_not_dropped():
    metadata = byte_level()
    for key in ("tokens", "token_type"):
        del metadata[f"tokenizer.ggml.{key}"][0]  # "!"
    with pytest.raises(TokenizerError, match="0x21"):
        tokenizer(metadata).encode("hi!")


# --- special tokens

SPECIAL = [("<|im_end|>", CONTROL), ("<tool>", USER_DEFINED), ("[PAD0]", UNUSED)]


@pytest.fixture
def special():
    return tokenizer(byte_level(others=SPECIAL))


def test_control_tokens_are_read_only_on_request_and_user_defined_ones_always(special):
    assert encode(special, "<|im_end|><tool>") == [256, 257]
    plain = encode(special, "<|im_end|><tool>", parse_special=False)
    assert plain[-1] == 257
    assert 256 not in plain
    assert special.decode(plain) == "<|im_end|><tool>"
    assert 258 not in encode(special, "[PAD0]")


def test_decoding_leaves_control_tokens_out_unless_asked(special):
    ids = encode(special, "a<|im_end|>b<tool>")
    assert special.decode(ids) == "ab<tool>" == streamed(special, ids)
    assert special.decode(ids, skip_special_tokens=False) == "a<|im_end|>b<tool>"
    assert special.decode_bytes(ids) == b"ab<tool>"
    assert special.token_bytes(256) == b"<|im_end|>"


def test_the_longest_control_token_wins():
    tok = tokenizer(byte_level(others=[("<a>", CONTROL), ("<a><b>", CONTROL)]))
    assert encode(tok, "<a><b>") == [257]


def test_threads_do_not_disturb_each_other(special):
    plain, wrong = encode(special, "<|im_end|>", parse_special=False), []

    def work(parse, expected):
        for _ in range(300):
            got = encode(special, "<|im_end|>", parse_special=parse)
            if got != expected:
                wrong.append(got)

    jobs = [(True, [256]), (False, plain)] * 2
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (sentencepiece(["▁", "a"]), [1, 259, 260]),
        (sentencepiece(["▁", "a"], add_bos_token=False), [259, 260]),
        (sentencepiece(["▁", "a"], add_eos_token=True), [1, 259, 260, 2]),
        (byte_level(["<bos>"], bos_token_id=256), [64]),
        (byte_level(["<bos>"], bos_token_id=256, add_bos_token=True), [256, 64]),
        (byte_level(["<bos>"], bos_token_id=256, pre="llama-bpe"), [256, 64]),
    ],
)
def test_what_is_put_around_a_text(metadata, expected):
    assert tokenizer(metadata).encode("a") == expected
    assert tokenizer(metadata).decode(expected) in ("a", "<bos>a")


def test_all_tokens_that_end_a_turn_are_found():
    others = [("<|endoftext|>", CONTROL), ("<|im_end|>", CONTROL), ("<stop>", CONTROL)]
    metadata = byte_level(words=["</s>"], others=others, eos_token_id=0, eot_token_id=259)
    assert tokenizer(metadata).eos_token_ids == {0, 257, 258, 259}  # not the ordinary word </s>
    harmony = [("<|end|>", CONTROL), ("<|return|>", CONTROL), ("<|call|>", CONTROL)]
    assert tokenizer(byte_level(others=harmony)).eos_token_ids == {257, 258}


# --- decoding


@pytest.mark.parametrize("token_id", [-1, 259, 10**12])
def test_an_id_outside_the_vocabulary_is_an_error_that_names_both(special, token_id):
    for decode in (special.token_bytes, special.decoder().step, lambda i: special.decode([i])):
        with pytest.raises(TokenizerError, match=rf"{token_id}.*0\.\.258"):
            decode(token_id)


def test_a_stream_holds_a_character_back_until_it_is_whole():
    tok = tokenizer(byte_level())
    decoder = tok.decoder()
    steps = [decoder.step(i) for i in encode(tok, "é🚀!")]
    assert steps == ["", "é", "", "", "", "🚀", "!"]
    assert decoder.flush() == ""


def test_streams_that_skip_control_tokens_and_streams_that_do_not_share_no_text(special):
    ids = encode(special, "a<|im_end|>b")
    for skip, expected in [(False, ["a", "<|im_end|>", "b"]), (True, ["a", "", "b"])] * 2:
        decoder = special.decoder(skip_special_tokens=skip)
        assert [decoder.step(i) for i in ids] == expected


def test_a_known_token_does_not_overtake_half_a_character():
    tok = tokenizer(byte_level())
    first, *rest = encode(tok, "é")
    [letter] = encode(tok, "a")
    for _ in range(2):  # the second time every text is known
        decoder = tok.decoder()
        assert [decoder.step(i) for i in (letter, first, letter)] == ["a", "", "\ufffda"]
        assert [decoder.step(i) for i in (first, *rest, letter)] == ["", "é", "a"]


def test_bytes_that_are_no_text_become_replacement_characters():
    tok = tokenizer(byte_level())
    cut = encode(tok, "🚀")[:3]
    assert tok.decode(cut) == "\ufffd" == streamed(tok, cut)
    ids = [*cut, *encode(tok, "a"), *cut[1:]]
    assert (
        tok.decode(ids) == b"\xf0\x9f\x9aa\x9f\x9a".decode(errors="replace") == streamed(tok, ids)
    )
    assert tok.decode_bytes(ids) == b"\xf0\x9f\x9aa\x9f\x9a"


# --- input that is wrong


@pytest.mark.parametrize("text", ["a\ud800b", b"bytes", None, 7])
def test_what_is_no_text_is_refused(special, text):
    with pytest.raises(TokenizerError, match="text"):
        special.encode(text)


def without(metadata, key):
    return {name: value for name, value in metadata.items() if name != f"tokenizer.ggml.{key}"}


BPE, SPM = byte_level(["ab"], ["a b"]), sentencepiece(["▁", "a"])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "no vocabulary"),
        ({**BPE, "tokenizer.ggml.model": "bert"}, "'bert'.*supported: 'gpt2'"),
        ({**BPE, "tokenizer.ggml.model": ["gpt2"]}, "supported"),
        ({**BPE, "tokenizer.ggml.pre": "no-such"}, "'no-such'.*known: .*llama-bpe.*qwen2"),
        ({**BPE, "tokenizer.ggml.pre": ["gpt-2"]}, "known"),
        ({**BPE, "tokenizer.ggml.tokens": []}, "tokens"),
        ({**BPE, "tokenizer.ggml.tokens": [1, 2]}, "tokens"),
        ({**BPE, "tokenizer.ggml.tokens": ["a", "b", "a"]}, "twice: 0, 2"),
        ({**BPE, "tokenizer.ggml.token_type": [1]}, "token_type.*257.*got 1"),
        ({**BPE, "tokenizer.ggml.token_type": ["x"] * 257}, "numbers"),
        ({**BPE, "tokenizer.ggml.merges": ["ab"]}, "merges"),
        ({**BPE, "tokenizer.ggml.merges": ["a zz"]}, "merges"),
        ({**BPE, "tokenizer.ggml.merges": [5]}, "merges"),
        (without(BPE, "merges"), "merges"),
        ({**BPE, "tokenizer.ggml.eos_token_id": 257}, r"eos_token_id is 257.*0\.\.256"),
        ({**BPE, "tokenizer.ggml.bos_token_id": -1}, "bos_token_id"),
        ({**BPE, "tokenizer.ggml.add_bos_token": True}, "bos_token_id is missing"),
        (without(SPM, "scores"), "scores"),
        ({**SPM, "tokenizer.ggml.scores": [0.0]}, "scores.*261"),
        (sentencepiece(["▁", "x" * 5000]), "5000 characters"),
    ],
)
def test_metadata_that_cannot_be_used_is_an_error_that_says_why(metadata, message):
    with pytest.raises(TokenizerError, match=message):
        tokenizer(metadata)


def test_a_file_without_a_rule_uses_the_default_one():
    assert len(encode(tokenizer(without(BPE, "pre")), "a 1234")) == 6


def test_from_gguf_names_the_file_in_its_errors(tmp_path):
    with pytest.raises(ModelFileError, match=r"missing\.gguf"):
        Tokenizer.from_gguf(tmp_path / "missing.gguf")


# --- cost


def test_tokenizers_is_imported_late_and_the_environment_left_alone():
    code = """
import os, sys
from pyroclast.text.tokenizer import Tokenizer
assert not {"tokenizers", "jinja2"} & set(sys.modules), "imported too early"
import vocabularies
tok = Tokenizer.from_gguf_metadata(vocabularies.byte_level())
assert tok.encode("a")
assert "TOKENIZERS_PARALLELISM" not in os.environ
if os.fork() == 0:
    tok.encode("b")
    os._exit(0)
os.wait()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("TOKENIZERS_PARALLELISM", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_text_that_begins_with_bos_gets_no_second_one():
    metadata = byte_level(others=[("<bos>", CONTROL)], bos_token_id=256, add_bos_token=True)
    tok = Tokenizer.from_gguf_metadata(metadata)
    with pytest.warns(UserWarning, match="no second one is added"):
        ids = tok.encode("<bos>a")
    assert ids == [256, *tok.encode("a", add_special_tokens=False)] == tok.encode("a")
    assert tok.encode("<bos>a") == ids  # said once: a warning would be an error here
    assert tok.encode("<bos>a", parse_special=False)[:1] == [256]
    assert tok.encode("<bos><bos>", add_special_tokens=False) == [256, 256]
