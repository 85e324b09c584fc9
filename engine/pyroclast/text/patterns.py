"""Which regular expressions of a tokenizer.json are known to take linear time.

Oniguruma backtracks: a pattern that a stranger wrote can take hours on a short text.  Known are the
patterns of pretokenizers.py, alternations of their parts, and single atoms.  Any other pattern may
still be used, in a process that a deadline ends (encoding_process.py).
"""

from __future__ import annotations

import functools
import re

from pyroclast.text.pretokenizers import PRE_RULES

_ESCAPE = r"\\[pP]\{\^?\w+\}|\\[dDsSwWnrt.\-/|$()*+?\[\]{}^]"
_ATOM = rf"(?:{_ESCAPE}|\[\^?(?:[^\[\]\\&]|\\.)+\]|[^\\\[\](){{}}|*+?.^$])"
# Atoms, of which the last may be repeated: nothing comes after it that could fail.
_SIMPLE = re.compile(rf"{_ATOM}*{_ATOM}(?:[*+?]|\{{\d{{1,3}}(?:,\d{{0,3}})?\}})?")
# Parts that scan a run and may then fail: linear only if another part takes the run.
_NEEDS = {r"\s*[\r\n]+": r"\s+", r"\s*[\r\n]": r"\s+", r"\s*[\r\n]+(?!\S)": r"\s+"}


def is_linear(pattern: str) -> bool:
    """Whether a pattern is known to take time in proportion to any text."""
    if pattern in _known_patterns():
        return True
    parts = alternatives(pattern)
    if any(_NEEDS.get(part, part) not in parts for part in parts):
        return False
    known = _known_parts()
    return all(part in known or _SIMPLE.fullmatch(part) for part in parts)


def alternatives(pattern: str) -> list[str]:
    """A pattern cut at the `|` that stand in no group and no character class."""
    parts, start, depth, in_class, i = [], 0, 0, False, 0
    while i < len(pattern):
        char = pattern[i]
        if char == "\\":
            i += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "|" and depth == 0:
            parts.append(pattern[start:i])
            start = i + 1
        i += 1
    return [*parts, pattern[start:]]


@functools.cache
def _known_patterns() -> frozenset[str]:
    return frozenset(pattern for rule in PRE_RULES.values() for pattern in rule.patterns)


@functools.cache
def _known_parts() -> frozenset[str]:
    return frozenset(part for pattern in _known_patterns() for part in alternatives(pattern))
