"""Prompts of words drawn at random: no two share a beginning, so no cache of prefixes helps."""

from __future__ import annotations

import random
from pathlib import Path

from pyroclast.text.tokenizer import Tokenizer

_WORDS = """
    river stone engine light harbour winter letter garden captain signal forest window machine
    bridge silver market thunder cloud morning valley copper island teacher music paper ocean
    mountain story village doctor kitchen summer shadow planet railway castle desert library
"""


class Prompts:
    """`next(n)` is the next prompt of n tokens."""

    def __init__(self, model: Path, seed: int = 0) -> None:
        self._tokenizer = Tokenizer.from_gguf(model)
        self._random = random.Random(seed)  # noqa: S311 - prompts need no secrecy

    def next(self, n_tokens: int) -> list[int]:
        """Token ids, exactly so many."""
        ids: list[int] = []
        while len(ids) < n_tokens:
            words = " ".join(self._random.choices(_WORDS.split(), k=n_tokens))
            ids += self._tokenizer.encode(f"{words}.\n")
        return ids[:n_tokens]
