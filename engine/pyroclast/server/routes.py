"""Every endpoint with its path, the type of its body and a line for the documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from pyroclast.server import (
    anthropic,
    chat,
    completions,
    embeddings,
    info,
    replies,
    response_reply,
    responses,
    tokens,
)
from pyroclast.server.responses_in import ResponsesRequest
from pyroclast.server.service import Exchange, Reply

Endpoint = Callable[[Exchange], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint.  generates: it takes engine time, and is refused while the server drains."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    reply: type[msgspec.Struct]
    body: type[msgspec.Struct] | None = None
    generates: bool = False


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/chat/completions",
        chat.chat_completions,
        "The next message of a conversation.",
        replies.ChatReply,
        chat.ChatRequest,
        generates=True,
    ),
    Route(
        "POST",
        "/v1/completions",
        completions.completions,
        "What follows a text.",
        replies.TextReply,
        completions.CompletionRequest,
        generates=True,
    ),
    Route(
        "POST",
        "/v1/responses",
        responses.responses,
        "The next items of a conversation; stateless.",
        response_reply.ResponseReply,
        ResponsesRequest,
        generates=True,
    ),
    Route(
        "POST",
        "/v1/responses/input_tokens",
        responses.input_tokens,
        "How many tokens an input has.",
        response_reply.InputTokensReply,
        ResponsesRequest,
    ),
    Route(
        "POST",
        "/v1/messages",
        anthropic.messages,
        "The next message of a conversation, as Anthropic's API has it.",
        replies.MessagesReply,
        anthropic.MessagesRequest,
        generates=True,
    ),
    Route(
        "POST",
        "/v1/messages/count_tokens",
        anthropic.count_tokens,
        "How many tokens a conversation has.",
        replies.CountReply,
        anthropic.CountRequest,
    ),
    Route(
        "POST",
        "/v1/embeddings",
        embeddings.embeddings,
        "A vector for each text.",
        replies.EmbeddingsReply,
        embeddings.EmbeddingsRequest,
        generates=True,
    ),
    Route("GET", "/v1/models", info.models, "The models of this server.", replies.ModelsReply),
    Route(
        "POST",
        "/tokenize",
        tokens.tokenize,
        "Text or messages to token ids.",
        replies.TokenizeReply,
        tokens.TokenizeRequest,
    ),
    Route(
        "POST",
        "/detokenize",
        tokens.detokenize,
        "Token ids to text.",
        replies.DetokenizeReply,
        tokens.DetokenizeRequest,
    ),
    Route(
        "POST",
        "/apply-template",
        tokens.apply_template,
        "Messages to the prompt as text.",
        replies.TemplateReply,
        tokens.TemplateRequest,
    ),
    Route(
        "GET",
        "/tokenizer_info",
        tokens.tokenizer_info,
        "Names of special tokens, and more.",
        replies.TokenizerReply,
    ),
    Route("GET", "/health", info.health, "Whether the server lives.", replies.HealthReply),
    Route("GET", "/version", info.version, "Pyroclast's version.", replies.VersionReply),
)


def openapi(version: str) -> dict[str, Any]:
    """The OpenAPI document, made from the types that check the bodies."""
    types = [replies.ErrorReply, *(route.reply for route in ROUTES)]
    types += [route.body for route in ROUTES if route.body is not None]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pyroclast", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    answer: dict[str, Any] = {"application/json": {"schema": _ref(route.reply)}}
    if route.generates and route.path != "/v1/embeddings":
        answer["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": _ref(replies.ErrorReply)}}
    refusal = {"description": "A refusal that says why.", "content": error}
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.endpoint.__name__,
        "responses": {
            "200": {"description": route.reply.__doc__, "content": answer},
            **dict.fromkeys(("4XX", "500", "503"), refusal),
        },
    }
    if route.body is not None:
        schema = _ref(route.body)
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return found


def _ref(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
