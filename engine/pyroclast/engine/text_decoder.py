"""What turns a request's tokens into text, one token at a time."""

from __future__ import annotations

from typing import Protocol


class TextDecoder(Protocol):
    """What a tokenizer's `decoder()` gives.  `step` returns the text that a token completes;
    `flush` returns the rest at the end."""

    def step(self, token_id: int, /) -> str: ...
    def flush(self) -> str: ...


class PaddedTextDecoder:
    """A decoder for a model with more rows of logits than the tokenizer has tokens."""

    def __init__(self, decoder: TextDecoder, n_tokens: int) -> None:
        self._decoder, self._n_tokens = decoder, n_tokens
        self.flush = decoder.flush

    def step(self, token_id: int, /) -> str:
        """A token that the tokenizer does not know has no text."""
        return self._decoder.step(token_id) if token_id < self._n_tokens else ""
