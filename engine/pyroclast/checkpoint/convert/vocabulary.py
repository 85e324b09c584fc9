"""A folder's tokenizer as the keys of a GGUF file: byte-level BPE, or SentencePiece BPE by scores.

GGUF names the rule that splits text instead of stating it, so the rule is found by trying: the one
that cuts a text of many scripts as the folder's own does.  Whatever was written is then read back
and must give the same tokens.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroclast.errors import TokenizerError
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.files.gguf_writer import Value
from pyroclast.text.gguf_keys import KEY, NAMED
from pyroclast.text.hf_vocab import vocabulary_from_folder
from pyroclast.text.native_tokenizer import NativeTokenizer, call_native
from pyroclast.text.pretokenizers import PRE_RULES, PreRule
from pyroclast.text.tokenizer import Tokenizer
from pyroclast.text.vocab import Vocabulary

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # ggml's token types
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_NEVER_MERGED = -1e9  # the score of a token that no merge makes
# Where rules differ: contractions, digits, letters and marks of several scripts, runs of spaces.
PROBES = (
    "I'll say it's YOU'RE I'D don't can't We'Ve 'tis O'Neil",
    "1 12 123 1234 12345 1234567 3.14 1,000 ½ ²³ Ⅷ ٣٤٥ 10th x86_64 a1b2",
    "HelloWorld camelCase XMLHttp naïve Ünïcödé straße ΑΒΓδ Жук שלום مرحبا हिन्दी ไทย 한국어",
    "日本語のテキスト 中文\uff0c标点。 カタカナ・ひらがな 😀👍🏽 \u200d",
    "a  b   c    d\te\t\tf\n\ng \n h\r\ni  \n\n\n   j ",
    "def f(x):\n    return x**2 + y[0] != {'a': 1}  # ok\n\n\t$price=$5.00; <b>&amp;</b>...!?",
    " leading and trailing  ",
)
_DECOMPOSED = "e\u0301"  # an e, and an accent that combines with it


def vocabulary_keys(folder: Path, h: Hyperparameters) -> tuple[dict[str, Value], list[str]]:
    """Tokens, types, merges or scores, special tokens and templates, and what a user should know; a
    TokenizerError if a GGUF file cannot hold this tokenizer, or would read text otherwise."""
    vocabulary = vocabulary_from_folder(folder)
    text = call_native(f"{folder}: the tokenizer cannot be read", vocabulary.backend.backend.to_str)
    model = json.loads(text)["model"]
    if model.get("type") != "BPE":
        raise TokenizerError(
            f"{folder}: a tokenizer of type {model.get('type')!r} cannot be written to GGUF; "
            "supported: BPE"
        )
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    tokens = _tokens(vocabulary, h.vocab_size, folder)
    byte_level = vocabulary.decoding.byte_level
    keys = {
        "model": Value("str", "gpt2" if byte_level else "llama"),
        "tokens": Value("[str]", [text for text, _ in tokens]),
        "token_type": Value("[i32]", [kind for _, kind in tokens]),
    }
    if byte_level:
        rule = _rule_name(vocabulary.backend, bool(model.get("ignore_merges")), folder)
        keys |= {"pre": Value("str", rule), "merges": Value("[str]", merges)}
    else:
        keys |= _scores(vocabulary, [text for text, _ in tokens], merges)
    named = dict(_special(vocabulary, h))
    found = {KEY + name: value for name, value in (keys | named).items()} | _templates(vocabulary)
    _check_read_back(found, Tokenizer(vocabulary), folder)
    return found, list(_normalization_note(vocabulary.backend))


def _tokens(vocabulary: Vocabulary, size: int, folder: Path) -> list[tuple[str, int]]:
    """(text, type) of each row of the embedding."""
    added = vocabulary.backend.added_tokens()
    last = max(
        (i for i in range(size, vocabulary.size) if vocabulary.token_text(i) is not None),
        default=None,
    )
    if last is not None:
        raise TokenizerError(
            f"{folder}: the tokenizer has a token {last}, but the model only 0..{size - 1}; "
            "a GGUF file needs a row of the embedding for each token"
        )
    byte_level, unknown = vocabulary.decoding.byte_level, vocabulary.backend.unknown_token()
    found = []
    for i in range(size):
        text = vocabulary.token_text(i)
        if text is None:
            found.append((f"[PAD{i}]", _UNUSED))
        elif not byte_level and text == unknown:
            found.append((text, _UNKNOWN))
        elif i in added:
            kind = _CONTROL if added[i].special else _USER_DEFINED
            # SentencePiece spells a space in a user-defined token ▁.
            plain = byte_level or kind == _CONTROL
            found.append((text if plain else text.replace(" ", "▁"), kind))
        elif not byte_level and _BYTE_TOKEN.fullmatch(text):
            found.append((text, _BYTE))
        else:
            found.append((text, _NORMAL))
    return found


def _scores(vocabulary: Vocabulary, tokens: list[str], merges: list[str]) -> dict[str, Value]:
    """SentencePiece joins the pair whose union has the highest score; the merges come in that
    order, so a token's score is the place of its first merge, negated."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    scores = [float(-ranks[token]) if token in ranks else _NEVER_MERGED for token in tokens]
    first = vocabulary.backend.encode("a")
    has_prefix = bool(first) and (vocabulary.token_text(first[0]) or "").startswith("▁")
    return {
        "scores": Value("[f32]", scores),
        "add_space_prefix": Value("bool", has_prefix),
        "pre": Value("str", "default"),
    }


