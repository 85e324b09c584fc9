"""Which tokens the next step computes: plain Python on plain ints, no arrays, no text.

A step is one ragged batch: one token of every request that decodes, and chunks of the prompts
that are still being read, side by side, at most `max_batch_tokens` tokens and `max_logits` rows of
logits.  When the KV cache runs out of blocks, the last request in order gives up all of its own
and is computed again later (preemption by recompute).

Order: each request has its place from the start, by the time at which it is due.  Requests are
admitted in that order, only the last one that runs is preempted, and it also makes room for one
that is due before it.  So `running` is always due before `waiting`, the first request can always
take what it needs, and every request becomes the first one day.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator
from itertools import chain, count
from operator import attrgetter
from typing import Generic, TypeVar

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.chunk_planner import add_chunks, rows_of
from pyroclast.engine.draft_planner import DraftPlanner
from pyroclast.engine.pace import Pace
from pyroclast.engine.prefix_cache import PrefixCache
from pyroclast.engine.request import Request
from pyroclast.engine.state_slots import forget
from pyroclast.engine.waiting import Waiting

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
        prefixes: PrefixCache | None = None,
    ) -> None:
        self.pool = pool
        self.prefixes = prefixes
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.max_logits = max_logits
        # With no more requests than tokens and rows in a step, everyone gets on in every step.
        self.max_running = min(max_seqs, max_batch_tokens, max_logits)
        self.states = None if prefixes is None else prefixes.states
        if self.states is not None:
            self.max_running = min(self.max_running, self.states.max_running)
        self.waiting: Waiting[R] = Waiting()
        self.running: list[R] = []  # sorted by order, like `waiting`
        self.parked: list[R] = []  # paused, as nobody fetches their tokens, and without blocks
        self.pace = Pace()
        self._numbers = count()
        self._decoding: list[R] = []  # the step, if it only decoded
        self.n_decoding = 0  # how many of the step decode
        self._drafts: DraftPlanner[R] = DraftPlanner(
            pool,
            block_size=block_size,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
            max_logits=max_logits,
            states=self.states,
        )
        self.n_preemptions = 0
        self.layout = 0  # changes whenever `running` changes or a step does anything but decode
        self.decodes_only = False  # the last step planned was one token of everybody running

    def __bool__(self) -> bool:
        """Whether there is something to compute."""
        return bool(self.waiting) or any(not request.is_paused for request in self.running)

    def n_blocks_for(self, n_tokens: int) -> int:
        return -(-n_tokens // self.block_size)

    def add(self, request: R, due_s: float = 0.0) -> None:
        """Queues a request behind those that are due at `due_s` or before."""
        request.order = (due_s, next(self._numbers))
        self.waiting.add(request)

    def requests(self) -> Iterator[R]:
        """Everyone."""
        return chain(self.running, self.waiting, self.parked)

    def remove(self, requests: Collection[Request], *, spoiled: bool = False) -> list[int]:
        """Forgets `requests` (finished or given up); returns the blocks that this freed.  spoiled:
        nobody shall read what they have computed."""
        gone = set(requests)
        if not gone.isdisjoint(self.running):
            self.running = [request for request in self.running if request not in gone]
        if not gone.isdisjoint(self.waiting):
            self.waiting.remove(gone)
        if self.parked:
            self.parked = [request for request in self.parked if request not in gone]
        self.decodes_only = False
        freed: list[int] = []
        if spoiled and self.prefixes is not None:
            for request in requests:
                freed += self.prefixes.drop(request)
        for request in requests:
            freed += self._give_back(request)
        return freed

    def pause(self, requests: Collection[Request]) -> None:
        """Leaves `requests` out of the next steps."""
        self.decodes_only = False
        for request in requests:
            request.is_paused = True
        for request in [request for request in self.waiting if request.is_paused]:
            self.waiting.remove([request])
            self.parked.append(request)

    def resume(self, requests: Collection[Request]) -> None:
        """Takes `requests` into the steps again."""
        self.decodes_only = False
        for request in requests:
            request.is_paused = False
        for request in [request for request in self.parked if not request.is_paused]:
            self.parked.remove(request)
            self.waiting.add(request)

    def propose(self, request: R, draft_ids: list[int]) -> None:
        """Puts up tokens that may follow those of `request`, for the next step only."""
        self._drafts.propose(request, draft_ids)
        self.decodes_only = False

    def schedule(self) -> list[R]:
        """The requests of the next step, each with `n_step_tokens` and `n_step_rows` set and with
        blocks for these tokens.  Empty only if there is nothing to do."""
        # At the end of a page, a recurrent layer's state goes to another slot.
        steady = self.decodes_only and self.states is None
        if steady and not self.waiting and self._grow_all():
            return self._decoding
        self.layout += 1
        self._drafts.take_back()
        if self.prefixes is not None:
            for request in self.running:
                if self.states is not None:
                    self.states.note_border(request)
                self.prefixes.keep(request)
        self._admit()
        self._grow_all()
        active = [r for r in self.running if not r.is_paused]
        step = [r for r in active if r.n_unread == 1]
        self.n_decoding = len(step)
        self.decodes_only = len(step) == len(active) > 0
        for request in step:
            request.n_step_tokens, request.n_step_drafts = 1, 0
            request.n_step_rows = rows_of(request, 1)
        if not self.decodes_only:
            n_rows = sum(request.n_step_rows for request in step)
            prompts = [r for r in active if r.n_unread != 1]
            n_tokens = self._n_prompt_tokens(step, prompts)
            add_chunks(step, prompts, n_tokens, self.max_logits - n_rows)
        if self._drafts.add_to(step):
            self.decodes_only = False
        if self.states is not None:
            self.states.plan(step)
        self._decoding = step
        return step

    def restart_all(self, others: Collection[R] = ()) -> None:
        """Nothing in the KV cache is trusted any more: every request is computed again.  others:
        some that were being taken off, and may not be in the queues any more."""
        running, self.running = self.running, []
        for request in chain(running, self.waiting, self.parked, others):
            self.pool.soil(request.blocks)
            request.blocks = []
            request.n_computed = 0
            forget(request)
        for request in running:
            self._set_aside(request)
        self.waiting.recount()
        self._drafts.clear()
        self.pool.reset()
        if self.states is not None:
            self.states.reset()
        self.decodes_only = False

    def put_back(self, request: R) -> None:
        """Queues a request that an interruption took out of the queues, in its old place."""
        self._set_aside(request)

    def _n_prompt_tokens(self, decoding: list[R], prompts: list[R]) -> int:
        """How many tokens of `prompts` may join `decoding`."""
        n_tokens = self.max_batch_tokens - len(decoding)
        if any(request.is_live for request in decoding):
            n_unread = sum(request.n_unread for request in prompts)
            n_tokens = min(
                n_tokens, self.pace.n_tokens_beside(len(decoding), n_unread, len(prompts))
            )
        return n_tokens

    def _admit(self) -> None:
        """Moves waiting requests to `running`, with blocks for all tokens that they have now."""
        i = 0  # how many are passed over: no more than have a place, so that a step stays short
        while i < min(len(self.waiting), self.max_running):
            request = self.waiting[i]
            shared = self.prefixes.find(request) if self.prefixes is not None else []
            if shared is None:  # the others need not wait for what it waits for
                i += 1
                continue
            n_new = self.n_blocks_for(len(request.token_ids)) - len(shared)
            self.pool.share(shared)  # first: what is shared cannot be evicted
            if not self._make_room(request, n_new):
                self.pool.give_back(shared)
                return
            self.waiting.pop(i)
            request.blocks = shared + self.pool.take(n_new)
            request.n_computed = len(shared) * self.block_size
            if self.prefixes is not None:  # may load more of it
                if self.states is not None:
                    self.states.begin(request, self.prefixes.state_at(request, len(shared)))
                self.prefixes.admit(request, len(shared))
            if not request.was_admitted:
                request.was_admitted, request.n_cached = True, request.n_computed
            insort(self.running, request, key=attrgetter("order"))

    def _make_room(self, request: R, n_blocks: int) -> bool:
        """A place among those that run, and `n_blocks` free blocks: of those that are paused, and
        of those that are due after `request`."""
        while True:
            # With neighbours, one block stays free: they would take it from the newcomer at once.
            n_spare = 1 if self.running else 0
            has_place = len(self.running) < self.max_running
            if has_place and self.pool.has_room(n_blocks + n_spare):
                return True
            if not self._park_one() and not self._preempt_after(request):
                return False

    def _preempt_after(self, request: R) -> bool:
        """Preempts the last one that runs, if it is due after `request`."""
        if not self.running or self.running[-1].order < request.order:
            return False
        self._preempt_last()
        return True

    def _grow_all(self) -> bool:
        """A block for every request whose next token opens one; True if nobody was preempted."""
        steady = True
        for request in tuple(self.running):
            # Mostly no block, sometimes one; more where a grammar has forced many tokens.  None for
            # those that have just lost theirs.
            while request.blocks and len(request.token_ids) > len(request.blocks) * self.block_size:
                if request.is_paused:
                    break
                if self.pool.has_room(1):
                    request.blocks += self.pool.take(1)
                    continue
                steady = False
                if not self._park_one():
                    self._preempt_last()
        return steady

    def can_lend(self, n_blocks: int) -> bool:
        """Whether so many blocks are left by the requests that run; paused ones give up theirs."""
        while not self.pool.has_room(n_blocks + (1 if self.running else 0)):
            if not self._park_one():
                return False
        return True

    def _preempt_last(self) -> None:
        self._set_aside(self.running.pop())
        self.n_preemptions += 1
        self.decodes_only = False

    def _park_one(self) -> bool:
        """Takes the blocks of one request that is paused, the last in order, if there is one."""
        for i in range(len(self.running) - 1, -1, -1):
            if self.running[i].is_paused:
                self._set_aside(self.running.pop(i))
                return True
        return False

    def _set_aside(self, request: R) -> None:
        """It will be computed again, from the start."""
        self._give_back(request)
        request.n_computed = 0
        (self.parked.append if request.is_paused else self.waiting.add)(request)

    def _give_back(self, request: Request) -> list[int]:
        if self.prefixes is not None and request.blocks:
            if self.states is not None:
                self.states.note_border(request)
            self.prefixes.leave(request)
        blocks, request.blocks = request.blocks, []
        if self.states is not None:
            self.states.release(request)
        freed = self.pool.give_back(blocks)
        if self.prefixes is not None:
            self.prefixes.trim()
        return freed
