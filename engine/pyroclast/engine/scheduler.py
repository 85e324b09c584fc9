"""Which tokens the next step computes: plain Python on plain ints, no arrays, no text.

A step is one ragged batch: one token of every sequence that decodes, and chunks of the prompts
that are still being read, side by side, at most `max_batch_tokens` tokens and `max_logits` rows of
logits.  When the KV cache runs out of blocks, the youngest sequence gives up all of its own and
is computed again later (preemption by recompute).

Order: sequences are admitted strictly in the order in which they came, and only the youngest is
preempted, so `running` is always older than `waiting` and both are sorted by age.  The oldest
sequence can therefore always take what it needs, and every sequence becomes the oldest one day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Generic, TypeVar

from pyroclast.engine.blocks import BlockPool


class Sequence:
    """One growing row of tokens.  `token_ids[:n_computed]` are in the KV cache, in `blocks`."""

    __slots__ = (
        "blocks",
        "n_computed",
        "n_prompt",
        "n_rows_done",
        "n_step_rows",
        "n_step_tokens",
        "sibling",
        "token_ids",
        "wants_prompt_rows",
    )

    def __init__(
        self,
        token_ids: list[int],
        *,
        wants_prompt_rows: bool = False,
        sibling: Sequence | None = None,
    ) -> None:
        """`wants_prompt_rows`: the logits of every prompt token are wanted, not only of the last.
        `sibling`: an older sequence with the same prompt, whose blocks can be shared."""
        self.token_ids = token_ids
        self.n_prompt = len(token_ids)
        self.n_computed = 0
        self.blocks: list[int] = []
        self.wants_prompt_rows = wants_prompt_rows
        self.sibling = sibling
        self.n_rows_done = 0  # positions whose prompt row was delivered: not asked for again
        self.n_step_tokens = 0  # in the step being run: tokens computed,
        self.n_step_rows = 0  # and rows of logits, which belong to the last of those tokens

    def advance(self) -> None:
        """The step has computed the tokens planned for it."""
        self.n_computed += self.n_step_tokens
        if self.n_rows_done < self.n_prompt:
            self.n_rows_done = max(self.n_rows_done, min(self.n_computed, self.n_prompt))


S = TypeVar("S", bound=Sequence)


class Scheduler(Generic[S]):
    """The queues, and the blocks behind them.  `schedule` plans a step; the caller runs it, calls
    `advance` on each of its sequences, and appends tokens to those that were computed whole."""

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
        # With no more sequences than tokens and rows in a step, everyone gets on in every step.
        self.max_running = min(max_seqs, max_batch_tokens, max_logits)
        self.waiting: deque[S] = deque()
        self.running: list[S] = []
        self.n_preemptions = 0
        self.layout = 0  # changes whenever `running` changes or a step does anything but decode
        self.decodes_only = False  # the last step planned was one token of everybody running

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)

    def n_blocks_for(self, n_tokens: int) -> int:
        return -(-n_tokens // self.block_size)

    def add(self, seq: S) -> None:
        self.waiting.append(seq)

    def sequences(self) -> Iterator[S]:
        """Everyone, the oldest first."""
        return chain(self.running, self.waiting)

    def remove(self, seqs: Collection[S]) -> list[int]:
        """Forgets `seqs` (finished or given up); returns the blocks that this freed."""
        gone = set(seqs)
        if not gone.isdisjoint(self.running):
            self.running = [seq for seq in self.running if seq not in gone]
        if not gone.isdisjoint(self.waiting):
            self.waiting = deque(seq for seq in self.waiting if seq not in gone)
        self.decodes_only = False
        return [block for seq in seqs for block in self._give_back(seq)]

    def schedule(self) -> list[S]:
        """The sequences of the next step, each with `n_step_tokens` and `n_step_rows` set and with
        blocks for these tokens.  Empty only if there is nothing to do."""
        if self.decodes_only and not self.waiting:
            steady = self._grow_all()
            if steady:
                return self.running
        self.layout += 1
        self._admit()
        self._grow_all()
        step = [seq for seq in self.running if len(seq.token_ids) - seq.n_computed == 1]
        self.decodes_only = len(step) == len(self.running) > 0
        n_rows = 0
        for seq in step:
            seq.n_step_tokens = 1
            seq.n_step_rows = self._rows_of(seq, 1)
            n_rows += seq.n_step_rows
        if self.decodes_only:
            return self.running
        self._add_chunks(step, self.max_batch_tokens - len(step), self.max_logits - n_rows)
        return step

    def restart_all(self) -> None:
        """Nothing in the KV cache is trusted any more: every sequence is computed again."""
        for seq in reversed(self.running):
            self.waiting.appendleft(seq)
        for seq in self.waiting:
            seq.blocks = []
            seq.n_computed = 0
        self.running.clear()
        self.pool.reset()
        self.decodes_only = False

    def _admit(self) -> None:
        """Moves waiting sequences to `running`, with blocks for all tokens that they have now."""
        while self.waiting and len(self.running) < self.max_running:
            seq = self.waiting[0]
            shared = self._shared_blocks(seq)
            if shared is None:
                return
            n_new = self.n_blocks_for(len(seq.token_ids)) - len(shared)
            # With neighbours, one block stays free: they would take it from the newcomer at once.
            n_spare = 1 if self.running else 0
            if not self.pool.has_room(n_new + n_spare):
                return
            self.waiting.popleft()
            self.pool.share(shared)
            seq.blocks = shared + self.pool.take(n_new)
            seq.n_computed = len(shared) * self.block_size
            seq.sibling = None
            self.running.append(seq)

    def _shared_blocks(self, seq: Sequence) -> list[int] | None:
        """The full prompt blocks of the sibling; none if it is gone, None if not yet computed.

        The last prompt token is always computed again: its logits are needed."""
        sibling = seq.sibling
        if sibling is None or not sibling.blocks:
            return []
        n_blocks = (seq.n_prompt - 1) // self.block_size
        if sibling.n_computed < n_blocks * self.block_size:
            return None
        return sibling.blocks[:n_blocks]

    def _grow_all(self) -> bool:
        """A block for every sequence whose next token opens one; True if nobody was preempted."""
        steady = True
        block_size, i = self.block_size, 0
        while i < len(self.running):
            seq = self.running[i]
            i += 1
            if len(seq.token_ids) <= len(seq.blocks) * block_size:
                continue
            while seq.blocks and not self.pool.has_room(1):
                steady = False
                self._preempt_youngest()
            if seq.blocks:  # still running: it was not the youngest itself
                seq.blocks += self.pool.take(1)
        return steady

    def _preempt_youngest(self) -> None:
        seq = self.running.pop()
        self._give_back(seq)
        seq.n_computed = 0
        self.waiting.appendleft(seq)
        self.n_preemptions += 1
        self.decodes_only = False

    def _give_back(self, seq: Sequence) -> list[int]:
        blocks, seq.blocks = seq.blocks, []
        return self.pool.give_back(blocks)

    def _add_chunks(self, step: list[S], n_tokens_left: int, n_rows_left: int) -> None:
        """Fills the rest of the step with chunks of unread prompts, the oldest first."""
        for seq in self.running:
            n_unread = len(seq.token_ids) - seq.n_computed
            if n_unread == 1:
                continue
            n_tokens = min(n_unread, n_tokens_left)
            n_rows = self._rows_of(seq, n_tokens)
            if n_rows > n_rows_left:
                # Fewer tokens, so that no more rows come due than the step has left.
                n_tokens -= n_rows - n_rows_left
                n_rows = n_rows_left
            if n_tokens == 0:
                return
            seq.n_step_tokens = n_tokens
            seq.n_step_rows = n_rows
            step.append(seq)
            n_tokens_left -= n_tokens
            n_rows_left -= n_rows

    def _rows_of(self, seq: Sequence, n_tokens: int) -> int:
        """The rows of logits that computing the next `n_tokens` of `seq` brings due."""
        end = seq.n_computed + n_tokens
        n_rows = 1 if end == len(seq.token_ids) else 0
        if seq.wants_prompt_rows and end <= seq.n_prompt:
            n_rows = max(n_rows, end - max(seq.n_computed, seq.n_rows_done))
        return n_rows
