"""The answers that a model has given lately: what began like one of them may go on like it.

A bounded store.  Every `GRAM` tokens in a row of an answer lead to the place behind them, in the
answer that had them last.  The answer that was used or added least recently goes first.
"""

from __future__ import annotations

from collections import OrderedDict

# So many tokens must agree: fewer are found in the request's own text, which is likelier to go on.
GRAM = 4
# What a token takes at most: its int, its place in the list, its gram with the entry in the
# dictionary.
_TOKEN_BYTES = 288


class PastOutputs:
    """max_bytes: an estimate of the memory that it may take.

    Answers with different roots (see `prefix_cache`) never meet: how fast an answer comes would
    reveal the others."""

    def __init__(self, max_bytes: int) -> None:
        self._max_tokens = max_bytes // _TOKEN_BYTES
        self.n_tokens = 0  # of all answers
        # Least recently used first.  A text is known by its number.
        self._texts: OrderedDict[int, tuple[bytes, list[int]]] = OrderedDict()
        self._n_added = 0
        # By root and gram: the text, and how many of its tokens end with the gram.
        self._places: dict[bytes, dict[tuple[int, ...], tuple[int, int]]] = {}

    @property
    def n_bytes(self) -> int:
        """An estimate of the memory that it takes."""
        return self.n_tokens * _TOKEN_BYTES

    def add(self, root: bytes, token_ids: list[int]) -> None:
        """Takes an answer in; of a long one the end."""
        token_ids = token_ids[-self._max_tokens :] if self._max_tokens else []
        if len(token_ids) <= GRAM:  # no token follows a gram
            return
        number = self._n_added = self._n_added + 1
        self._texts[number] = (root, token_ids)
        self.n_tokens += len(token_ids)
        places = self._places.setdefault(root, {})
        for end in range(GRAM, len(token_ids)):
            places[tuple(token_ids[end - GRAM : end])] = (number, end)
        while self.n_tokens > self._max_tokens:
            self._remove(next(iter(self._texts)))

    def find(self, root: bytes, gram: tuple[int, ...]) -> tuple[list[int], int] | None:
        """The answer that had these `GRAM` tokens last, and where it goes on behind them."""
        places = self._places.get(root)
        if places is None:
            return None
        found = places.get(gram)
        if found is None:
            return None
        number, end = found
        self._texts.move_to_end(number)
        return self._texts[number][1], end

    def _remove(self, number: int) -> None:
        root, token_ids = self._texts[number]
        places = self._places[root]
        for end in range(GRAM, len(token_ids)):
            gram = tuple(token_ids[end - GRAM : end])
            if places.get(gram, (0, 0))[0] == number:
                del places[gram]
        if not places:
            del self._places[root]
        del self._texts[number]
        self.n_tokens -= len(token_ids)
