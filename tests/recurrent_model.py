"""A fake model whose state cannot forget tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fake_model import ByteTokenizer, FakeModel
from pyroclast import LLM
from pyroclast.engine.state_slots import NO_STATE
from pyroclast.llm import assemble


class RecurrentModel(FakeModel):
    """Its logits are a hash of the tokens in the sequence's state.  Its cache must have the same.
    states: for each slot the number of tokens, and they."""

    def __init__(self, *, n_slots: int = 20, max_seq_len: int = 128, **sizes: int) -> None:
        super().__init__(max_seq_len=max_seq_len, **sizes)
        self.n_slots = n_slots
        self.states: NDArray[np.int64] = np.full((n_slots, 1 + max_seq_len), -1)
        self.n_read = 0

    def slot_arrays(self, slot: int) -> list[NDArray[Any]]:
        return [self.states[slot, :1], self.states[slot, 1:]]

    def forward(self, sample: bool = False) -> None:
        self.before_step()
        batch, texts = self.batch, []
        n_seqs = batch.n_seqs
        slots_out = batch.slots_out[: batch.n_tokens]
        written = slots_out[slots_out != NO_STATE].tolist()
        assert len(set(written)) == len(written), "two tokens write one slot"
        begun = [self._state(int(slot)) for slot in batch.slots_in[:n_seqs]]
        for i in range(n_seqs):
            first, end = batch.seq_starts[i : i + 2]
            others = {*written} - {*slots_out[first:end].tolist()}
            assert batch.slots_in[i] not in others, "another sequence writes where this one reads"
            assert len(begun[i]) == batch.positions[first], "the state of another position"
            assert slots_out[end - 1] != NO_STATE
            text = begun[i]
            assert self._cached(i, len(text)) == text, "the pages of another text"
            for t in range(first, end):
                text = [*text, int(batch.token_ids[t])]
                texts.append(text)
                self._cache(i, int(batch.positions[t]), text[-1])
                if slots_out[t] != NO_STATE:
                    self.states[slots_out[t], : 1 + len(text)] = [len(text), *text]
        self.n_read += batch.n_tokens
        for row, t in enumerate(batch.logit_rows[: batch.n_logits]):
            self.logits[row] = self.logits_of(texts[t])
        if sample:
            self.sample()

    def _state(self, slot: int) -> list[int]:
        if slot == NO_STATE:
            return []
        n_tokens, *text = self.states[slot].tolist()
        assert 0 <= n_tokens <= len(text), "half a state"
        return text[:n_tokens]

    def _cached(self, i: int, n_tokens: int) -> list[int]:
        """The first tokens of a sequence, as its blocks have them."""
        blocks = self.batch.block_tables[i, : -(-n_tokens // self.block_size)]
        found: list[int] = self.cache[blocks].ravel()[:n_tokens].tolist()
        return found

    def _cache(self, i: int, position: int, token_id: int) -> None:
        block = self.batch.block_tables[i, position // self.block_size]
        self.cache[block, position % self.block_size] = token_id


def recurrent_llm(speculation: str = "off", **options: Any) -> LLM:
    """An LLM of it; options: of the model, and of its prefix cache."""
    names = ("prefix_cache", "cache_dir", "cache_dir_bytes")
    cache = {name: options.pop(name) for name in names if name in options}
    return assemble(RecurrentModel(**options), ByteTokenizer(), "fake", speculation, **cache)