def _rule_name(backend: NativeTokenizer, ignore_merges: bool, folder: Path) -> str:
    """The name of the rule that splits every probe as this tokenizer does."""
    normalizer, splitter = backend.backend.normalizer, backend.backend.pre_tokenizer
    if splitter is not None:
        texts = [normalizer.normalize_str(text) if normalizer else text for text in PROBES]
        wanted = [splitter.pre_tokenize_str(text) for text in texts]
        names = sorted(PRE_RULES, key=lambda name: name == "default")  # it is a warning elsewhere
        tried: dict[PreRule, bool] = {}
        for name in names:
            rule = PRE_RULES[name]
            if rule.ignore_merges != ignore_merges:
                continue
            if rule not in tried:
                split = _splitter(rule)
                tried[rule] = [split.pre_tokenize_str(text) for text in texts] == wanted
            if tried[rule]:
                return name
    raise TokenizerError(
        f"{folder}: no rule that GGUF has a name for splits text as this tokenizer does, so a GGUF "
        "file would have other tokens; use the folder itself"
    )


def _splitter(rule: PreRule) -> Any:
    from tokenizers import Regex, pre_tokenizers

    split: list[Any] = [pre_tokenizers.Split(Regex(each), "isolated") for each in rule.patterns]
    split.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(split)


def _special(vocabulary: Vocabulary, h: Hyperparameters) -> Iterator[tuple[str, Value]]:
    """Ids of special tokens, and whether BOS and EOS surround a text."""
    backend = vocabulary.backend
    ids = {
        name.removesuffix("_token"): backend.token_to_id(text)
        for name, text in vocabulary.named_tokens.items()
    }
    bos = ids.get("bos") if ids.get("bos") is not None else h.bos_token_id
    ends = sorted(vocabulary.eos_token_ids, key=lambda i: (i != ids.get("eos"), i))
    numbers = {"bos": bos} | dict(zip(("eos", "eot", "eom"), ends, strict=False))
    numbers |= {key: ids.get(name) for name, key in NAMED.items()}
    for name, token_id in numbers.items():
        if token_id is not None:
            yield f"{name}_token_id", Value("u32", token_id)
    yield "add_bos_token", Value("bool", bos is not None and bos in vocabulary.prefix_ids)
    yield "add_eos_token", Value("bool", bool(ends) and ends[0] in vocabulary.suffix_ids)


def _templates(vocabulary: Vocabulary) -> dict[str, Value]:
    key = "tokenizer.chat_template"
    found = {
        key if name == "default" else f"{key}.{name}": Value("str", source)
        for name, source in vocabulary.chat_templates.items()
    }
    others = sorted(name for name in vocabulary.chat_templates if name != "default")
    return found | ({key + "s": Value("[str]", others)} if others else {})


def _normalization_note(backend: NativeTokenizer) -> Iterator[str]:
    if backend.encode(_DECOMPOSED) == backend.encode(unicodedata.normalize("NFC", _DECOMPOSED)):
        yield (
            "the folder's tokenizer composes characters (Unicode NFC) first, which GGUF files do "
            "not record: an accent that is a character of its own becomes other tokens"
        )


def _check_read_back(keys: dict[str, Value], wanted: Tokenizer, folder: Path) -> None:
    """What a reader of these keys makes of texts must be what the folder's tokenizer makes."""
    read = Tokenizer.from_gguf_metadata({key: each.value for key, each in keys.items()})
    for text in PROBES:
        want, got = wanted.encode(text), read.encode(text)
        if want != got:
            pairs = zip([*want, -1], [*got, -1], strict=False)
            at = next(i for i, (a, b) in enumerate(pairs) if a != b)
            raise TokenizerError(
                f"{folder}: a GGUF file cannot hold this tokenizer: token {at} of {text!r} would "
                f"be {got[at : at + 1]} instead of {want[at : at + 1]}; use the folder itself"
            )
