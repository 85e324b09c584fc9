"""GET endpoints about the server itself: models, health, version, metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyroclast
from pyroclast.server.served import Served
from pyroclast.server.service import Exchange, Reply


async def models(exchange: Exchange) -> Reply:
    """Every model.  OpenAI's and Anthropic's fields, vLLM's max_model_len, llama-server's meta and
    Codex's list."""
    data = [_model_json(served) for served in exchange.models.all]
    slugs = [{"slug": each["id"], "name": each["id"]} for each in data]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"], "has_more": False}
    return exchange.json({"object": "list", "data": data, "models": slugs} | ends)


async def model(exchange: Exchange, name: str) -> Reply:
    """One model by name."""
    return exchange.json(_model_json(exchange.served(name)))


async def version(exchange: Exchange) -> Reply:
    """{"version": ...}."""
    return exchange.json({"version": pyroclast.__version__})


async def health(exchange: Exchange) -> Reply:
    """Whether the server lives."""
    return exchange.json({"status": "ok"})


def _model_json(served: Served) -> dict[str, Any]:
    model = served.llm.llm.model
    return {
        "id": served.name,
        "object": "model",
        "type": "model",
        "display_name": served.name,
        "created": served.created,
        "created_at": datetime.fromtimestamp(served.created, UTC).isoformat(),
        "owned_by": "pyroclast",
        "root": served.parent or served.name,
        "parent": served.parent,
        "max_model_len": served.max_model_len,
        "meta": {
            "n_ctx_train": served.max_model_len,
            "n_vocab": served.vocab_size,
            "size": model.weight_bytes,
        },
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    }
