"""Runs the requests of a batch: as many at a time as keep the model's steps full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pyroclast.async_llm import AsyncLLM
from pyroclast.engine.output import Completion
from pyroclast.errors import ContextOverflowError, RequestError, SamplingError, TemplateError
from pyroclast.lab.batch.requests import BatchRequest
from pyroclast.llm import LLM

# Requests that wait beside those in the steps, so that a step never lacks one.
_AHEAD = 2
_NO_LIMIT = 2**62  # the workers bound what is queued
# What is wrong with one request and says nothing about the next.
_OF_ONE_REQUEST = (ContextOverflowError, RequestError, SamplingError, TemplateError)


@dataclass(slots=True)
class Totals:
    """What a run did."""

    n_requests: int = 0
    n_failed: int = 0
    n_prompt_tokens: int = 0
    n_cached_tokens: int = 0
    n_completion_tokens: int = 0


def run_batch(
    llm: LLM,
    requests: Iterable[BatchRequest],
    write: Callable[[list[dict[str, Any]]], None],
    on_done: Callable[[int], None],
    *,
    adapter: str | None = None,
) -> Totals:
    """Answers every request and hands the lines of each to `write` as soon as it is complete, in
    the order in which they end.  on_done is told how many have ended.

    A request that does not fit the context, or that its template refuses, gets a line with
    "error".  Other errors, and those of `write`, end the run.  adapter: its name, for all of
    them."""
    return asyncio.run(_run(llm, list(requests), write, on_done, adapter))


async def _run(
    llm: LLM,
    requests: list[BatchRequest],
    write: Callable[[list[dict[str, Any]]], None],
    on_done: Callable[[int], None],
    adapter: str | None,
) -> Totals:
    totals = Totals()
    waiting = iter(requests)
    n_workers = min(len(requests), _AHEAD * llm.model.max_seqs)
    engine = AsyncLLM.of(llm, max_queued_requests=_NO_LIMIT, max_queued_tokens=_NO_LIMIT)
    async with engine:

        async def work() -> None:
            for request in waiting:
                lines = await _answer(engine, request, totals, adapter)
                write(lines)
                totals.n_requests += 1
                on_done(totals.n_requests)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(n_workers):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return totals


async def _answer(
    engine: AsyncLLM, request: BatchRequest, totals: Totals, adapter: str | None
) -> list[dict[str, Any]]:
    """The lines of one request."""
    head = {"id": request.id, "line": request.line}
    options: dict[str, Any] = {"adapter": adapter, "priority": "batch"}
    try:
        if request.messages is not None:
            found = await engine.chat(
                request.messages, request.params, template=request.template, **options
            )
        else:
            assert request.prompt is not None
            found = await engine.generate(request.prompt, request.params, **options)
    except _OF_ONE_REQUEST as error:
        totals.n_failed += 1
        return [{**head, "error": str(error)}]
    totals.n_prompt_tokens += found[0].timings.n_prompt_tokens
    totals.n_cached_tokens += found[0].timings.n_cached_tokens
    totals.n_completion_tokens += sum(each.timings.n_completion_tokens for each in found)
    return [{**head, **_line(each)} for each in found]


def _line(completion: Completion) -> dict[str, Any]:
    """A completion as its line: without its prompt, which the request has."""
    line = completion.as_dict()
    for name in ("prompt_token_ids", "prompt_index", "timings"):
        del line[name]
    counts = {
        "n_prompt_tokens": completion.timings.n_prompt_tokens,
        "n_cached_tokens": completion.timings.n_cached_tokens,
        "n_completion_tokens": completion.timings.n_completion_tokens,
    }
    return {**line, **counts}
