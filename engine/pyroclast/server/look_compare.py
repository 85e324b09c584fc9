"""POST /look/api/compare: two settings on the same random numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta, Struct, field, structs

from pyroclast import lens
from pyroclast.lens import answers, versus
from pyroclast.lens.text import Context
from pyroclast.sampling.params import SamplingParams
from pyroclast.server.errors import HttpError
from pyroclast.server.look_room import ContextBody, Room, params_of
from pyroclast.server.service import Exchange, Reply

# Rules may choose kernels that are a thousand times slower.
_TIMEOUT_S = 60.0


class VariantIn(Struct, kw_only=True):
    """A second engine of the side's model: the fields of lens.Variant."""

    weights: Annotated[str, Meta(max_length=40)] | None = None
    kv_dtype: Annotated[str, Meta(max_length=40)] | None = None
    compute: Annotated[str, Meta(max_length=40)] | None = None
    kernels: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None


class SideIn(Struct, kw_only=True):
    """One side of a comparison: a model, what is different about it, and the fields of
    SamplingParams."""

    model: str | None = None
    variant: VariantIn | None = None
    params: dict[str, Any] = field(default_factory=dict)


class CompareBody(ContextBody, kw_only=True):
    """Two settings on the same random numbers."""

    a: SideIn = field(default_factory=SideIn)
    b: SideIn = field(default_factory=SideIn)
    max_tokens: Annotated[int, Meta(ge=1, le=versus.MAX_TOKENS)] = 64


async def compare(room: Room, exchange: Exchange) -> Reply:
    """Two texts, and how far their distributions are apart at each token."""
    body = exchange.body(CompareBody)
    context = body.context()
    sides, changed = _sides(exchange, body), _changed(body)
    deadline = lens.Deadline(_TIMEOUT_S)

    def plain(*_: Any) -> dict[str, Any]:
        return _compared(sides, context, body.max_tokens, deadline)

    def varied() -> dict[str, Any]:
        [(i, change)] = changed
        with room.variants.lent(sides[i].llm, change) as other:
            sides[i] = replace(sides[i], llm=other)
            return plain()

    try:
        if changed:
            return exchange.json(await exchange.unless_gone(room.variants.run(varied)))
        return exchange.json(await room.view(exchange, body, plain))
    finally:
        deadline.stop()  # the thread would work for nobody once the client has left


def _sides(exchange: Exchange, body: CompareBody) -> list[lens.Setting]:
    sides = []
    for side in (body.a, body.b):
        served = exchange.served(side.model or body.model)
        params = SamplingParams.from_dict(side.params)
        sides.append(lens.Setting(served.llm.llm, params, served.adapter))
    sides[0] = replace(sides[0], params=params_of(body.a.params))
    return sides


def _changed(body: CompareBody) -> list[tuple[int, lens.Variant]]:
    """The side that is a variant, and which, if there is one."""
    changed = [
        (i, lens.Variant(**structs.asdict(side.variant)))
        for i, side in enumerate((body.a, body.b))
        if side.variant is not None
    ]
    if len(changed) > 1:
        raise HttpError(
            400, "only one side can be a variant; compare it with the model itself", param="variant"
        )
    return changed


def _compared(
    sides: list[lens.Setting], context: Context, max_tokens: int, deadline: lens.Deadline
) -> dict[str, Any]:
    a, b = sides
    found = lens.compare(a, b, context, max_tokens=max_tokens, deadline=deadline)
    return {
        "a": [answers.piece_json(each) for each in found.a],
        "b": [answers.piece_json(each) for each in found.b],
        "first_difference": found.first_difference,
        "kl": found.kl.tolist(),
        "seed": found.seed,
    }
