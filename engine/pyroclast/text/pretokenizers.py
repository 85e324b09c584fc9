r"""How byte-level BPE vocabularies split text into words: `tokenizer.ggml.pre` -> patterns.

`pre_rule(name)` returns the `PreRule` of a name; an unknown one is a TokenizerError.
Patterns apply in order, each to the pieces of the previous one.  A match is a piece, and so is the
text between two matches; nothing is dropped.  Syntax: Oniguruma, as in
`tokenizers`.  Each pattern is the one in the model's own tokenizer.json, where that is known
(`(?i:'s|...)`, `\p{Lu}`), not llama.cpp's approximation for std::regex.

Not here: rules of vocabularies that are not byte-level BPE (gemma4, sarvam-moe, whitespace) and
kimi-k2, whose files carry no merges.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyroclast.errors import TokenizerError


@dataclass(frozen=True)
class PreRule:
    """`patterns` split the text; `ignore_merges`: a word that is a token stays whole, without any
    merge; `add_bos`: whether BOS is added if the file does not say."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


def _ranges(spans: str) -> str:
    """Space-separated hexadecimal code points and spans -> the inside of a character class.
    Escapes, because several of these characters look like others (Kelvin sign, Greek iota)."""
    return "".join(
        "-".join(rf"\x{{{point}}}" for point in span.split("-")) for span in spans.split()
    )


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}"

# Words that begin with capitals, then words that end in small letters (o200k and its kin).
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
    rf"|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_GPT4O = _CASED % (f"{_CONTRACTIONS}?", f"{_CONTRACTIONS}?", r"\p{N}{1,3}")
_TEKKEN = _CASED % ("", "", r"\p{N}")
_YOUTU = _CASED % (f"{_CONTRACTIONS}?", f"{_CONTRACTIONS}?", r"\p{N}")

_ASCII_PUNCT_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_DEEPSEEK_WORD = rf"{_ASCII_PUNCT_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
_DEEPSEEK3 = rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_SPARK = rf"{_DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+"
_CJK_KANA = rf"[{_ranges('4e00-9fa5 3040-309f 30a0-30ff')}]+"
_CJK_WIDE = rf"[{_ranges('4e00-9fa5 800-4e00 ac00-d7ff')}]+"

# 1234567 -> 1, 234, 567.  The original, \p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N})), looks ahead to the
# end of the digits from each of them, which takes time with the square of their number.  This one
# looks once, from the first digit; \G is where the last match ended.
_THREE_FROM_RIGHT = r"(?<=\p{N})\G\p{N}{3}|(?<!\p{N})\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
# \d{1,3}(?=(?:\d{3})*\b): the same of digits that no letter follows.
_THREE_AT_BOUNDARY = r"(?<=\d)\G\d{3}|(?<!\d)\d{1,3}(?=(?:\d{3})*\b)"
# \s+$, tried once in a run of spaces and not from each of them.
_SPACES_AT_END = r"(?<!\s)\s+$"
# \p{N}+, and then (?=(\d{3})+(?!\d)): a cut before each three digits, so that a numeral that is no
# digit (a fraction) stays with the digits before it, and they with it.
_HEAD = r"(?:\d{1,2}(?=(?:\d{3})*(?!\d)))"
_NO_DIGITS = rf"(?:[\p{{N}}&&[^\d]]++{_HEAD}?)"
_SUPERBPE = rf"(?<=\p{{N}})\G\d{{3}}{_NO_DIGITS}*|\A(?:{_HEAD}|\d{{3}}|{_NO_DIGITS}){_NO_DIGITS}*"

_CASED_LETTERS = _ranges(
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386"
    " 388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba"
    " 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57"
    " 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb"
    " 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d"
    " 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3"
    " a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a"
    " ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943"
)
_WIDE_PUNCTUATION = _ranges("21-2f 3a-7e ff01-ff0f ff1a-ff5e 2018-201f 3000-3002")
_ASIAN_SCRIPTS = _ranges(
    "4e00-9fff 3400-4dbf f900-faff 3040-309f 30a0-30ff ff65-ff9f 2f00-2fdf e40-e7f e80-eff"
    " 1780-17ff 1000-109f aa60-aa7f a9e0-a9ff ac00-d7af 1100-11ff"
)
_YOUTU_SCRIPTS = "|".join(
    f"[{_ranges(spans)}]+"
    for spans in (
        "ac00-d7a3 3131-318e",
        "ff01 2026 201c 201d 2018 2019 2014 ff1a ff1b ff0c 3001-303f fe30-fe4f",
        "3105-312f",
        "4e00-9fa5 3040-309f 30a0-30ff",
    )
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_NEWLINES = r"[^\n]+|[\n]+"
_JAIS2_SPACES = "|".join(
    [r"\s*[\r\n]+"]
    + [rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)]
    + [r"\s{1,2}(?!\S)", r"\s{1}"]
)

