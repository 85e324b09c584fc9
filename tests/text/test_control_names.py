import random
import re
import time

from tokenizers import AddedToken, Tokenizer, models

from pyroclast.text.control_names import ControlNames
from pyroclast.text.native_tokenizer import NativeTokenizer


def test_names_are_found_as_a_regular_expression_finds_them():
    rng = random.Random(2)
    for _ in range(3000):
        names = {"".join(rng.choices("ab<", k=rng.randint(1, 4))) for _ in range(rng.randint(0, 6))}
        text = "".join(rng.choices("ab<!", k=rng.randint(0, 12)))
        marks = bytes(rng.choices([0, 1], [1, 4], k=len(text)))
        longest_first = sorted(map(re.escape, names), key=len, reverse=True)
        one = re.compile("|".join(longest_first) or "(?!)")
        expected = [
            (match.start(), match[0])
            for run in re.finditer(b"\1+", marks)
            for match in one.finditer(text, run.start(), run.end())
        ]
        assert list(ControlNames(names).found(text, marks)) == expected


def test_many_long_names_cost_little():
    names = [f"{i:04}" + "x" * 1000 for i in range(1000)]
    start = time.thread_time()
    found = ControlNames(names)
    text = "0123x" * 2000
    assert not list(found.found(text, b"\1" * len(text)))
    assert list(found.found(names[7] + "x", b"\1" * 1005)) == [(0, names[7])]
    assert time.thread_time() - start < 1


def test_a_vocabulary_with_thousands_of_control_tokens_is_soon_ready():
    """Gemma 3 has 6,250; the first chat waits for this."""
    tokens = [AddedToken(f"<unused{i}>", special=i % 2500 > 3) for i in range(5000)]
    backend = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    backend.add_tokens(tokens)
    start = time.thread_time()
    plain = NativeTokenizer(backend).without_control_tokens([each.content for each in tokens])
    assert time.thread_time() - start < 2
    assert all(plain.token_to_id(each.content) == i for i, each in enumerate(tokens, 1))
    assert plain.encode("<unused9>a") == [0] == plain.encode("a")
