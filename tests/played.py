"""A scheduler and a prefix cache that run without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import numpy as np

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.partial_blocks import PartialBlocks
from pyroclast.engine.prefix_cache import PrefixCache
from pyroclast.engine.request import Request
from pyroclast.engine.scheduler import Scheduler

BLOCK = 4


def next_token(token_ids: Sequence[int]) -> int:
    """What follows a text."""
    return sum(token_ids) % 7


class Played:
    """A scheduler with a cache of token ids in place of a model: what a request reads in its
    blocks must be its own text.  parts: parts of blocks are copied."""

    def __init__(
        self,
        *,
        n_blocks: int = 16,
        block_size: int = BLOCK,
        max_batch_tokens: int = 16,
        max_seqs: int = 4,
        max_idle: int | None = None,
        parts: bool = False,
    ) -> None:
        self.pool = BlockPool(n_blocks, self.clear)
        self.cleared: set[int] = set()
        self.cache = (
            PartialBlocks(self.pool, block_size, max_idle, copy=self.copy)
            if parts
            else PrefixCache(self.pool, block_size, max_idle)
        )
        self.scheduler: Scheduler[Request] = Scheduler(
            self.pool,
            block_size=block_size,
            max_batch_tokens=max_batch_tokens,
            max_seqs=max_seqs,
            max_logits=max_seqs,
            prefixes=self.cache,
        )
        self.memory = np.full((n_blocks, block_size), -1)
        self.n_computed = 0
        self.n_prompt_computed = 0  # of these, tokens of prompts

    def clear(self, blocks: Sequence[int]) -> None:
        self.cleared.update(blocks)
        self.memory[list(blocks)] = 0

    def copy(self, source: int, target: int) -> None:
        if source not in self.pool.held(self.cache):
            [owner] = [r for r in self.scheduler.running if source in r.blocks]
            assert owner.n_computed >= owner.n_prompt, "no logits have told yet of a NaN"
        self.memory[target] = self.memory[source]

    def add(self, token_ids: Iterable[int], **options: Any) -> Request:
        request = Request(list(token_ids), **options)
        self.scheduler.add(request)
        return request

    def propose(self, request: Request, n_right: int) -> None:
        """Puts up three drafts, the first of which are right."""
        text = [*request.token_ids]
        for i in range(3):
            right = next_token(text)
            text.append(right if i < n_right else right + 1)
        self.scheduler.propose(request, text[-3:])

    def propose_to_some(self, choose: Random) -> int:
        """Puts up drafts for requests at random; returns for how many."""
        chosen = [each for each in self.scheduler.running if choose.random() < 0.1]
        for request in chosen:
            self.propose(request, choose.randrange(3))
        return len(chosen)

    def step(self) -> list[Request]:
        """Writes the step's tokens, checks what everybody reads, and appends tokens."""
        step = list(self.scheduler.schedule())
        size = self.memory.shape[1]
        for request in step:
            text = request.token_ids + request.draft_ids[: request.n_step_drafts]
            first, end = request.n_computed, request.n_computed + request.n_step_tokens
            for position in range(first, end):
                block = request.blocks[position // size]
                self.memory[block, position % size] = text[position]
            self.n_computed += request.n_step_tokens
            self.n_prompt_computed += max(0, min(end, request.n_prompt) - first)
        for request in step:
            text = request.token_ids + request.draft_ids[: request.n_step_drafts]
            end = request.n_computed + request.n_step_tokens
            read = self.memory[request.blocks].ravel()[:end].tolist()
            assert read == text[:end]
            if request.n_step_drafts:
                self._verify(request)
                continue
            whole = end == len(request.token_ids)
            request.advance()
            if whole:
                request.token_ids.append(next_token(request.token_ids))
        self.check()
        return step

    def _verify(self, request: Request) -> None:
        for n_right, draft in enumerate([*request.draft_ids, None]):
            request.token_ids.append(next_token(request.token_ids))
            if request.token_ids[-1] != draft:
                request.n_computed += 1 + n_right
                return

    def run(self, request: Request, n_tokens: int = 1) -> None:
        while len(request.token_ids) < request.n_prompt + n_tokens:
            self.step()

    def finish(self, *requests: Request, **options: Any) -> list[int]:
        freed = self.scheduler.remove(requests, **options)
        self.check()
        return freed

    def check(self) -> None:
        """No block is lost, each has the owners it should have, and only requests that run lend."""
        running = self.scheduler.running
        owned = [block for request in running for block in request.blocks]
        held = self.pool.held(self.cache)
        assert len(held) == len(self.cache)
        assert len(set(owned) | held) == self.pool.n_blocks - self.pool.n_free
        assert self.pool.n_evictable == len(held - set(owned))
        if isinstance(self.cache, PartialBlocks):
            tails = self.cache._tails
            assert tails._tails.keys() <= set(running)
            assert all(tail.request is request for request, tail in tails._tails.items())
            noted = [tail for each in tails._behind.values() for tail in each]
            assert len(noted) == len(tails._tails) and set(noted) == set(tails._tails.values())
