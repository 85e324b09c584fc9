"""POST /look/api/tokens, pieces and next, GET or POST meta: a text in numbers, and what follows."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from pyroclast import lens
from pyroclast.lens import answers
from pyroclast.llm import LLM
from pyroclast.server.look_room import ContextBody, ModelBody, Room, TokenId
from pyroclast.server.service import Exchange, Reply

MAX_PIECES = 1000


class PiecesBody(ModelBody, kw_only=True):
    """Token ids to spell."""

    ids: Annotated[list[TokenId], Meta(max_length=MAX_PIECES)]


async def meta(room: Room, exchange: Exchange) -> Reply:
    """The models, the facts of one of them, and the limits of the views."""
    model = exchange.body(ModelBody).model if exchange.has_body else None
    served = exchange.served(model)
    models = [each.name for each in exchange.models.all]
    runs = list(lens.training_runs(room.training)) if room.training else []
    return exchange.json(answers.meta_json(served.llm.llm, served.name, models, runs))


async def tokens(room: Room, exchange: Exchange) -> Reply:
    """The tokens of a context."""
    body = exchange.body(ContextBody)
    context = body.context()

    def work(llm: LLM, _: str | None) -> dict[str, Any]:
        return answers.tokens_json(lens.tokens(llm, context))

    return exchange.json(await room.view(exchange, body, work))


async def pieces(room: Room, exchange: Exchange) -> Reply:
    """How tokens are written."""
    body = exchange.body(PiecesBody)
    found = await room.view(exchange, body, lambda llm, _: lens.pieces(llm, body.ids))
    return exchange.json({"pieces": [{"id": each.id, "text": each.text} for each in found]})


async def next_token(room: Room, exchange: Exchange) -> Reply:
    """P(next | context)."""
    body = exchange.body(ContextBody)
    context = body.context()

    def work(llm: LLM, adapter: str | None) -> dict[str, Any]:
        return answers.next_json(lens.next_token(llm, context, adapter=adapter))

    return exchange.json(await room.view(exchange, body, work))