_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_EXAONE_MOE = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_MINICPM5 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_SYMBOLS}|{_SPACES}"
_JAIS2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_JAIS2_SPACES}"
_SEED_CODER = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_GPT2_NAMES = """gpt-2 gpt2 phi-2 mpt olmo jais trillion granite-docling jina-es jina-de jina-v1-en
    jina-v2-es jina-v2-de jina-v2-code roberta-bpe gigachat a.x-4.0 mellum modern-bert exaone4"""

_GPT2_RULE = PreRule((_GPT2,))
_DIGITS_GPT2_RULE = PreRule((r"\p{N}", _GPT2))
_LLAMA3_RULE = PreRule((_LLAMA3,), ignore_merges=True, add_bos=True)
_CL100K_RULE = PreRule((_LLAMA3,))
_QWEN2_RULE = PreRule((_QWEN2,))
_DEEPSEEK3_RULE = PreRule((r"\p{N}{1,3}", _CJK_KANA, _DEEPSEEK3))

_FAMILIES: tuple[tuple[str, PreRule], ...] = (
    # What llama.cpp does when a file names no rule or "default".
    ("default", PreRule((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))),
    (_GPT2_NAMES, _GPT2_RULE),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", _DIGITS_GPT2_RULE),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        _LLAMA3_RULE,
    ),
    ("dbrx smaug-bpe glm4 chatglm-bpe", _CL100K_RULE),
    (
        "qwen2 stablelm2 deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open grok-2",
        _QWEN2_RULE,
    ),
    ("qwen35", PreRule((_QWEN35,))),
    ("ufakzeka", PreRule((rf"{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}",))),
    ("laguna", PreRule((_NEWLINES, _QWEN2))),
    ("minicpm5", PreRule((r"\p{N}{1,3}", _MINICPM5), ignore_merges=True)),
    ("jais-2", PreRule((_JAIS2,))),
    ("seed-coder", PreRule((_SEED_CODER,))),
    ("exaone-moe", PreRule((_EXAONE_MOE,))),
    ("bailingmoe bailingmoe2 llada-moe", PreRule((_BAILING,))),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", PreRule((_GPT4O,))),
    ("granite-embed-multi-97m", PreRule((_GPT4O,), ignore_merges=True)),
    ("tekken", PreRule((_TEKKEN,), ignore_merges=True, add_bos=True)),
    ("tiny_aya cohere2moe", PreRule((_THREE_AT_BOUNDARY, _GPT4O))),
    ("youtu", PreRule((_YOUTU_SCRIPTS, _YOUTU), ignore_merges=True)),
    ("falcon", PreRule((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]"))),
    (
        "deepseek-llm",
        PreRule(
            (
                r"[\r\n]",
                rf"\s?[{_CASED_LETTERS}]+",
                rf"\s?[{_WIDE_PUNCTUATION}]+",
                _SPACES_AT_END,
                _CJK_WIDE,
                r"\p{N}",
            )
        ),
    ),
    ("deepseek-coder", PreRule((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_WIDE, r"\p{N}"))),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", _DEEPSEEK3_RULE),
    ("spark2_5", PreRule((r"\p{N}{1,3}", _CJK_KANA, _SPARK, r"\p{N}"))),
    ("afmoe", PreRule((_THREE_FROM_RIGHT, f"[{_ASIAN_SCRIPTS}]+", _DEEPSEEK3))),
    ("superbpe", PreRule((r"\p{N}+", _SUPERBPE))),
    ("bloom poro-chat gpt3-finnish", PreRule((_BLOOM,))),
    ("viking", PreRule((_BLOOM, r"\p{N}"))),
    (
        "chameleon",
        PreRule(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            add_bos=True,
        ),
    ),
)

PRE_RULES: dict[str, PreRule] = {name: rule for names, rule in _FAMILIES for name in names.split()}


def pre_rule(name: str) -> PreRule:
    """The rule of a `tokenizer.ggml.pre` value; an unknown name is a TokenizerError."""
    try:
        return PRE_RULES[name]
    except (KeyError, TypeError):  # TypeError: the file holds an array instead of a name
        raise TokenizerError(
            f"unknown tokenizer.ggml.pre {name!r}: how this vocabulary splits words is not known, "
            f"so its tokens could be wrong; known: {', '.join(sorted(PRE_RULES))}"
        ) from None
