"""A second, smaller model that proposes how texts go on.

It has a cache of its own, in which every text that it follows is computed as far as drafts have
needed it.  Where a draft was wrong, the text goes on from the last position that was right.  What
it proposes is verified like any other draft, so nothing here can change a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyroclast.engine.batch_writer import BatchWriter
from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.follower import Follower, sample_row
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.step_model import StepModel
from pyroclast.engine.step_parts import sample_arrays

# A text that is not read after so many steps is read on beside the next one: others wait.
_READING_STEPS = 4

# The seconds of a step, how many tokens it computed, and for how many texts.
OnStep = Callable[[float, int, int], None]


class DraftModel:
    """model: without recurrent layers, on the CPU; close() closes it.  vocab_size: of the logits of
    the model that verifies."""

    source, what = "draft", "the draft model"

    def __init__(self, model: StepModel, vocab_size: int) -> None:
        assert not model.n_slots, "a state cannot go back to before a draft"
        self.model = model
        self.max_seq_len = model.max_seq_len
        # A text that has a token beyond these gets no drafts, and no draft is one.
        self._n_known = min(vocab_size, model.logits.shape[1])
        self._arrays = sample_arrays(model)
        self._positions = self._arrays.rows["position"].data
        self._sampled = self._arrays.out["token_id"].data
        self._max_step = min(model.max_seqs, model.max_logits)
        self.reset()

    def reset(self) -> None:
        """Forgets every text."""
        model = self.model
        self.pool = BlockPool(model.n_blocks)
        self._writer = BatchWriter(model.batch, model.block_size, has_states=False)
        self._followers: dict[GenerateRequest, Follower] = {}

    def __len__(self) -> int:
        """How many texts it follows."""
        return len(self._followers)

    def follow(self, request: GenerateRequest, chance: float) -> Follower:
        """Begins with a text, without computing any of it.  chance: see Follower."""
        row = sample_row(request.params, request.seed, request.index)
        follower = request.follower = self._followers[request] = Follower(chance, row)
        return follower

    def release(self, request: GenerateRequest) -> list[int]:
        """Forgets a text; returns the blocks that this freed."""
        follower = self._followers.pop(request, None)
        request.follower = None
        return [] if follower is None else self.pool.give_back(follower.blocks)

    def n_behind(self, request: GenerateRequest) -> int:
        """Tokens that it has not read, but for the last one."""
        follower = request.follower
        return len(request.token_ids) - (0 if follower is None else follower.n_computed) - 1

    def propose(
        self, wanted: Sequence[tuple[GenerateRequest, int]], run: Callable[[int, int], None]
    ) -> list[list[int]]:
        """Up to so many drafts for each request, which follows its text as it is now; fewer, or
        none, where the context or the blocks do not suffice.  run(n_tokens, n_seqs) runs the step
        that the model's batch holds."""
        active: list[Follower] = []
        keeps = {request for request, _ in wanted}
        for request, n_wanted in wanted:
            follower = request.follower
            assert follower is not None, "follow() comes first"
            n_drafts = min(n_wanted, self.max_seq_len - follower.n_text + 1)
            if n_drafts > 0 and self._can_read(follower) and self._grow(follower, n_drafts, keeps):
                follower.n_wanted = n_drafts
                active.append(follower)
        n_steps = 0
        while active:
            self._step(active, run)
            n_steps += 1
            active = [
                each
                for each in active
                if each.n_drafts < each.n_wanted and (n_steps < _READING_STEPS or each.n_drafts)
            ]
        return [self._drafts_of(request) for request, _ in wanted]

    def close(self) -> None:
        """Frees the model and the texts."""
        self._followers.clear()
        self._arrays.close()
        self.model.close()

    # ---- inside ----------------------------------------------------------------------------

    def _drafts_of(self, request: GenerateRequest) -> list[int]:
        """What was drafted.  A follower whose logits were no numbers gives back its blocks, which
        may hold a NaN, and is asked no more but for trials."""
        follower = request.follower
        assert follower is not None, "it was there before the steps"
        if follower.n_wanted >= 0:
            return follower.draft_tokens
        follower.chance, follower.n_computed = 0.0, 0
        blocks, follower.blocks = follower.blocks, []
        if freed := self.pool.give_back(blocks):
            self.model.zero_blocks(freed)
        return follower.draft_tokens

    def _can_read(self, follower: Follower) -> bool:
        return all(
            token_id < self._n_known for token_id in follower.token_ids[follower.n_computed :]
        )

    def _grow(self, follower: Follower, n_drafts: int, keeps: set[GenerateRequest]) -> bool:
        """Blocks for a text and all drafts but the last, which is not computed.  Takes those of
        texts that are not among `keeps`."""
        n_blocks = -(-(follower.n_text + n_drafts - 1) // self.model.block_size)
        n_more = n_blocks - len(follower.blocks)
        if n_more <= 0:
            return True
        others = (request for request in list(self._followers) if request not in keeps)
        while not self.pool.has_room(n_more):
            if (other := next(others, None)) is None:
                return False
            self.release(other)
        follower.blocks += self.pool.take(n_more)
        return True

    def _step(self, active: list[Follower], run: Callable[[int, int], None]) -> None:
        """Computes what is unread of each, as far as one step can, and draws a draft for those that
        are then whole."""
        n_left, step = self.model.max_batch_tokens, list[Follower]()
        for follower in active[: self._max_step]:
            n_tokens = min(follower.n_unread, n_left)
            if not n_tokens:
                break
            follower.n_step_tokens = n_tokens
            follower.n_step_rows = int(n_tokens == follower.n_unread)
            n_left -= n_tokens
            step.append(follower)
        self._writer.write(step)
        row = 0
        for follower in step:
            if follower.n_step_rows:
                self._arrays.rows[row] = follower.row
                self._positions[row] = len(follower.token_ids)
                row += 1
        self._arrays.n_rows[0] = row
        run(self.model.max_batch_tokens - n_left, len(step))
        row = 0
        for follower in step:
            follower.n_computed += follower.n_step_tokens
            if follower.n_step_rows:
                self._take(follower, self._sampled[row])
                row += 1

    def _take(self, follower: Follower, token_id: int) -> None:
        if token_id < 0:
            follower.n_wanted = -1
        elif token_id >= self._n_known:
            follower.n_wanted = 0
        else:
            follower.token_ids.append(token_id)
