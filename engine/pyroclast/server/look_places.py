"""POST /look/api/neighbours, analogy, map, sentences: meaning as place."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from pyroclast import lens
from pyroclast.errors import RequestError
from pyroclast.lens.answers import piece_json
from pyroclast.lens.places import MAX_K, MAX_SENTENCES, MAX_WORDS
from pyroclast.lens.vectors import ids_of_word
from pyroclast.llm import LLM
from pyroclast.server.errors import HttpError
from pyroclast.server.look_inside import Word
from pyroclast.server.look_room import ModelBody, Room, TokenId
from pyroclast.server.service import Exchange, Reply

_K = Annotated[int, Meta(ge=1, le=MAX_K)]
_Sentence = Annotated[str, Meta(max_length=10_000)]


class NeighboursBody(ModelBody, kw_only=True):
    """A token id, or a word, of which the first token counts; and how many neighbours."""

    token: TokenId | None = None
    word: Word | None = None
    k: _K = 20


class AnalogyBody(ModelBody, kw_only=True):
    """Words: a - b + c.  expected: the word whose rank is wanted."""

    a: Word
    b: Word
    c: Word
    k: _K = 20
    expected: Word | None = None


class MapBody(ModelBody, kw_only=True):
    """The words of a map."""

    words: Annotated[list[Word], Meta(max_length=MAX_WORDS)]


class SentencesBody(ModelBody, kw_only=True):
    """The texts to compare."""

    texts: Annotated[list[_Sentence], Meta(max_length=MAX_SENTENCES)]


async def neighbours(room: Room, exchange: Exchange) -> Reply:
    """The tokens whose vectors are nearest, and the pieces of the word."""
    body = exchange.body(NeighboursBody)
    if (body.token is None) == (body.word is None):
        raise HttpError(400, "give exactly one of token and word", param="token")

    def work(llm: LLM, _: str | None) -> dict[str, Any]:
        ids = ids_of_word(llm, body.word or "") if body.token is None else [body.token]
        if not ids:
            raise RequestError("this word is no text to the model; give another")
        pieces = [piece_json(each) for each in lens.pieces(llm, ids)]
        return {"rows": lens.neighbours(llm, ids[0], body.k), "pieces": pieces}

    return exchange.json(await room.view(exchange, body, work))


async def analogy(room: Room, exchange: Exchange) -> Reply:
    """The tokens nearest to a - b + c."""
    body = exchange.body(AnalogyBody)
    return exchange.json(
        await room.view(
            exchange,
            body,
            lambda llm, _: lens.analogy(
                llm, body.a, body.b, body.c, body.k, expected=body.expected
            ),
        )
    )


async def word_map(room: Room, exchange: Exchange) -> Reply:
    """Words on a plane."""
    body = exchange.body(MapBody)
    found = await room.view(exchange, body, lambda llm, _: lens.word_map(llm, body.words))
    rows = zip(found.words, found.points.tolist(), strict=True)
    points = [{"word": word, "x": x, "y": y} for word, (x, y) in rows]
    return exchange.json({"points": points, "explained": found.explained.tolist()})


async def sentences(room: Room, exchange: Exchange) -> Reply:
    """How alike texts are."""
    body = exchange.body(SentencesBody)

    def work(llm: LLM, adapter: str | None) -> dict[str, Any]:
        found = lens.sentences(llm, body.texts, adapter=adapter)
        return {
            "similarity": found.similarity.tolist(),
            "points": [{"x": x, "y": y} for x, y in found.points.tolist()],
            "explained": found.explained.tolist(),
        }

    return exchange.json(await room.view(exchange, body, work))
