"""A fake model whose state cannot forget tokens."""

from __future__ import annotations

from fake_model import FakeModel
from pyroclast.engine.state_slots import NO_STATE


class RecurrentModel(FakeModel):
    """Its logits are a hash of the tokens in the sequence's state, and nothing of its cache."""

    def __init__(self, *, n_slots: int = 20, **sizes: int) -> None:
        super().__init__(**sizes)
        self.n_slots = n_slots
        self.states: list[list[int]] = [[-1]] * n_slots
        self.n_read = 0

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
            for t in range(first, end):
                text = [*text, int(batch.token_ids[t])]
                texts.append(text)
                if slots_out[t] != NO_STATE:
                    self.states[slots_out[t]] = text
        self.n_read += batch.n_tokens
        for row, t in enumerate(batch.logit_rows[: batch.n_logits]):
            self.logits[row] = self.logits_of(texts[t])
        if sample:
            self.sample()

    def _state(self, slot: int) -> list[int]:
        return [] if slot == NO_STATE else self.states[slot]
