"""A stream of chunks from one prompt, which ends its work when nobody wants it any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyroclast.engine.output import Chunk, Completion

if TYPE_CHECKING:
    from pyroclast.engine.call import Call
    from pyroclast.engine.generate_request import GenerateRequest
    from pyroclast.engine.loop import Loop


class Stream:
    """Iterate for a `Chunk` per token; `completions` sums up afterwards.

    The work begins with the first chunk that is asked for.  `close`, the end of a `with` block,
    and dropping the stream end it before the next step and free its share of the KV cache."""

    def __init__(
        self, owner: object, loop: Loop, call: Call, requests: Sequence[GenerateRequest]
    ) -> None:
        self._owner = owner  # a stream keeps its model alive
        self._loop = loop
        self._call = call
        self._requests = requests
        self._started = self._closed = False
        assert call.chunks is not None, "a stream's call collects chunks"
        self._chunks = call.chunks

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Chunk:
        if self._closed:
            raise StopIteration
        call, chunks = self._call, self._chunks
        if not chunks:
            try:
                if not self._started:
                    self._started = True
                    self._loop.submit(self._requests)
                while not chunks and (call.open or call.error is not None):
                    self._loop.run(call)
            except BaseException:
                self.close()
                raise
            if not chunks:
                raise StopIteration
        chunk = chunks.popleft()
        if call.is_paused:
            self._loop.fetched(call)
        return chunk

    @property
    def completions(self) -> list[Completion]:
        """The completions that have ended; with finish_reason "abort" those that were closed."""
        return [
            request.completion() for request in self._requests if request.finish_reason is not None
        ]

    def close(self) -> None:
        """Ends the work; chunks that nobody fetched are lost, and no more come.  Harmless when
        repeated."""
        self._closed = True
        self._loop.give_up(self._call)
        self._chunks.clear()
        self._call.error = None  # unread: its traceback may hold this stream, and the model

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_chunks"):
            self.close()
