"""A stream of chunks for coroutines, which ends its work when nobody wants it any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pyroclast.engine.async_calls import AsyncCalls
from pyroclast.engine.call import Call
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.output import Chunk, Completion
from pyroclast.engine.wake import news_of

Maker = Callable[[], Awaitable[Sequence[GenerateRequest]]]


class AsyncStream:
    """`async for` gives a `Chunk` per step that added to the text; `completions` sums up
    afterwards.

    The prompt is checked and queued by `start`, or with the first chunk that is asked for.
    Cancelling the task that waits for a chunk, `aclose`, `async with`, and dropping the stream end
    the work before the next step and free its share of the KV cache."""

    def __init__(self, calls: AsyncCalls, call: Call, request_id: str, make: Maker) -> None:
        self.request_id = request_id
        self._calls, self._call = calls, call
        self._make: Maker | None = make
        self._requests: Sequence[GenerateRequest] = ()
        self._closed = False
        assert call.chunks is not None, "a stream's call collects chunks"
        self._chunks = call.chunks

    async def start(self) -> None:
        """Checks the prompt and queues it; raises what is wrong with it, and QueueFullError.
        Harmless when repeated."""
        make, self._make = self._make, None
        if make is None:
            return
        try:
            self._requests = await make()
            self._calls.submit(self.request_id, self._requests)
        except BaseException:
            self.close()
            raise

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Chunk:
        call = self._call
        if not self._chunks and not self._closed:
            await self.start()
            try:
                await news_of(call)
            except BaseException:
                self.close()
                raise
        if self._chunks:
            chunk = self._chunks.popleft()
            if call.is_paused:
                self._calls.loop.fetched(call)
            return chunk
        try:
            if not self._closed:
                call.raise_error()
        finally:
            self.close()
        raise StopAsyncIteration

    @property
    def completions(self) -> list[Completion]:
        """The completions that have ended; with finish_reason "abort" those that were closed."""
        return [
            request.completion() for request in self._requests if request.finish_reason is not None
        ]

    def close(self) -> None:
        """What `aclose` does, for where nothing can be awaited; it never waits."""
        self._closed = True
        self._make = None
        self._calls.forget(self.request_id, self._call)
        self._chunks.clear()

    async def aclose(self) -> None:
        """Ends the work; chunks that nobody fetched are lost, and no more come.  Harmless when
        repeated."""
        self.close()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_chunks"):
            self.close()
