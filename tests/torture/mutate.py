"""Changes of values, JSON trees and bytes that a reader of files may not expect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

_SIZES = (8, 15, 16, 31, 32, 53, 62, 63, 64, 100, 1000, 1100)  # the last: beyond any float
INTEGERS = sorted(
    {0, 1, 2, 3, 5, 7, 255, 256, 4096, 65535, 10**6}
    | {sign * (2**size + add) for size in _SIZES for add in (-1, 0, 1) for sign in (1, -1)}
)
FLOATS = [
    float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e308, -1e308, 5e-324, 1e-45, 1e-30,
    0.1, 0.5, 1.0, 1.5, -1.0, 2.0**31, 2.0**63, 1e39, 3.4e38,
]  # fmt: skip
STRINGS = [
    "", " ", "\0", "a", "x" * 300, "y" * 70_000, "{", "[", "../../etc/passwd", "/dev/zero",
    "nul\0x", "<0x00>", "<0xFF>", "▁", "\ufeff", "\u202e", "é中\U0001f600", "e\u0301", "%s%n{0}",
    "{{ 1 }}", "{% for i in range(9) %}{{ i }}{% endfor %}", "null", "NaN", "-1", "0", "1e999",
    "true", "<s>", "</s>", "<unk>", "<|im_end|>", "(?:x+x+)+y", "(", "\\", "[a-z",
    "(?=a)", "\ud800",
]  # fmt: skip
_LETTERS = "ab \n<>|_/▁Ġé中\U0001f600\u0301\0{}[]()+*?\\.%'\""
_TOKENS = (
    b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 5000, b"\\ud800", b"\0", b"\xff\xfe",
    b"\xef\xbb\xbf", b"null", b"{}", b"[]", b"\"\"", b",", b":", b"}", b"]", b"\xc3", b"\x80",
    b"\"a\":1,",
)  # fmt: skip
MAX_DEPTH = 100_000


def integer(dice: Random, near: int | None = None) -> int:
    """An extreme one, or one close to `near`."""
    if near is None or dice.random() < 0.4:
        return dice.choice(INTEGERS)
    return dice.choice(
        [near + 1, near - 1, -near, near * 2, near // 2, near ^ (1 << dice.randrange(40))]
    )


def text(dice: Random, near: str = "", words: Sequence[str] = ()) -> str:
    """Another string: a word of the format, an odd one, or `near` with a small change."""
    kind = dice.randrange(6)
    if kind == 0 and words:
        return dice.choice(words)
    if kind <= 1 or not near:
        return dice.choice(STRINGS)
    at = dice.randrange(len(near))
    if kind == 2:
        return near[:at] + near[at + 1 :]
    if kind == 3:
        return near[:at] + dice.choice(_LETTERS) + near[at:]
    if kind == 4:
        return (near * dice.choice([2, 3, 100]))[:100_000]
    return dice.choice([near.upper(), near[::-1], near[:at], near + dice.choice(STRINGS)])


def value(dice: Random, words: Sequence[str] = (), depth: int = 2) -> Any:
    """Any JSON value."""
    kind = dice.randrange(9 if depth else 6)
    if kind == 0:
        return dice.choice([None, True, False])
    if kind <= 2:
        return dice.choice(FLOATS) if dice.random() < 0.3 else integer(dice)
    if kind <= 5:
        return text(dice, "", words)
    n_items = dice.choice([0, 1, 1, 2, 3, 300])
    if kind == 6:
        return {
            text(dice, "", words): value(dice, words, depth - 1) for _ in range(min(n_items, 3))
        }
    item = value(dice, words, depth - 1)
    if dice.random() < 0.5:
        return [item] * (n_items if isinstance(item, int | float) else min(n_items, 3))
    return [value(dice, words, 0) for _ in range(min(n_items, 3))]


def tree(dice: Random, root: Any, words: Sequence[str]) -> Any:
    """A copy of a JSON tree with one change somewhere; nothing of `root` is changed."""
    if not isinstance(root, dict | list) or not root or dice.random() < 0.12:
        return _changed(dice, root, words)
    if isinstance(root, dict):
        copy = dict(root)
        key = dice.choice(list(copy))
        if dice.random() < 0.2:
            _change_keys(dice, copy, key, words)
        else:
            copy[key] = tree(dice, copy[key], words)
        return copy
    items = list(root)
    at = dice.randrange(len(items))
    kind = dice.randrange(12)
    if kind == 0:
        del items[at]
    elif kind == 1:
        items.insert(at, dice.choice(items))
    elif kind == 2:
        other = dice.randrange(len(items))
        items[at], items[other] = items[other], items[at]
    elif kind == 3:
        items = items[:at]
    else:
        items[at] = tree(dice, items[at], words)
    return items


def _change_keys(dice: Random, copy: dict[str, Any], key: str, words: Sequence[str]) -> None:
    kind = dice.randrange(4)
    if kind == 0:
        del copy[key]
    elif kind == 1:
        copy[text(dice, key, words)] = copy.pop(key)
    elif kind == 2:
        other = dice.choice(list(copy))
        copy[key], copy[other] = copy[other], copy[key]
    else:
        copy[text(dice, key, words)] = value(dice, words)


def _changed(dice: Random, old: Any, words: Sequence[str]) -> Any:
    kind = dice.randrange(6)
    if kind == 0:
        return value(dice, words)
    if kind == 1:
        return [old] if dice.random() < 0.5 else {"type": old}
    if isinstance(old, bool) or old is None:
        return value(dice, words, 1)
    if isinstance(old, int):
        return (
            dice.choice([float(old % 2**64), str(old % 2**64)]) if kind == 2 else integer(dice, old)
        )
    if isinstance(old, float):
        return dice.choice(FLOATS) if kind < 5 else old * dice.choice([-1, 2, 1e30, 1e-30])
    if isinstance(old, str):
        return text(dice, old, words)
    return value(dice, words) if kind < 4 else type(old)()


def json_bytes(dice: Random, root: Any, words: Sequence[str]) -> bytes:
    """A JSON file made of a tree: some changes to the tree, and now and then one to its text."""
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        root = tree(dice, root, words)
    data = json.dumps(root).encode()
    return raw(dice, data) if dice.random() < 0.08 else data


def raw(dice: Random, data: bytes) -> bytes:
    """Bytes with one change that knows nothing of what they mean."""
    at = dice.randrange(len(data) + 1)
    end = min(len(data), at + dice.choice([1, 1, 4, 8, 100]))
    kind = dice.randrange(8)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + dice.choice(_TOKENS) + data[end:]
    if kind == 2:
        return data[:at] + data[at:end] * 2 + data[end:]
    if kind == 3:
        return data[:at] + data[end:]
    if kind == 4:
        opening = dice.choice([b"[", b'{"a":'])
        return data[:at] + opening * dice.choice([100, 990, MAX_DEPTH]) + data[at:]
    flipped = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 8])):
        if flipped:
            flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
    return bytes(flipped)


def words_of(*roots: Any) -> list[str]:
    """Every key and short string in JSON trees: what mutations mix."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        item = waiting.pop()
        if isinstance(item, str) and len(item) <= 40:
            found.add(item)
        elif isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list):
            waiting += item
    return sorted(found)
