"""Every endpoint with its path, the type of its body and a line for the documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from pyroclast.server import anthropic, chat, completions, embeddings, info, responses, tokens
from pyroclast.server.service import Exchange, Reply

Endpoint = Callable[[Exchange], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint.  generates: it takes engine time, and is refused while the server drains."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    body: type[msgspec.Struct] | None = None
    generates: bool = False


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/chat/completions",
        chat.chat_completions,
        "The next message of a conversation.",
        chat.ChatRequest,
        generates=True,
    ),
    Route(
        "POST",
        "/v1/completions",
        completions.completions,
        "What follows a text.",
        completions.CompletionRequest,
        generates=True,
    ),
    Route(
        "POST",
        "/v1/responses",
        responses.responses,
        "The next items of a conversation; stateless.",
        responses.ResponsesRequest,
        generates=True,
    ),
    Route(
        "POST",
        "/v1/messages",
        anthropic.messages,
        "The next message of a conversation, as Anthropic's API has it.",
        anthropic.MessagesRequest,
        generates=True,
    ),
    Route(
        "POST",
        "/v1/messages/count_tokens",
        anthropic.count_tokens,
        "How many tokens a conversation has.",
        anthropic.CountRequest,
    ),
    Route(
        "POST",
        "/v1/embeddings",
        embeddings.embeddings,
        "A vector for each text.",
        embeddings.EmbeddingsRequest,
        generates=True,
    ),
    Route("GET", "/v1/models", info.models, "The models of this server."),
    Route(
        "POST",
        "/tokenize",
        tokens.tokenize,
        "Text or messages to token ids.",
        tokens.TokenizeRequest,
    ),
    Route("POST", "/detokenize", tokens.detokenize, "Token ids to text.", tokens.DetokenizeRequest),
    Route(
        "POST",
        "/apply-template",
        tokens.apply_template,
        "Messages to the prompt as text.",
        tokens.TemplateRequest,
    ),
    Route("GET", "/tokenizer_info", tokens.tokenizer_info, "Names of special tokens, and more."),
    Route("GET", "/health", info.health, "Whether the server lives."),
    Route("GET", "/version", info.version, "Pyroclast's version."),
)


def openapi(version: str) -> dict[str, Any]:
    """The OpenAPI document, made from the types that check the bodies."""
    bodies = [route.body for route in ROUTES if route.body is not None]
    _, schemas = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    schemas["Error"] = _ERROR
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


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _operation(route: Route) -> dict[str, Any]:
    answer = {"description": "The answer.", "content": {"application/json": {"schema": {}}}}
    if route.generates:
        answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}  # type: ignore[index]
    refusal = {
        "description": "A refusal that says why.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.endpoint.__name__,
        "responses": {"200": answer, "4XX": refusal, "503": refusal},
    }
    if route.body is not None:
        schema = {"$ref": f"#/components/schemas/{route.body.__name__}"}
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return found
