"""Who owns which slot of the state cache, and which slots a step reads and writes: plain ints.

A recurrent layer keeps one state for each text, and a token changes it.  So a request cannot go
back by forgetting tokens.  A step therefore reads its state in one slot and writes it into another,
after each token that somebody may want to go on from:

    the last one        the request itself
    a page border       later requests with the same beginning, and this one if it is preempted
    each draft          the request, if the drafts up to there are right

Nobody writes to a slot again while it has an owner, except for a request that decodes: its only
slot is read and written in place, from one page border to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from pyroclast.engine.request import Request

NO_STATE = -1  # the state before a text's first token
MIN_SLOTS = 3


class StateKeeper(Protocol):
    """Owns states for longer than requests do: the prefix cache.  n_idle: how many that nobody
    else owns.  evict_state releases the one that was least recently used; whether there was one."""

    @property
    def n_idle(self) -> int: ...
    def evict_state(self) -> bool: ...


class StateSlots:
    """The free slots among `n_slots`, how many owners each taken one has, and the step's plan."""

    def __init__(self, n_slots: int, block_size: int) -> None:
        assert n_slots >= MIN_SLOTS, "a request that runs takes two, and one to spare"
        self.n_slots, self._block_size = n_slots, block_size
        self.keeper: StateKeeper | None = None
        self.reset()

    def reset(self) -> None:
        """Every slot is free again, whoever owned it."""
        self._free = list(range(self.n_slots - 1, -1, -1))
        self._n_owners = [0] * self.n_slots

    @property
    def max_running(self) -> int:
        """How many requests may run: each owns a state, and writes the next one."""
        return (self.n_slots - 1) // 2

    @property
    def n_free(self) -> int:
        return len(self._free)

    # ---- owners ----------------------------------------------------------------------------

    def take(self) -> int:
        """A slot with one owner, that of an idle state if none is free.  It may hold anything."""
        if not self._free and self.keeper is not None:
            self.keeper.evict_state()
        assert self._free, "no slot is free: more requests run than max_running"
        slot = self._free.pop()
        self._n_owners[slot] = 1
        return slot

    def share(self, slot: int) -> None:
        """Adds an owner."""
        assert self._n_owners[slot] > 0, "a free slot cannot be shared"
        self._n_owners[slot] += 1

    def give_back(self, slot: int) -> None:
        """Takes one owner from `slot`."""
        assert self._n_owners[slot] > 0, "slot given back twice"
        self._n_owners[slot] -= 1
        if not self._n_owners[slot]:
            self._free.append(slot)

    def has_one_owner(self, slot: int) -> bool:
        return self._n_owners[slot] == 1

    # ---- a request -------------------------------------------------------------------------

    def begin(self, request: Request, slot: int) -> None:
        """`request` is admitted, and goes on from the state in `slot`, which stays as it is."""
        if slot != NO_STATE:
            self.share(slot)
        request.state = slot

    def go_on_from(self, request: Request, slot: int) -> None:
        """`request` owns that slot in place of its own."""
        if request.state != NO_STATE:
            self.give_back(request.state)
        request.state = slot

    def release(self, request: Request) -> None:
        """`request` owns no slot any more."""
        self._take_back(request)
        for _, slot, _ in request.snapshots:
            self.give_back(slot)
        if request.state != NO_STATE:
            self.give_back(request.state)
        forget(request)

    # ---- a step ----------------------------------------------------------------------------

    def n_spare(self, n_requests: int) -> int:
        """How many slots a step of that many requests leaves for drafts."""
        n_idle = 0 if self.keeper is None else self.keeper.n_idle
        return max(0, len(self._free) + n_idle - n_requests)

    def plan(self, step: Sequence[Request]) -> None:
        """Takes the slots that `step` writes."""
        for request in step:
            end = request.n_computed + request.n_step_tokens
            for n_tokens in range(end - request.n_step_drafts, end + 1):
                request.writes.append((n_tokens, self.take()))
        for request in step:
            for n_tokens in self._borders(request):
                if self._free or (self.keeper is not None and self.keeper.evict_state()):
                    request.writes.append((n_tokens, self.take()))

    def advance(self, step: Iterable[Request]) -> None:
        """After a step: each request goes on from the state behind its last computed token."""
        for request in step:
            before, request.state = request.state, NO_STATE
            for n_tokens, slot in request.writes:
                if n_tokens == request.n_computed:
                    request.state = slot
                elif n_tokens < request.n_computed and n_tokens % self._block_size == 0:
                    request.snapshots.append((n_tokens, slot, self._lasts(request, n_tokens)))
                else:  # a draft's
                    self.give_back(slot)
            request.writes = []
            if request.state == NO_STATE and request.n_computed:  # it gave no token
                request.state = before
            elif before != NO_STATE:
                self.give_back(before)

    def note_border(self, request: Request) -> None:
        """Keeps the state of a request that stands at the end of a page, between two steps.  Takes
        back what a step that failed would have written."""
        self._take_back(request)
        n_tokens, slot = request.n_computed, request.state
        if slot == NO_STATE or n_tokens % self._block_size:
            return
        if all(n_tokens != kept for kept, _, _ in request.snapshots):
            self.share(slot)
            request.snapshots.append((n_tokens, slot, self._lasts(request, n_tokens)))

    def _borders(self, request: Request) -> Iterator[int]:
        """Ends of pages within the step, before its last token, whose states are kept: the last
        one, and those that other requests will probably go on from."""
        first, size = request.n_computed, self._block_size
        end = first + request.n_step_tokens - request.n_step_drafts
        wanted = {(end - 1) // size * size, self._last_shared(request), request.branch}
        return (n_tokens for n_tokens in sorted(wanted) if first < n_tokens < end)

    def _lasts(self, request: Request, n_tokens: int) -> bool:
        """Whether a state is kept when the request has one of a later page."""
        return n_tokens in (self._last_shared(request), request.branch)

    def _last_shared(self, request: Request) -> int:
        """Where a request with the same prompt would go on: one token is always computed."""
        return (request.n_prompt - 1) // self._block_size * self._block_size

    def _take_back(self, request: Request) -> None:
        for _, slot in request.writes:
            self.give_back(slot)
        request.writes = []


def forget(request: Request) -> None:
    """What the request knew of slots, whoever owns them."""
    request.state, request.writes, request.snapshots = NO_STATE, [], []
    request.rolling = None
