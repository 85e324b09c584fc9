"""A scheduler without a model, and the steps that tests play on it."""

from pyroclast.engine.blocks import BlockPool
from pyroclast.engine.request import Request
from pyroclast.engine.scheduler import Scheduler


def make(*, n_blocks=16, block_size=4, max_batch_tokens=8, max_seqs=4, max_logits=4):
    return Scheduler(
        BlockPool(n_blocks),
        block_size=block_size,
        max_batch_tokens=max_batch_tokens,
        max_seqs=max_seqs,
        max_logits=max_logits,
    )


def add(scheduler, n_tokens, **options):
    request = Request(list(range(n_tokens)), **options)
    scheduler.add(request)
    return request


def play(scheduler):
    """One step: checks its limits and blocks, advances; returns the (request, tokens, rows)."""
    step = list(scheduler.schedule())
    plan = [(request, request.n_step_tokens, request.n_step_rows) for request in step]
    assert sum(n for _, n, _ in plan) <= scheduler.max_batch_tokens
    assert sum(n for _, _, n in plan) <= scheduler.max_logits
    owned = [block for request in scheduler.running for block in request.blocks]
    assert len(set(owned)) == scheduler.pool.n_blocks - scheduler.pool.n_free
    for request in step:
        assert (
            len(request.blocks) * scheduler.block_size >= request.n_computed + request.n_step_tokens
        )
        whole = request.n_computed + request.n_step_tokens == len(request.token_ids)
        request.advance()
        if whole:
            request.token_ids.append(0)
    return plan


def decoding(scheduler, *n_tokens):
    """Requests that have read their prompts."""
    requests = [add(scheduler, n) for n in n_tokens]
    while any(request.n_computed < request.n_prompt for request in requests):
        play(scheduler)
    return requests


class Live(Request):
    is_live = True
