"""`AsyncLLM`: a loaded model for coroutines, and for servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine import checks
from pyroclast.engine.async_calls import AsyncCalls, queue_limits
from pyroclast.engine.async_stream import AsyncStream
from pyroclast.engine.call import Call
from pyroclast.engine.checks import AdapterNames, Params, Prompt, Prompts
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.long_work import is_long, run
from pyroclast.engine.output import Completion, Score
from pyroclast.engine.read_request import ReadRequest
from pyroclast.llm import LLM, Messages
from pyroclast.sampling.params import SamplingParams

T = TypeVar("T")

_MAX_QUEUED_REQUESTS = 1024
_MAX_QUEUED_TOKENS = 1 << 20

# The token ids of each prompt; called where it holds up nobody.
Encode = Callable[[], list[list[int]]]


class AsyncLLM:
    """A model for coroutines of any event loop: thousands may wait, and take no thread each.

    Takes what `LLM` takes, and loads it before it returns; `AsyncLLM.of(llm)` wraps a loaded LLM,
    which may be used beside it.  One thread runs the steps of all requests.

    max_queued_requests and max_queued_tokens bound what waits to begin; a call that does not fit
    raises QueueFullError, and nothing of it is queued.

        async with AsyncLLM("model.gguf") as llm:
            async for chunk in llm.stream("The capital of France is"):
                print(chunk.text, end="")

    A `Chunk` carries what one step added: `text` (may be empty), `token_ids`, `index` (which of the
    `n` completions), `logprobs` if they were asked for, and the counts up to it: n_prompt_tokens,
    n_cached_tokens (of the prompt: not computed) and n_completion_tokens.  The last chunk of a
    completion has its `finish_reason` ("stop", "length", "abort") and the `completion`.

    priority: "interactive" goes before "batch"; what has waited for a minute is not overtaken.
    request_id names a call for `abort`; one is made up where none is given.  Cancelling the task
    that awaits a call ends its work before the next step."""

    def __init__(
        self,
        model: str | Path,
        *,
        max_queued_requests: int = _MAX_QUEUED_REQUESTS,
        max_queued_tokens: int = _MAX_QUEUED_TOKENS,
        **options: Any,
    ) -> None:
        limits = queue_limits(max_queued_requests, max_queued_tokens)
        self._attach(LLM(model, **options), limits, owns_llm=True)

    @classmethod
    def of(
        cls,
        llm: LLM,
        *,
        max_queued_requests: int = _MAX_QUEUED_REQUESTS,
        max_queued_tokens: int = _MAX_QUEUED_TOKENS,
    ) -> AsyncLLM:
        """Wraps a loaded LLM.  `close` leaves it open."""
        wrapper = cls.__new__(cls)
        limits = queue_limits(max_queued_requests, max_queued_tokens)
        wrapper._attach(llm, limits, owns_llm=False)  # noqa: SLF001 - its other constructor
        return wrapper

    def _attach(self, llm: LLM, limits: tuple[int, int], *, owns_llm: bool) -> None:
        self.llm, self._owns_llm = llm, owns_llm
        self._intake = llm._intake  # noqa: SLF001 - this is the other face of an LLM
        self._calls = AsyncCalls(llm._loop, *limits)  # noqa: SLF001

    # ---- generating ------------------------------------------------------------------------

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        priority: str = "interactive",
        request_id: str | None = None,
        n_answered: int = 0,
    ) -> AsyncStream:
        """Completes one prompt: `async for chunk in llm.stream(...)`.  The prompt is checked and
        queued by `await stream.start()`, or with the first chunk that is asked for.  n_answered: as
        `LLM.stream`."""

        def encode() -> list[list[int]]:
            return [self._intake.encode_one(prompt, "stream", "; use generate()")]

        call, name = self._begin(priority, request_id, adapter, streams=True)
        make = self._maker(call, encode, params, prompt, continues_text=True, n_answered=n_answered)
        return AsyncStream(self._calls, call, name, make)

    def stream_chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        template: Mapping[str, Any] | None = None,
        adapter: str | None = None,
        priority: str = "interactive",
        request_id: str | None = None,
    ) -> AsyncStream:
        """`chat` as a stream of chunks."""

        def encode() -> list[list[int]]:
            return [self._intake.encode_chat(messages, template)]

        call, name = self._begin(priority, request_id, adapter, streams=True)
        make = self._maker(call, encode, params, messages, continues_text=False)
        return AsyncStream(self._calls, call, name, make)

    async def generate(
        self,
        prompts: Prompts,
        params: Params = None,
        *,
        adapter: AdapterNames = None,
        priority: str = "interactive",
        request_id: str | None = None,
    ) -> list[Completion]:
        """Completes text, token ids, or a list of either, like `LLM.generate`."""
        call, name = self._begin(priority, request_id, adapter)
        make = self._maker(
            call, lambda: self._intake.encode(prompts), params, prompts, continues_text=True
        )
        return await self._complete(call, name, make)

    async def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        template: Mapping[str, Any] | None = None,
        adapter: str | None = None,
        priority: str = "interactive",
        request_id: str | None = None,
    ) -> list[Completion]:
        """The assistant's next message in a conversation: the `n` that params ask for.

        template: further variables for the chat template (tools, ...)."""

        def encode() -> list[list[int]]:
            return [self._intake.encode_chat(messages, template)]

        call, name = self._begin(priority, request_id, adapter)
        make = self._maker(call, encode, params, messages, continues_text=False)
        return await self._complete(call, name, make)

    # ---- reading ---------------------------------------------------------------------------

    async def embed(
        self,
        prompts: Prompts,
        *,
        pooling: str = "mean",
        normalize: bool = True,
        dimensions: int | None = None,
        adapter: str | None = None,
        priority: str = "interactive",
        request_id: str | None = None,
    ) -> list[NDArray[np.float32]]:
        """A vector for each prompt, like `LLM.embed`."""
        checks.check_embeddings(self.llm.embeddings, dimensions, self.llm.model.config.d_model)
        call, name = self._begin(priority, request_id, adapter)
        pools = await self._read(
            call, name, lambda: self._intake.embed_requests(prompts, pooling, call), prompts
        )
        return [pool.vector(normalize=normalize, dimensions=dimensions) for pool in pools]

    async def score(
        self,
        prompts: Prompts,
        continuations: Prompts | None = None,
        *,
        n_top: int = 0,
        adapter: str | None = None,
        priority: str = "interactive",
        request_id: str | None = None,
    ) -> list[Score]:
        """How likely the model holds each token of text or token ids, like `LLM.score`."""
        call, name = self._begin(priority, request_id, adapter)

        def make() -> tuple[list[Score], list[ReadRequest]]:
            return self._intake.score_requests(prompts, n_top, call, continuations)

        return await self._read(call, name, make, [prompts, continuations])

    @property
    def max_queued_requests(self) -> int:
        """How many requests may wait to begin."""
        return self._calls.max_requests

    @property
    def load(self) -> dict[str, float]:
        """How busy it is: requests in the steps ("running"), requests that wait to begin
        ("waiting"), and the share of the KV cache that they use ("cache_usage", 0 to 1)."""
        return self._calls.load()

    @property
    def n_preemptions(self) -> int:
        """How often a request gave up its blocks for others, and was computed again."""
        return self._calls.n_preemptions

    async def update_weights(
        self, tensors: Mapping[str, Any], *, adapter: str | None = None
    ) -> None:
        """Gives weights other values between two steps, like `LLM.update_weights`."""
        await asyncio.to_thread(self.llm.update_weights, tensors, adapter=adapter)

    # ---- the end ---------------------------------------------------------------------------

    def abort(self, request_id: str) -> bool:
        """Ends a call before the next step, as it stands: its completions have the finish_reason
        "abort".  False if there is no such call, or no longer."""
        return self._calls.abort(request_id)

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Takes no new calls, and ends those that are still there after `drain_s` seconds: they
        raise ClosedError.  Frees the model, unless it came through `of`."""
        await self._calls.close(drain_s)
        if self._owns_llm:
            await asyncio.to_thread(self.llm.close)  # it waits for the step that is being run

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncLLM {self.llm.name}{' (closed)' if self._calls.closed else ''}>"

    # ---- inside ----------------------------------------------------------------------------

    def _begin(
        self, priority: str, request_id: str | None, adapter: AdapterNames, *, streams: bool = False
    ) -> tuple[Call, str]:
        """A call begins: its times count from here."""
        checks.check_priority(priority)
        call = self.llm._call(adapter, collects_chunks=streams)  # noqa: SLF001
        call.priority = priority
        return call, self._calls.begin(call, request_id)

    def _maker(
        self, call: Call, encode: Encode, params: Params, source: Any, **options: Any
    ) -> Callable[[], Any]:
        """Makes the requests of a call; options: those of Intake.generate_requests.  A thread does
        it where that may take longer than a step: long texts, and grammars, which are compiled."""
        each_params = [params] if isinstance(params, SamplingParams) else params or []
        is_slow = is_long(source) or any(
            getattr(each, "structured", None) is not None for each in each_params
        )

        def make() -> list[GenerateRequest]:
            return self._intake.generate_requests(encode(), params, call, **options)

        return lambda: run(make, is_slow)

    async def _complete(self, call: Call, name: str, make: Callable[[], Any]) -> list[Completion]:
        try:
            requests = await make()
            self._calls.submit(name, requests)
            await self._calls.end_of(call)
            return [request.completion() for request in requests]
        finally:
            self._calls.forget(name, call)

    async def _read(
        self,
        call: Call,
        name: str,
        make: Callable[[], tuple[T, Sequence[ReadRequest]]],
        source: Any,
    ) -> T:
        """Runs the requests of a call that reads, and returns what they filled in.  `source` is
        what they are made of."""
        try:
            filled, requests = await run(make, is_long(source))
            self._calls.submit(name, requests)
            await self._calls.end_of(call)
            return filled
        finally:
            self._calls.forget(name, call)
