"""A model's vocabulary as llguidance asks for it: the bytes of its tokens, and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyroclast.errors import SamplingError

_MAX_KEPT, _MAX_KEPT_CHARS = 4096, 64


class Vocabulary:
    """What llguidance's TokenizerWrapper asks of a tokenizer; the parameters are those of
    `GrammarCompiler`."""

    bos_token_id = None

    def __init__(
        self,
        tokens: Sequence[bytes],
        encode: Callable[[str], list[int]],
        special_ids: Sequence[int],
        eos_ids: Sequence[int],
        n_rows: int,
    ) -> None:
        self.eos_ids = list(eos_ids)
        self.eos_token_id = self.eos_ids[0]
        self.tokens = [*tokens, *[b""] * (n_rows - len(tokens))]
        self.special_token_ids = list(special_ids)
        self._encode = encode
        special = set(special_ids)
        self.control = {self.tokens[i].decode(errors="replace"): i for i in special_ids}
        self._ids = {b: i for i, b in enumerate(self.tokens) if b and i not in special}
        self._longest = max(map(len, self._ids), default=1)
        self._kept: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """The model's own tokens of text; where they spell something else, the longest that fit.

        llguidance asks inside each mask before a text that must follow, such as a field's name.
        The names come again with every object of a list, and encoding one takes several times as
        long as the rest of the mask: so the tokens of short texts are kept."""
        found = self._kept.get(text)
        if found is None:
            found = self._tokens_of(text)
            if len(text) <= _MAX_KEPT_CHARS:
                if len(self._kept) >= _MAX_KEPT:
                    self._kept.clear()  # threads may read it meanwhile: they encode again
                self._kept[text] = found
        return found

    def _tokens_of(self, text: str) -> list[int]:
        data = text.encode()
        ids = self._encode(text)
        if b"".join(self.tokens[i] for i in ids) == data:
            return ids
        return self._greedy(data)

    def _greedy(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            for end in range(min(len(data), at + self._longest), at, -1):
                if (token_id := self._ids.get(data[at:end])) is not None:
                    ids.append(token_id)
                    break
            else:
                raise SamplingError(f"this vocabulary has no token for the byte 0x{data[at]:02x}")
            at = end
        return ids
