"""Each `pre` rule against llama.cpp, on strings over all categories of Unicode.

PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python; without it these are skipped.
The vocabulary has every pair of bytes as a token, so a text cut elsewhere has other tokens.
"""

import json
import os
import random
import re
import subprocess
import unicodedata
from collections import defaultdict
from functools import cache

import pytest

from pyroclast.text.pretokenizers import PRE_RULES
from pyroclast.text.tokenizer import Tokenizer
from pyroclast.text.vocab import byte_level_alphabet

LLAMA = os.environ.get("PYROCLAST_LLAMA_PYTHON")
pytestmark = [
    pytest.mark.skipif(not LLAMA, reason="PYROCLAST_LLAMA_PYTHON is not set"),
    pytest.mark.slow,
]

# Here llama.cpp's patterns approximate the model's own tokenizer.json, which the rules follow.
# Names -> why, the categories beyond ASCII that it cuts otherwise, and other such characters.
# Texts without these must be cut alike.
CAPITALS = "upper case is read as anything but a to z"
APPROXIMATED = {
    "gpt-4o llama4 kanana2 talkie minimax-m2 tekken": (
        f"{CAPITALS}, and marks as no part of a word", "Lt Lu Mc Me Mn", ""),
    "granite-embed-multi-97m": (CAPITALS, "Lt Lu", ""),
    "youtu": (CAPITALS, "Lt Lu", "Z"),
    "tiny_aya cohere2moe": (f"{CAPITALS}, and digits as ASCII's", "Lt Lu Nd Nl No", "Z0-9"),
    "deepseek-llm": ("white space and digits are ASCII's", "Zl Zp Zs Nd Nl No", "0-9"),
    "deepseek-coder": ("white space is ASCII's", "Zl Zp Zs", ""),
    "afmoe": (
        "a digit takes along what stands before it, and a range begins at U+8C48, not at U+F900",
        "Nd Nl No", "0-9\u8c48-\ufaff"),
    "superbpe": ("digits are ASCII's", "Nd", ""),
}  # fmt: skip
OWN_PATTERN = {name: group for names, group in APPROXIMATED.items() for name in names.split()}
UNKNOWN_TO_LLAMA = {"gpt2"}  # an older converter's spelling
NAMES = sorted(set(PRE_RULES) - UNKNOWN_TO_LLAMA)
COMMON = "aZ0 9'\n\r\t.!/-_$+`~ s12 "
FRACTIONS = ["1½", "12½", " 1½", "123½4", "½1", "1½ 2¾", "x½", "①2", "Ⅷ1", "3²", "12345½678 90"]

_CHILD = """
import json, sys
import llama_cpp
path, texts = json.load(sys.stdin)
silent = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(silent, None)
params = llama_cpp.llama_model_default_params()
params.vocab_only = True
model = llama_cpp.llama_model_load_from_file(path.encode(), params)
vocab = llama_cpp.llama_model_get_vocab(model)
buffer = (llama_cpp.llama_token * 999)()
found = []
for text in texts:
    data = text.encode()
    n = llama_cpp.llama_tokenize(vocab, data, len(data), buffer, 999, False, False)
    found.append(list(buffer[:n]))
print(json.dumps(found))
"""


@cache
def pairs():
    alphabet = list(byte_level_alphabet())
    both = [(a, b) for a in alphabet for b in alphabet]
    random.Random(0).shuffle(both)
    return [*alphabet, *(a + b for a, b in both)], [f"{a} {b}" for a, b in both]


@cache
def texts():
    rng, categories = random.Random(1), defaultdict(list)
    for char in map(chr, [*range(0xD800), *range(0xE000, 0x110000)]):
        categories[unicodedata.category(char)].append(char)
    found = list(FRACTIONS)
    for _, chars in sorted(categories.items()):
        for _ in range(60):
            some = [rng.choice(rng.choice([chars, chars[:64]])) for _ in range(rng.randint(1, 3))]
            some += rng.choices(COMMON, k=rng.randint(1, 5))
            some += rng.choice(categories[rng.choice(sorted(categories))])
            rng.shuffle(some)
            found.append("".join(some))
    return found


def cut_alike(name):
    """The texts that llama.cpp cuts by the model's own rule."""
    if name not in OWN_PATTERN:
        return texts()
    _, categories, others = OWN_PATTERN[name]
    left_out = re.compile(f"[{others}]") if others else re.compile("(?!)")
    return [
        text
        for text in texts()
        if not left_out.search(text)
        and not any(c > "\x7f" and unicodedata.category(c) in categories for c in text)
    ]


def vocabulary_file(path, name):
    gguf = pytest.importorskip("gguf")
    tokens, merges = pairs()
    writer = gguf.GGUFWriter(str(path), "llama")
    for key in ("block_count", "context_length", "embedding_length", "feed_forward_length"):
        writer.add_uint32(f"llama.{key}", 32)
    writer.add_uint32("llama.attention.head_count", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(merges)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return str(path)


def llama_tokens(path, some):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    child = subprocess.run(
        [LLAMA, "-c", _CHILD],
        input=json.dumps([path, some]),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_cuts_all_of_unicode_as_llama_cpp_does(tmp_path, name):
    path, some = vocabulary_file(tmp_path / "vocabulary.gguf", name), cut_alike(name)
    assert len(some) > 300
    tok = Tokenizer.from_gguf(path)
    for text, expected in zip(some, llama_tokens(path, some), strict=True):
        assert tok.encode(text, add_special_tokens=False) == expected, ascii(text)


@pytest.mark.parametrize("name", OWN_PATTERN)
def test_a_rule_that_llama_cpp_approximates_does_differ(tmp_path, name):
    """Else its line above is out of date."""
    path = vocabulary_file(tmp_path / "vocabulary.gguf", name)
    tok = Tokenizer.from_gguf(path)
    its = llama_tokens(path, texts())
    assert [tok.encode(text, add_special_tokens=False) for text in texts()] != its


def test_the_rules_that_differ_are_named_rightly():
    assert set(OWN_PATTERN) | UNKNOWN_TO_LLAMA <= set(PRE_RULES)
    assert len(OWN_PATTERN) == len(" ".join(APPROXIMATED).split())
