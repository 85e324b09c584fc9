"""The vocabulary that llguidance asks for the tokens of texts that must follow."""

from __future__ import annotations

import random

import pytest

from pyroclast.errors import SamplingError
from pyroclast.sampling import vocabulary
from pyroclast.sampling.vocabulary import Vocabulary

TOKENS = [b"<end>", b"a", b"b", b"ab", b'"name"']
WRONG = [1]  # what the encoder below gives for a text that it does not know


def a_vocabulary(asked: list[str]) -> Vocabulary:
    """Its encoder notes each text that it encodes."""
    known = {"ab": [3], "ba": [2, 1], '"name"': [4]}

    def encode(text: str) -> list[int]:
        asked.append(text)
        return known.get(text, WRONG)

    return Vocabulary(TOKENS, encode, special_ids=[0], eos_ids=[0], n_rows=8)


def test_a_short_text_is_encoded_once() -> None:
    asked: list[str] = []
    tokens = a_vocabulary(asked)
    for _ in range(3):
        assert tokens('"name"') == [4]
        assert tokens("ba") == [2, 1]
        assert tokens("abb") == [3, 2]  # the longest that fit: the encoder spells something else
    assert asked == ['"name"', "ba", "abb"]


def test_long_texts_and_failures_are_not_kept() -> None:
    asked: list[str] = []
    tokens = a_vocabulary(asked)
    long = "ab" * 33
    assert tokens(long) == tokens(long) == [3] * 33
    for _ in range(2):
        with pytest.raises(SamplingError, match="no token for the byte 0x63"):
            tokens("c")
    assert asked == [long, long, "c", "c"]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_MAX_KEPT", 5)
    tokens, dice = a_vocabulary([]), random.Random(1)
    for _ in range(200):
        text = "".join(dice.choices("ab", k=dice.randint(1, 6)))
        assert b"".join(TOKENS[i] for i in tokens(text)) == text.encode()
        assert len(tokens._kept) <= 5
