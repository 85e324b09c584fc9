"""The room `look`: the page, and POST /look/api/..., thin layers over pyroclast.lens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from pyroclast.server import (
    look_compare,
    look_hood,
    look_inside,
    look_places,
    look_sampling,
    look_text,
    look_training,
)
from pyroclast.server.look_files import LookFiles
from pyroclast.server.look_room import LookReply, Room
from pyroclast.server.routes import Route
from pyroclast.server.service import Exchange, Reply

_POSTS: dict[str, Callable[[Room, Exchange], Awaitable[Reply]]] = {
    "tokens": look_text.tokens,
    "pieces": look_text.pieces,
    "next": look_text.next_token,
    "trace": look_sampling.trace,
    "redraw": look_sampling.redraw,
    "generate": look_sampling.generate,
    "compare": look_compare.compare,
    "neighbours": look_places.neighbours,
    "analogy": look_places.analogy,
    "map": look_places.word_map,
    "sentences": look_places.sentences,
    "attention": look_inside.attention,
    "movement": look_inside.movement,
    "rotation": look_inside.rotation,
    "layers": look_inside.layers,
    "hood": look_hood.hood,
    "training": look_training.training,
}


class Look:
    """The endpoints of one server, and its page.  training: a folder of runs of `pyroclast train`
    that the page shows."""

    def __init__(self, training: str | Path | None = None) -> None:
        self.page = LookFiles()
        self._room = Room(None if training is None else Path(training))

    def close(self) -> None:
        """Frees what views keep; harmless when repeated."""
        self._room.variants.close()

    def routes(self) -> list[Route]:
        """Every endpoint under /look/api/."""
        return [
            *(self._route(method, "meta", look_text.meta, False) for method in ("GET", "POST")),
            *(self._route("POST", name, work, True) for name, work in _POSTS.items()),
        ]

    def _route(
        self,
        method: str,
        name: str,
        work: Callable[[Room, Exchange], Awaitable[Reply]],
        generates: bool,
    ) -> Route:
        endpoint = partial(work, self._room)
        path, summary = f"/look/api/{name}", work.__doc__ or ""
        return Route(method, path, endpoint, summary, LookReply, None, generates)
