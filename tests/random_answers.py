"""Engines whose model writes at random: every answer that a grammar allows may come.

The logits depend on the tokens before, and so on the prompt, which stands for a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from demo import demo_path
from fake_model import EOS, VOCAB_SIZE, ByteTokenizer, FakeModel, hashed
from pyroclast.llm import LLM, assemble
from pyroclast.text.tokenizer import Tokenizer

# What ends a string, an object, a list or the text comes more often, so that most answers end.
_OFTEN = {b'"': 6.0, b"}": 6.0, b"]": 6.0, b"": 8.0}
_SELDOM = (b" ", b"\n", b"\t", b"\r")


class SpecialByteTokenizer(ByteTokenizer):
    """With what grammars ask of a tokenizer."""

    special_token_ids = frozenset(range(EOS, VOCAB_SIZE))

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < EOS else b""

    def encode(
        self, text: str, add_special_tokens: bool = True, parse_special: bool = True
    ) -> list[int]:
        return super().encode(text, add_special_tokens)


def _wishes(tokens: Iterable[bytes]) -> np.ndarray:
    """What is added to each token's random logit."""
    return np.array(
        [-6.0 if data in _SELDOM else _OFTEN.get(data[:1], 0.0) for data in tokens], np.float32
    )


def byte_llm(**options: Any) -> LLM:
    """An engine whose tokens are bytes."""
    tokenizer = SpecialByteTokenizer()
    wishes = _wishes(map(tokenizer.token_bytes, range(VOCAB_SIZE)))
    given = {"n_blocks": 1024, "max_seq_len": 512, "max_batch_tokens": 64, **options}
    return assemble(FakeModel(lambda history: hashed(history) + wishes, **given), tokenizer, "fake")


def demo_llm() -> LLM:
    """The demo model's tokenizer before random logits."""
    tokenizer = Tokenizer.from_gguf(demo_path())
    n = tokenizer.vocab_size
    special = tokenizer.special_token_ids
    wishes = _wishes(b"" if i in special else tokenizer.token_bytes(i) for i in range(n))

    def logits(history: Sequence[int]) -> np.ndarray:
        chance = np.random.default_rng(list(history))
        return chance.random(n, np.float32) * 8 + wishes

    return _behind(tokenizer, logits)


def scripted_llm(tokenizer: Tokenizer, n_prompt: int, text: str) -> LLM:
    """The demo model's tokenizer before a model that writes `text`, where it may, after a prompt of
    n_prompt tokens."""
    script = tokenizer.encode(text, add_special_tokens=False)

    def logits(history: Sequence[int]) -> np.ndarray:
        found = np.random.default_rng(list(history)).random(tokenizer.vocab_size, np.float32)
        i = len(history) - n_prompt
        found[script[i] if i < len(script) else min(tokenizer.eos_token_ids)] = 50
        return found

    return _behind(tokenizer, logits)


def _behind(tokenizer: Tokenizer, logits: Callable[[Sequence[int]], np.ndarray]) -> LLM:
    model = FakeModel(logits, n_blocks=1024, max_seq_len=512, max_batch_tokens=64)
    model.logits = np.zeros((model.max_logits, tokenizer.vocab_size), np.float32)
    return assemble(model, tokenizer, "fake")
