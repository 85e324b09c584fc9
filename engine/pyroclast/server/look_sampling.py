"""POST /look/api/trace, redraw, generate: the sampler's stages, the draw, the loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from pyroclast import lens
from pyroclast.lens import answers
from pyroclast.lens.draw import MAX_REDRAWS
from pyroclast.lens.text import prompt_length, some_ids_of
from pyroclast.lens.writing import MAX_TOKENS, Watcher, watched
from pyroclast.server.generation import Generation
from pyroclast.server.look_room import Room, SamplingBody, params_of
from pyroclast.server.service import Exchange, Reply
from pyroclast.server.sse import event

if TYPE_CHECKING:
    from pyroclast.engine.output import Completion


_FEW_TOKENS = 8192  # are checked within a step


class DrawBody(SamplingBody, kw_only=True):
    """n_prompt: how many of the context's tokens are the prompt, for penalties; null is all."""

    n_prompt: Annotated[int, Meta(ge=0)] | None = None


class TraceBody(DrawBody, kw_only=True):
    """top: how many tokens to follow."""

    top: Annotated[int, Meta(ge=1, le=200)] = 20


class RedrawBody(DrawBody, kw_only=True):
    """n: how many draws."""

    n: Annotated[int, Meta(ge=1, le=MAX_REDRAWS)] = 200


class GenerateBody(DrawBody, kw_only=True):
    """max_tokens: of the answer, or of what follows the tokens of it that are there."""

    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = 128


async def trace(room: Room, exchange: Exchange) -> Reply:
    """Every stage between the logits and the token."""
    body = exchange.body(TraceBody)
    context, params = body.context(), params_of(body.params)
    return exchange.json(
        await room.view(
            exchange,
            body,
            lambda llm, adapter: lens.trace(
                llm, context, params, n_top=body.top, n_prompt=body.n_prompt, adapter=adapter
            ),
        )
    )


async def redraw(room: Room, exchange: Exchange) -> Reply:
    """The next token many times, each with its own random number."""
    body = exchange.body(RedrawBody)
    context, params = body.context(), params_of(body.params)
    found = await room.view(
        exchange,
        body,
        lambda llm, adapter: lens.redraw(
            llm, context, params, body.n, n_prompt=body.n_prompt, adapter=adapter
        ),
    )
    return exchange.json(answers.redraw_json(found))


async def generate(room: Room, exchange: Exchange) -> Reply:
    """The answer, an event for each token."""
    body = exchange.body(GenerateBody)
    context, params = body.context(), params_of(body.params)
    served = exchange.served(body.model)
    if body.token_ids is not None and len(body.token_ids) <= _FEW_TOKENS:
        ids = some_ids_of(served.llm.llm, context)  # so a fork waits for no view of others
    else:
        ids = await room.view(exchange, body, lambda llm, _: some_ids_of(llm, context))
    n_answered = len(ids) - prompt_length(body.n_prompt, len(ids))
    watcher = Watcher(served.tokenizer, len(ids))
    params = watched(params, len(ids), served.max_model_len, body.max_tokens)
    params = params.replace(logits_processors=(watcher,))
    generation = await exchange.generate(
        served, [ids], [params], structure="params", n_answered=n_answered
    )
    return exchange.events(_events(generation, watcher), generation)


async def _events(generation: Generation, watcher: Watcher) -> AsyncGenerator[bytes, None]:
    async for _, chunk in generation.chunks():
        for step in watcher.steps(chunk):
            yield event(step)
        if chunk.completion is not None:
            yield event(_end(chunk.completion))


def _end(completion: Completion) -> dict[str, Any]:
    return {
        "done": True,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "seed": completion.seed,
        "timings": asdict(completion.timings),
    }
