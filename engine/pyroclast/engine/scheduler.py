"""Which tokens the next step computes: plain Python on plain ints, no arrays, no text.

A step is one ragged batch: one token of every request that decodes, and chunks of the prompts
that are still being read, side by side, at most `max_batch_tokens` tokens and `max_logits` rows of
logits.  When the KV cache runs out of blocks, the youngest request gives up all of its own and
is computed again later (preemption by recompute).

Order: requests are admitted strictly in the order in which they came, and only the youngest is
preempted, so `running` is always older than `waiting` and both are sorted by age.  The oldest
request can therefore always take what it needs, and every request becomes the oldest one day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Generic, TypeVar

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.draft_planner import DraftPlanner
from pyroclast.engine.request import Request

R = TypeVar("R", bound=Request)


class Scheduler(Generic[R]):
    """The queues, and the blocks behind them.  `schedule` plans a step; the caller runs it, calls
    `advance` on each of its requests, and appends tokens to those that were computed whole."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        block_size: int,
        max_batch_tokens: int,
        max_seqs: int,
        max_logits: int,
    ) -> None:
        self.pool = pool
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.max_logits = max_logits
        # With no more requests than tokens and rows in a step, everyone gets on in every step.
        self.max_running = min(max_seqs, max_batch_tokens, max_logits)
        self.waiting: deque[R] = deque()
        self.running: list[R] = []
        self._drafts: DraftPlanner[R] = DraftPlanner(
            pool,
            block_size=block_size,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
            max_logits=max_logits,
        )
        self.n_preemptions = 0
        self.layout = 0  # changes whenever `running` changes or a step does anything but decode
        self.decodes_only = False  # the last step planned was one token of everybody running

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)

    def n_blocks_for(self, n_tokens: int) -> int:
        return -(-n_tokens // self.block_size)

    def add(self, request: R) -> None:
        self.waiting.append(request)

    def requests(self) -> Iterator[R]:
        """Everyone, the oldest first."""
        return chain(self.running, self.waiting)

    def remove(self, requests: Collection[Request]) -> list[int]:
        """Forgets `requests` (finished or given up); returns the blocks that this freed."""
        gone = set(requests)
        if not gone.isdisjoint(self.running):
            self.running = [request for request in self.running if request not in gone]
        if not gone.isdisjoint(self.waiting):
            self.waiting = deque(request for request in self.waiting if request not in gone)
        self.decodes_only = False
        return [block for request in requests for block in self._give_back(request)]

    def propose(self, request: R, draft_ids: list[int]) -> None:
        """Puts up tokens that may follow those of `request`, for the next step only."""
        self._drafts.propose(request, draft_ids)
        self.decodes_only = False

    def schedule(self) -> list[R]:
        """The requests of the next step, each with `n_step_tokens` and `n_step_rows` set and with
        blocks for these tokens.  Empty only if there is nothing to do."""
        if self.decodes_only and not self.waiting:
            steady = self._grow_all()
            if steady:
                return self.running
        self.layout += 1
        self._drafts.take_back()
        self._admit()
        self._grow_all()
        step = [r for r in self.running if len(r.token_ids) - r.n_computed == 1]
        self.decodes_only = len(step) == len(self.running) > 0
        for request in step:
            request.n_step_tokens, request.n_step_drafts = 1, 0
            request.n_step_rows = self._rows_of(request, 1)
        n_rows = sum(request.n_step_rows for request in step)
        if not self.decodes_only:
            self._add_chunks(step, self.max_batch_tokens - len(step), self.max_logits - n_rows)
        if self._drafts.add_to(step):
            self.decodes_only = False
        return self.running if self.decodes_only else step

    def restart_all(self) -> None:
        """Nothing in the KV cache is trusted any more: every request is computed again."""
        for request in reversed(self.running):
            self.waiting.appendleft(request)
        for request in self.waiting:
            request.blocks = []
            request.n_computed = 0
        self.running.clear()
        self._drafts.clear()
        self.pool.reset()
        self.decodes_only = False

    def _admit(self) -> None:
        """Moves waiting requests to `running`, with blocks for all tokens that they have now."""
        while self.waiting and len(self.running) < self.max_running:
            request = self.waiting[0]
            shared = self._shared_blocks(request)
            if shared is None:
                return
            n_new = self.n_blocks_for(len(request.token_ids)) - len(shared)
            # With neighbours, one block stays free: they would take it from the newcomer at once.
            n_spare = 1 if self.running else 0
            self.pool.share(shared)  # first: what is shared cannot be evicted
            if not self.pool.has_room(n_new + n_spare):
                self.pool.give_back(shared)
                return
            self.waiting.popleft()
            request.blocks = shared + self.pool.take(n_new)
            request.n_computed = len(shared) * self.block_size
            request.n_cached = max(request.n_cached, request.n_computed)
            request.sibling = None
            self.running.append(request)

    def _shared_blocks(self, request: Request) -> list[int] | None:
        """The full prompt blocks of the sibling; none if it is gone, None if not yet computed.

        The last prompt token is always computed again: its logits are needed."""
        sibling = request.sibling
        if sibling is None or not sibling.blocks:
            return []
        n_blocks = (request.n_prompt - 1) // self.block_size
        if sibling.n_computed < n_blocks * self.block_size:
            return None
        return sibling.blocks[:n_blocks]

    def _grow_all(self) -> bool:
        """A block for every request whose next token opens one; True if nobody was preempted."""
        steady = True
        block_size, i = self.block_size, 0
        while i < len(self.running):
            request = self.running[i]
            i += 1
            # Mostly none, sometimes one; more where a grammar has forced many tokens.
            while len(request.token_ids) > len(request.blocks) * block_size:
                while request.blocks and not self.pool.has_room(1):
                    steady = False
                    self._preempt_youngest()
                if not request.blocks:  # it was the youngest itself
                    break
                request.blocks += self.pool.take(1)
        return steady

    def _preempt_youngest(self) -> None:
        request = self.running.pop()
        self._give_back(request)
        request.n_computed = 0
        self.waiting.appendleft(request)
        self.n_preemptions += 1
        self.decodes_only = False

    def _give_back(self, request: Request) -> list[int]:
        blocks, request.blocks = request.blocks, []
        return self.pool.give_back(blocks)

    def _add_chunks(self, step: list[R], n_tokens_left: int, n_rows_left: int) -> None:
        """Fills the rest of the step with chunks of unread prompts, the oldest first."""
        for request in self.running:
            n_unread = len(request.token_ids) - request.n_computed
            if n_unread == 1:
                continue
            n_tokens = min(n_unread, n_tokens_left)
            n_rows = self._rows_of(request, n_tokens)
            if n_rows > n_rows_left:
                # Fewer tokens, so that no more rows come due than the step has left.
                n_tokens -= n_rows - n_rows_left
                n_rows = n_rows_left
            if n_tokens == 0:
                return
            request.n_step_tokens, request.n_step_drafts = n_tokens, 0
            request.n_step_rows = n_rows
            step.append(request)
            n_tokens_left -= n_tokens
            n_rows_left -= n_rows

    def _rows_of(self, request: Request, n_tokens: int) -> int:
        """The rows of logits that computing the next `n_tokens` of `request` brings due."""
        end = request.n_computed + n_tokens
        n_rows = 1 if end == len(request.token_ids) else 0
        if request.wants_prompt_rows and end <= request.n_prompt:
            n_rows = max(n_rows, end - max(request.n_computed, request.n_rows_done))
        return n_rows
