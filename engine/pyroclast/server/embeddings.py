"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from pyroclast.errors import PyroclastError
from pyroclast.server.completions import as_prompts
from pyroclast.server.errors import HttpError, of_exception
from pyroclast.server.served import Served
from pyroclast.server.service import Exchange, Reply


class EmbeddingsRequest(Struct, kw_only=True):
    """The body of an embeddings request."""

    input: str | list[Any]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    normalize: bool = True
    pooling: Literal["mean", "last"] = "mean"
    priority: int | None = None
    user: str | None = None


async def embeddings(exchange: Exchange) -> Reply:
    """A vector for each text."""
    body = exchange.body(EmbeddingsRequest)
    served = exchange.served(body.model)
    if not served.llm.llm.embeddings:
        raise HttpError(
            400, "this server was started without --embeddings", code="embeddings_disabled"
        )
    prompts = await _encode(served, as_prompts(body.input, "input"))
    try:
        vectors = await exchange.unless_gone(
            served.llm.embed(
                prompts,
                pooling=body.pooling,
                normalize=body.normalize,
                dimensions=body.dimensions,
                adapter=served.adapter,
                priority=exchange.priority,
            )
        )
    except PyroclastError as error:
        refused = of_exception(error)
        if refused.message.startswith("dimensions "):
            refused.param = "dimensions"
        raise refused from error
    data = [
        {"object": "embedding", "index": i, "embedding": _encoded(vector, body.encoding_format)}
        for i, vector in enumerate(vectors)
    ]
    n_tokens = sum(map(len, prompts))
    return exchange.json(
        {
            "object": "list",
            "data": data,
            "model": body.model or served.name,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    )


async def _encode(served: Served, prompts: list[str | list[int]]) -> list[list[int]]:
    found = await served.encode_prompts(prompts)
    for ids in found:
        if not ids:
            raise HttpError(400, "a text has no tokens", param="input")
        served.check_prompt(ids, "input")
    return found


def _encoded(vector: NDArray[np.float32], form: str) -> list[float] | str:
    """Numbers, or the bytes of little-endian float32 in base64, which OpenAI's client asks for."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
