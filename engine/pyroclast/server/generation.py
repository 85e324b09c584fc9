"""A request in the engine, or several that belong together, watched and ended in every case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from pyroclast.errors import PyroclastError
from pyroclast.server.errors import HttpError, of_exception
from pyroclast.server.metrics import Metrics, Watched

if TYPE_CHECKING:
    from pyroclast.engine.async_stream import AsyncStream
    from pyroclast.engine.output import Chunk

_MAX_WAITING = 64  # chunks of several prompts that the writer has not taken yet


class Generation:
    """Streams that have been queued: `start` raises what is wrong before a byte is sent.
    n_choices: of each stream."""

    def __init__(
        self,
        streams: Sequence[AsyncStream],
        n_choices: Sequence[int],
        metrics: Metrics,
        model: str,
    ) -> None:
        self._streams, self._n_choices = streams, n_choices
        self._metrics, self._model = metrics, model
        self._watched: list[Watched] = []
        self.n_cached = 0  # prompt tokens that were not computed

    async def start(self) -> None:
        """Checks and queues all prompts; none is left behind if one is refused."""
        try:
            for stream in self._streams:
                await stream.start()
        except BaseException as error:
            await self.aclose()
            if isinstance(error, PyroclastError):
                raise of_exception(error) from error
            raise
        self._watched = [Watched(self._metrics, self._model, n) for n in self._n_choices]

    async def chunks(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """(index of the prompt, chunk) as they come; the engine's errors as HttpErrors."""
        try:
            if len(self._streams) == 1:
                async for chunk in self._of(0):
                    yield 0, chunk
            else:
                async for found in self._of_all():
                    yield found
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Ends what still runs.  Harmless when repeated."""
        for stream in self._streams:
            await stream.aclose()
        for watched in self._watched:
            watched.end()
        self._watched = []

    async def _of(self, i: int) -> AsyncGenerator[Chunk, None]:
        watched = self._watched[i]
        try:
            async for chunk in self._streams[i]:
                if watched.chunk(chunk):
                    self.n_cached += chunk.n_cached_tokens
                yield chunk
        except Exception as error:  # what is no PyroclastError as well: `_of_all` waits for each
            watched.failed()
            raise of_exception(error) from error

    async def _of_all(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        queue: asyncio.Queue[tuple[int, Chunk | HttpError | None]] = asyncio.Queue(_MAX_WAITING)

        async def follow(i: int) -> None:
            try:
                async for chunk in self._of(i):
                    await queue.put((i, chunk))
            except HttpError as error:
                await queue.put((i, error))
            else:
                await queue.put((i, None))

        tasks = [asyncio.ensure_future(follow(i)) for i in range(len(self._streams))]
        try:
            n_open = len(tasks)
            while n_open:
                i, found = await queue.get()
                if isinstance(found, HttpError):
                    raise found
                if found is None:
                    n_open -= 1
                else:
                    yield i, found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
