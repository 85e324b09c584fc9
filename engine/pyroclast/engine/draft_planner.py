"""Drafts: tokens that may follow a request's last one, to be verified in one step.

A step computes the drafts of a request behind its last token, each with its row of logits.  The
token sampled from a row is what decoding one by one would give, as long as the drafts before it
were right.  So several tokens may come of one step, and the text does not depend on the drafts.

Drafts take only the tokens, rows of logits, sampler tables and blocks that are left over: they
delay no prompt and preempt nobody.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.request import Request
from pyroclast.engine.state_slots import StateSlots

R = TypeVar("R", bound=Request)


class DraftPlanner(Generic[R]):
    """Holds the proposals for the next step, and adds them to a step that is planned otherwise."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        block_size: int,
        max_batch_tokens: int,
        max_seqs: int,
        max_logits: int,
        states: StateSlots | None = None,
    ) -> None:
        self._pool = pool
        self._block_size = block_size
        self._max_batch_tokens, self._max_logits = max_batch_tokens, max_logits
        self._max_seqs = max_seqs
        self._states = states
        self._proposed: dict[R, list[int]] = {}
        self._planned: list[R] = []  # the requests that had drafts in the last step

    def propose(self, request: R, draft_ids: list[int]) -> None:
        self._proposed[request] = draft_ids

    def clear(self) -> None:
        """Nothing is proposed, and no request owns blocks for drafts."""
        self._proposed.clear()
        self._planned.clear()

    def add_to(self, step: list[R]) -> bool:
        """Adds as many drafts to `step` as it has room for; the others are dropped.  Whether there
        was any."""
        if not self._proposed:
            return False
        n_tokens_left = self._max_batch_tokens - sum(r.n_step_tokens for r in step)
        n_rows_left = self._max_logits - sum(r.n_step_rows for r in step)
        n_tables_left = self._max_seqs - len(step)
        n_slots_left = self._max_batch_tokens
        if self._states is not None:
            n_slots_left = self._states.n_spare(len(step))
        for request in step:
            draft_ids = self._proposed.get(request, [])
            if not _decodes(request):
                continue
            n_places = (len(request.blocks) + self._pool.n_available) * self._block_size
            n_drafts = min(
                len(draft_ids),
                n_tokens_left,
                n_rows_left,
                n_slots_left,
                n_places - len(request.token_ids),
            )
            if request.tables_vary:
                n_drafts = min(n_drafts, n_tables_left)
                n_tables_left -= n_drafts
            if n_drafts:
                self._add(request, draft_ids[:n_drafts])
            n_tokens_left -= n_drafts
            n_rows_left -= n_drafts
            n_slots_left -= n_drafts
        self._proposed.clear()
        return bool(self._planned)

    def _add(self, request: R, draft_ids: list[int]) -> None:
        request.draft_ids = draft_ids
        request.n_step_drafts = len(draft_ids)
        request.n_step_tokens += len(draft_ids)
        request.n_step_rows += len(draft_ids)
        n_blocks = self._n_blocks_for(len(request.token_ids) + len(draft_ids))
        request.blocks += self._pool.take(n_blocks - len(request.blocks))
        self._planned.append(request)

    def take_back(self) -> None:
        """Frees the blocks that drafts of the last step opened and no token needs."""
        for request in self._planned:
            n_blocks = self._n_blocks_for(len(request.token_ids))
            spare = request.blocks[n_blocks:]
            if spare:
                request.blocks = request.blocks[:n_blocks]  # a new list: see BatchWriter
                self._pool.give_back(spare)
        self._planned.clear()

    def _n_blocks_for(self, n_tokens: int) -> int:
        return -(-n_tokens // self._block_size)


def _decodes(request: Request) -> bool:
    """Whether the step computes the last token of a request whose prompt was read before."""
    n_computed = request.n_computed
    is_whole = n_computed + request.n_step_tokens == len(request.token_ids)
    return n_computed >= request.n_prompt and is_whole
