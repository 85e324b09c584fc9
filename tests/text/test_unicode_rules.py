"""Each `pre` rule against llama.cpp, on strings over all categories of Unicode.

PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python; without it these are skipped.
The vocabulary has every pair of bytes as a token, so a text cut elsewhere has other tokens.
"""

import json
import os
import random
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
OWN_PATTERN = {
    "gpt-4o llama4 kanana2 talkie minimax-m2 granite-embed-multi-97m tekken youtu": (
        "upper case is read as anything but a to z, and marks as no part of a word"
    ),
    "tiny_aya cohere2moe": "upper case as above, and other digits than ASCII's",
    "deepseek-llm deepseek-coder": "white space and digits beyond ASCII",
    "afmoe superbpe": "what stands before a numeral",
    "gpt2": "not a name that llama.cpp knows",
}
NAMES = sorted(set(PRE_RULES) - set(" ".join(OWN_PATTERN).split()))
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


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_cuts_all_of_unicode_as_llama_cpp_does(tmp_path, name):
    path = vocabulary_file(tmp_path / "vocabulary.gguf", name)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    child = subprocess.run(
        [LLAMA, "-c", _CHILD],
        input=json.dumps([path, texts()]),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    tok = Tokenizer.from_gguf(path)
    for text, expected in zip(texts(), json.loads(child.stdout), strict=True):
        assert tok.encode(text, add_special_tokens=False) == expected, ascii(text)


def test_the_rules_that_differ_are_named_rightly():
    names = " ".join(OWN_PATTERN).split()
    assert set(names) <= set(PRE_RULES)
    assert len(names) == len(set(names))
