"""POST /look/api/attention, movement, rotation, layers: where the model looks, layer by layer."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from pyroclast import lens
from pyroclast.lens.about import MAX_BYTES_ATTENTION
from pyroclast.lens.answers import as_base64, piece_json
from pyroclast.lens.depth import MAX_K
from pyroclast.lens.looks import MAX_WORDS
from pyroclast.llm import LLM
from pyroclast.server.look_room import ContextBody, ModelBody, Room
from pyroclast.server.service import Exchange, Reply

MAX_DISTANCES = 1024
Word = Annotated[str, Meta(max_length=200)]


class AttentionBody(ContextBody, kw_only=True):
    """layers and heads choose; null is all.  mean: only the mean over the heads."""

    layers: list[int] | None = None
    heads: list[int] | None = None
    mean: bool = False


class TokenIn(Struct, kw_only=True):
    """One token of a text: its index, negative from the end."""

    text: str | None = None
    token_ids: list[int] | None = None
    index: int = -1

    def placed(self) -> tuple[Any, int]:
        """The context and the index."""
        return ContextBody(text=self.text, token_ids=self.token_ids).context(), self.index


class MovementBody(ModelBody, kw_only=True):
    """Two tokens in their texts, and the words that they may move to."""

    a: TokenIn
    b: TokenIn
    words: Annotated[list[Word], Meta(min_length=1, max_length=MAX_WORDS)]


class RotationBody(ModelBody, kw_only=True):
    """pair: one pair of dimensions; null is every one.  layer: null is the first that rotates."""

    distances: Annotated[
        list[Annotated[int, Meta(ge=0, le=1 << 30)]], Meta(min_length=1, max_length=MAX_DISTANCES)
    ]
    pair: int | None = None
    layer: int | None = None


class LayersBody(ContextBody, kw_only=True):
    """position: the token after which the model is asked; k: how many candidates of each layer."""

    position: int = -1
    k: Annotated[int, Meta(ge=1, le=MAX_K)] = 10


async def attention(room: Room, exchange: Exchange) -> Reply:
    """Attention by layer and head."""
    body = exchange.body(AttentionBody)
    context = body.context()

    def work(llm: LLM, adapter: str | None) -> dict[str, Any]:
        found = lens.attention(
            llm,
            context,
            layers=body.layers,
            heads=body.heads,
            mean=body.mean,
            max_bytes=MAX_BYTES_ATTENTION,
            adapter=adapter,
        )
        return {
            "pieces": [piece_json(each) for each in found.pieces],
            "layers": found.layers,
            "heads": found.heads,
            "shape": found.weights.shape,
            "weights_b64": as_base64(found.weights),
            "mean": found.is_mean,
        }

    return exchange.json(await room.view(exchange, body, work))


async def movement(room: Room, exchange: Exchange) -> Reply:
    """How a token's vector moves towards words, in two texts."""
    body = exchange.body(MovementBody)
    a, b = body.a.placed(), body.b.placed()

    def work(llm: LLM, adapter: str | None) -> dict[str, Any]:
        found = lens.movement(llm, a, b, body.words, adapter=adapter)
        return {
            "words": found.words,
            "tokens": [piece_json(each) for each in found.tokens],
            "cosines": found.cosines.tolist(),
        }

    return exchange.json(await room.view(exchange, body, work))


async def rotation(room: Room, exchange: Exchange) -> Reply:
    """The rotation of pairs of dimensions by distance."""
    body = exchange.body(RotationBody)

    def work(llm: LLM, _: str | None) -> dict[str, Any]:
        found = lens.rotation(llm, body.distances, pair=body.pair, layer=body.layer)
        return {
            "pairs": found.pairs,
            "distances": found.distances,
            "angles": found.angles.tolist(),
            "turns": found.turns.tolist(),
        }

    return exchange.json(await room.view(exchange, body, work))


async def layers(room: Room, exchange: Exchange) -> Reply:
    """What the model would say after each layer."""
    body = exchange.body(LayersBody)
    context = body.context()

    def work(llm: LLM, adapter: str | None) -> dict[str, Any]:
        found = lens.layers(llm, context, position=body.position, k=body.k, adapter=adapter)
        return {
            "position": found.position,
            "piece": piece_json(found.piece),
            "final": piece_json(found.final),
            "rows": found.rows,
        }

    return exchange.json(await room.view(exchange, body, work))
