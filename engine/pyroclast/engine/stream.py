"""A stream of chunks from one prompt, which ends its work when nobody wants it any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyroclast.engine.output import Chunk, Completion

if TYPE_CHECKING:
    from pyroclast.engine.loop import Loop
    from pyroclast.engine.request import Generation, Job


class Stream:
    """Iterate for a `Chunk` per token; `completions` sums up afterwards.

    The work begins with the first chunk that is asked for.  `close`, the end of a `with` block,
    and dropping the stream end it before the next step and free its share of the KV cache."""

    def __init__(
        self, owner: object, loop: Loop, job: Job, generations: Sequence[Generation]
    ) -> None:
        self._owner = owner  # a stream keeps its model alive
        self._loop = loop
        self._job = job
        self._generations = generations
        self._started = False
        assert job.chunks is not None, "a stream's job collects chunks"
        self._chunks = job.chunks

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Chunk:
        job, chunks = self._job, self._chunks
        if not chunks:
            try:
                if not self._started:
                    self._started = True
                    self._loop.submit(self._generations)
                while not chunks and (job.open or job.error is not None):
                    self._loop.run(job)
            except BaseException:
                self.close()
                raise
            if not chunks:
                raise StopIteration
        return chunks.popleft()

    @property
    def completions(self) -> list[Completion]:
        """The completions that have ended; with finish_reason "abort" those that were closed."""
        return [
            generation.completion()
            for generation in self._generations
            if generation.finish_reason is not None
        ]

    def close(self) -> None:
        """Ends the work; chunks that nobody fetched are lost.  Harmless when repeated."""
        self._loop.give_up(self._job)
        self._chunks.clear()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_chunks"):
            self.close()
