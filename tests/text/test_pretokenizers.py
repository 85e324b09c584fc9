import random
import string
import time

import pytest
from tokenizers import Regex, pre_tokenizers

from pyroclast.errors import TokenizerError
from pyroclast.text.pretokenizers import PRE_RULES, pre_rule
from pyroclast.text.tokenizer import Tokenizer
from pyroclast.text.vocab import byte_level_alphabet
from vocabularies import byte_level


def pieces(name, text):
    tok = Tokenizer.from_gguf_metadata(byte_level(pre=name))
    words = tok._backend.backend.pre_tokenizer.pre_tokenize_str(text)
    alphabet = byte_level_alphabet()
    return [bytes(alphabet[char] for char in word).decode() for word, _ in words]


# Worked out by hand from each model's own tokenizer.json.
@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        ("gpt-2 mpt olmo phi-2", "I've 123 x  y", "I|'ve| 123| x| | y"),
        ("gpt-2", "I'VE", "I|'|VE"),
        ("smollm starcoder refact command-r", "I've 123 x", "I|'ve| |1|2|3| x"),
        ("llama-bpe dbrx smaug-bpe", "I'VE 12345!\n\nx", "I|'VE| |123|45|!\n\n|x"),
        ("qwen2 stablelm2 deepseek-r1-qwen", "I'VE 123\n x", "I|'VE| |1|2|3|\n| x"),
        ("qwen35", "e\u0301t", "e\u0301t"),
        ("qwen2", "e\u0301t", "e|\u0301t"),
        ("gpt-4o llama4", "HTTPServer's camelCase 1234/\n", "HTTPServer's| camel|Case| |123|4|/\n"),
        ("tekken", "camelCase 12/\n", "camel|Case| |1|2|/\n"),
        ("falcon", "a 12345...b", "a| |123|45|...|b"),
        ("falcon", "a 1½ 12 123½", "a| 1½| 12| |123|½"),
        ("default", "a 12345`", "a| |123|45|`"),
        ("deepseek-llm", "ß, 12\nл中文", "ß|,| |1|2|\n|л|中文"),
        ("deepseek-llm", " Ω1 Ж ა", " Ω|1| Ж| |ა"),
        ("deepseek-llm", "Grüße", "Gr|üß|e"),  # its punctuation spans :-~, and so ASCII letters
        ("deepseek-coder", "x = f(12)\n中", "x| =| f|(|1|2|)|\n|中"),
        ("deepseek-v3", "a.b 1234かな漢字x", "a|.b| |123|4|かな漢字|x"),
        ("bloom poro-chat", "Hello, my world!", "Hello|,| my| world|!"),
        ("viking", "a12", "a|1|2"),
        ("superbpe afmoe", "1234567", "1|234|567"),
        ("tiny_aya", "1234567 89", "1|234|567| |89"),
        ("seed-coder", "x;\n", "x|;|\n"),
        ("bailingmoe", "x\n\ny", "x|\n\n|y"),
        ("exaone-moe", "a b c", "a b c"),
        ("jais-2", "a" + " " * 7 + "b", "a|    |  | b"),
        ("laguna", "a\n\nb", "a|\n\n|b"),
        ("ufakzeka", "Ali's", "Ali|'s"),
        ("ufakzeka", "1'S ", "1|'S| "),
        ("minicpm5", "1234", "123|4"),
        ("youtu", "Hi中1가", "Hi|中|1|가"),
        ("chameleon", "a    b1.", "a|    |b|1|."),
        ("spark2_5", "a;\n\n12", "a|;|\n|\n|1|2"),
    ],
)
def test_how_a_rule_cuts_text(names, text, expected):
    for name in names.split():
        assert pieces(name, text) == expected.split("|"), name


@pytest.mark.parametrize("name", PRE_RULES)
def test_no_rule_drops_or_reorders_anything(name):
    rng = random.Random(5)
    tok = Tokenizer.from_gguf_metadata(byte_level(pre=name))
    byte_of_id = list(byte_level_alphabet().values())
    alphabet = string.printable + "éßñЖщ中文かな가🚀½²\u0301\u00a0\u2028\ufeff'"
    for _ in range(100):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 40)))
        ids = tok.encode(text, add_special_tokens=False)
        assert bytes(byte_of_id[i] for i in ids) == text.encode()


def test_an_unknown_rule_is_an_error_that_lists_the_known_ones():
    with pytest.raises(TokenizerError) as error:
        pre_rule("kimi-k2")
    assert "'kimi-k2'" in str(error.value)
    assert all(name in str(error.value) for name in PRE_RULES)


# --- time

ORIGINALS = {  # rules whose published patterns take time with the square of a run
    "afmoe": {0: r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"},
    "tiny_aya": {0: r"\d{1,3}(?=(?:\d{3})*\b)"},
    "superbpe": {1: r"(?=(\d{3})+(?!\d))"},
    "deepseek-llm": {3: r"\s+$"},
}


def cutter(patterns):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in patterns])


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_rewritten_rule_cuts_as_the_original_does(name):
    rewritten = PRE_RULES[name].patterns
    original = [ORIGINALS[name].get(i, pattern) for i, pattern in enumerate(rewritten)]
    cut, cut_as_published = cutter(rewritten), cutter(original)
    rng = random.Random(5)
    for _ in range(3000):
        alphabet = rng.choice(
            ["12", "123½", "123٣५²Ⅷ", "12½ a_é", "1٢½a .\u0301", " \u00a0\n1a,中"]
        )
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, rng.choice([4, 9, 25]))))
        expected = cut_as_published.pre_tokenize_str(text)
        assert cut.pre_tokenize_str(text) == expected, repr(text)


def least_s(cut, text):
    """The least of three times, in seconds of this thread."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        cut.pre_tokenize_str(text)
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize("name", sorted({rule: name for name, rule in PRE_RULES.items()}.values()))
def test_a_rule_takes_linear_time_on_any_run(name):
    cut = cutter(PRE_RULES[name].patterns)
    for run in ("1", " ", "\u00a0", "\n", "A", "a", "中", "\u0301", "!", "½", "a ", "A\u0301"):
        for end in ("", "1", "a", "中", " !"):
            short, long = (run * (n // len(run)) + end for n in (1000, 16_000))
            # Linear: 16 times the time, quadratic: 256 times.  What is fast has no time to compare.
            assert least_s(cut, long) < max(64 * least_s(cut, short), 0.02), (run, end)
