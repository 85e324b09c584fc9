"""POST /look/api/hood: what each op of a step takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from msgspec import Meta

from pyroclast import lens
from pyroclast.lens.ops import MAX_TOKENS
from pyroclast.lens.text import text_of
from pyroclast.llm import LLM
from pyroclast.server.look_room import Room, SamplingBody, params_of
from pyroclast.server.service import Exchange, Reply


class HoodBody(SamplingBody, kw_only=True):
    """max_tokens: of the short answer whose drafts and cached tokens are told."""

    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = 16


async def hood(room: Room, exchange: Exchange) -> Reply:
    """Time and bytes of each op, drafts, the grammar, and the cache."""
    body = exchange.body(HoodBody)
    context, params = body.context(), params_of(body.params)

    def work(llm: LLM, adapter: str | None) -> dict[str, Any]:
        found = lens.hood(llm, context, params, max_tokens=body.max_tokens, adapter=adapter)
        reply = asdict(found)
        if found.grammar is not None:
            texts = [{"id": i, "text": text_of(llm.tokenizer, i)} for i in found.grammar.forced]
            reply["grammar"]["forced"] = texts
        return reply

    return exchange.json(await room.view(exchange, body, work))
