"""Drafts of the model's own head that predicts further tokens.

The model's steps have left the head what it needs of a text: the keys and values of every token
that is computed, and what its state gives, in the text's slot.  So there is nothing to read; the
head runs once for each draft.  Its own keys and values go to the text's blocks, where the model's
next step writes them again, and to blocks that are lent meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pyroclast.engine.batch_writer import BatchWriter
from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.follower import Follower, Judged, sample_row
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.state_slots import NO_STATE
from pyroclast.engine.step_parts import sample_arrays

if TYPE_CHECKING:
    from pyroclast.model.draft_head import DraftHead


class HeadFollower(Follower):
    """A text that is read up to its last token, always."""

    __slots__ = ()

    def follow(self, text: list[int]) -> Judged:
        """See Follower."""
        judged = super().follow(text)
        self.n_computed = len(text) - 1
        return judged


class HeadDrafts:
    """See `draft_speculator.DraftSource`.  pool: of the model's cache blocks, `block_size`
    positions each."""

    source, what = "mtp", "the head that predicts further tokens"

    def __init__(self, head: DraftHead, pool: BlockPool, block_size: int) -> None:
        self.model, self._pool, self._block_size = head, pool, block_size
        self._arrays = sample_arrays(head)
        self._positions = self._arrays.rows["position"].data
        self._sampled = self._arrays.out["token_id"].data
        self.reset()

    def reset(self) -> None:
        """Forgets every text."""
        self._writer = BatchWriter(self.model.batch, self._block_size, has_states=True)

    def follow(self, request: GenerateRequest, chance: float) -> Follower:
        """Begins with a text.  chance: see Follower."""
        row = sample_row(request.params, request.seed, request.index)
        follower = request.follower = HeadFollower(chance, row)
        return follower

    def release(self, request: GenerateRequest) -> None:
        """Forgets a text."""
        request.follower = None

    def n_behind(self, request: GenerateRequest) -> int:
        """The model's steps have read it."""
        del request
        return 0

    def propose(
        self, wanted: Sequence[tuple[GenerateRequest, int]], run: Callable[[int, int], None]
    ) -> list[list[int]]:
        """Up to so many drafts for each request, which follows its text as it is now; fewer, or
        none, where the context or the blocks do not suffice, and where a grammar forced tokens that
        the model has not computed.  run(n_tokens, n_seqs) runs the step that the head's batch
        holds."""
        active, lent = list[Follower](), list[int]()
        try:
            for request, n_wanted in wanted:
                follower = request.follower
                assert follower is not None, "follow() comes first"
                if request.n_unread == 1 and request.state != NO_STATE:
                    lent += self._begin(request, follower, n_wanted)
                    if follower.n_wanted > 0:
                        active.append(follower)
            while active:
                self._step(active, run)
                active = [each for each in active if each.n_drafts < each.n_wanted]
            failed = [r.follower for r, _ in wanted if r.follower and r.follower.n_wanted < 0]
            for follower in failed:
                self._clear(follower)
        finally:  # the text goes on where a step of the head fails
            self._pool.give_back(lent)
        return [request.follower.draft_tokens for request, _ in wanted if request.follower]

    def close(self) -> None:
        """Lets go of the model."""
        self._arrays.close()
        self.model.close()

    # ---- inside ----------------------------------------------------------------------------

    def _begin(self, request: GenerateRequest, follower: Follower, n_wanted: int) -> list[int]:
        """The text's state and its blocks, with those for all drafts but the last, which is not
        computed.  Returns what the pool has lent."""
        n_text, size = follower.n_text, self._block_size
        n_places = (len(request.blocks) + self._pool.n_available) * size
        n_drafts = min(n_wanted, self.model.max_seq_len - n_text + 1, n_places - n_text + 1)
        follower.n_wanted = max(0, n_drafts)
        if n_drafts <= 0:
            return []
        n_more = -(-(n_text + n_drafts - 1) // size) - len(request.blocks)
        lent = self._pool.take(max(0, n_more))
        follower.blocks = request.blocks + lent  # a new list: see BatchWriter
        follower.state = request.state
        return lent

    def _step(self, active: list[Follower], run: Callable[[int, int], None]) -> None:
        """Computes the last token of each, and draws a draft."""
        for follower in active:
            follower.n_computed = len(follower.token_ids) - 1
            follower.n_step_tokens = follower.n_step_rows = 1
        self._writer.write(active)
        for row, follower in enumerate(active):
            self._arrays.rows[row] = follower.row
            self._positions[row] = len(follower.token_ids)
        self._arrays.n_rows[0] = len(active)
        run(len(active), len(active))
        for row, follower in enumerate(active):
            follower.state = self.model.n_slots + row
            if self._sampled[row] < 0:
                follower.n_wanted = -1
            else:
                follower.token_ids.append(self._sampled[row])

    def _clear(self, follower: Follower) -> None:
        """Its logits were no numbers: its blocks may hold a NaN of the head, which would outlive
        it.  The head's part of the last block is zero from then on, which later drafts read and no
        text does.  It is asked no more but for trials."""
        follower.chance = 0.0
        first = (follower.n_text - 1) // self._block_size
        self.model.zero_blocks(follower.blocks[first:])
