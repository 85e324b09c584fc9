"""What the steps of a tokenizer.json may do: an allow-list with bounds, checked once at load.

A step that multiplies the text without bound, or that takes more than linear time, would make of a
short request gigabytes or hours.  A step that is not listed is refused by name.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pyroclast.errors import TokenizerError
from pyroclast.text.native_tokenizer import NativeTokenizer
from pyroclast.text.patterns import is_linear

_MAX_STEPS = 32
_MAX_GROWTH = 256  # characters made of one; NFKC alone can make 18
_MAX_ADDED_CHARS = 64  # by a prefix or a replacement
_MAX_PIECE_CHARS = 512  # Unigram looks at each piece that begins at a character
_MAX_WORD_CHARS = 1000  # WordPiece takes the square of a word's length

# Plainly, or with letters spelt as escapes, which no writer does without a purpose.
_MAY_HAVE_CHARSMAP = re.compile(r"precompiled_charsmap|\\u00[4-7]")

# Characters that a step can make of one.
_NORMALIZERS = {
    "BertNormalizer": 12,
    "ByteLevel": 4,
    "Lowercase": 3,
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Nmt": 1,
    "Prepend": 1,
    "Strip": 1,
    "StripAccents": 1,
}
_PRE_TOKENIZERS = {
    "BertPreTokenizer": 1,
    "ByteLevel": 4,
    "CharDelimiterSplit": 1,
    "Digits": 1,
    "FixedLength": 1,
    "Metaspace": 2,
    "Punctuation": 1,
    "Split": 1,
    "UnicodeScripts": 1,
    "Whitespace": 1,
    "WhitespaceSplit": 1,
}


def check_charsmaps(text: str, what: str) -> None:
    """Refuse a precompiled_charsmap in a tokenizer.json that claims more bytes than it has: reading
    it reserves as many, and a process without that much memory is aborted."""

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for value in [value for key, value in pairs if key == "precompiled_charsmap"]:
            data = _charsmap(value, what)
            if int.from_bytes(data[:4], "little") > len(data) - 4:
                raise TokenizerError(f"{what}: precompiled_charsmap claims more than it has")
        return dict(pairs)

    if _MAY_HAVE_CHARSMAP.search(text):
        try:
            json.loads(text, object_pairs_hook=look)
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"{what}: not valid JSON: {error}") from error


def check_steps(tokenizer: NativeTokenizer, what: str) -> list[str]:
    """Refuse steps that are unknown or unbounded; -> the patterns that need a deadline."""
    growth, slow = 1, []
    before = _flat(tokenizer.state("normalizer"), "normalizers")
    cutting = _flat(tokenizer.state("pre_tokenizer"), "pretokenizers")
    steps = [(step, _NORMALIZERS) for step in before] + [
        (step, _PRE_TOKENIZERS) for step in cutting
    ]
    if len(steps) > _MAX_STEPS:
        raise TokenizerError(f"{what}: {len(steps)} steps before the model; at most {_MAX_STEPS}")
    for step, known in steps:
        growth *= _growth(step, known, what)
        pattern = step.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
        if regex is not None and not is_linear(regex):
            slow.append(regex)
    if growth > _MAX_GROWTH:
        raise TokenizerError(
            f"{what}: its steps can make {growth} characters of one; at most {_MAX_GROWTH}"
        )
    _check_model(tokenizer, what)
    return slow


def _flat(state: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a "Sequence", in sequences or not."""
    if isinstance(state, Mapping):
        inner = state.get(name)
        if state.get("type") == "Sequence" and isinstance(inner, list):
            for step in inner:
                yield from _flat(step, name)
        else:
            yield state


def _growth(step: Mapping[str, Any], known: Mapping[str, int], what: str) -> int:
    kind = str(step.get("type"))
    if kind == "Replace" and known is _NORMALIZERS:
        return _growth_of_replace(step, what)
    if kind == "Precompiled" and known is _NORMALIZERS:
        return _growth_of_charsmap(step.get("precompiled_charsmap"), what)
    if kind not in known:
        raise TokenizerError(f"{what}: the step {kind!r} is not supported; known: {sorted(known)}")
    if kind == "Prepend" and len(step.get("prepend", "")) > _MAX_ADDED_CHARS:
        raise TokenizerError(f"{what}: Prepend puts more than {_MAX_ADDED_CHARS} characters first")
    if kind == "FixedLength" and not step.get("length"):
        raise TokenizerError(f"{what}: FixedLength needs a length of at least 1")
    return known[kind]


def _growth_of_replace(step: Mapping[str, Any], what: str) -> int:
    content, pattern = step.get("content", ""), step.get("pattern", {})
    if len(content) > _MAX_ADDED_CHARS or pattern.get("String") == "":
        raise TokenizerError(
            f"{what}: Replace needs a pattern, and at most {_MAX_ADDED_CHARS} characters to put in"
        )
    if "String" in pattern:
        return max(1, -(-len(content) // len(pattern["String"])))
    return 1 + len(content)  # a regular expression may match between any two characters


def _growth_of_charsmap(charsmap: Any, what: str) -> int:
    """SentencePiece's map: the bytes of a trie, and then its replacements, each ended by NUL."""
    data = _charsmap(charsmap, what)
    replacements = data[4 + int.from_bytes(data[:4], "little") :]
    return max(1, *map(len, replacements.split(b"\0")))


def _charsmap(charsmap: Any, what: str) -> bytes:
    try:
        return base64.b64decode(charsmap or "")
    except (binascii.Error, TypeError, ValueError) as error:
        raise TokenizerError(f"{what}: precompiled_charsmap is not base64: {error}") from error


def _check_model(tokenizer: NativeTokenizer, what: str) -> None:
    model = tokenizer.backend.model
    kind = type(model).__name__
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        affix = getattr(model, name, None)  # put to each character of a word
        if isinstance(affix, str) and len(affix) > _MAX_ADDED_CHARS:
            raise TokenizerError(f"{what}: {name} has {len(affix)} characters")
    if kind == "WordPiece" and model.max_input_chars_per_word > _MAX_WORD_CHARS:
        raise TokenizerError(f"{what}: max_input_chars_per_word is above {_MAX_WORD_CHARS}")
    if kind == "Unigram":
        longest = max(map(len, tokenizer.backend.get_vocab(False)), default=0)
        if longest > _MAX_PIECE_CHARS:
            raise TokenizerError(f"{what}: a piece of {longest} characters")
