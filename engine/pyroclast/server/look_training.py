"""POST /look/api/training: a run's curve, and how P(next) moved with it."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pyroclast import lens
from pyroclast.lens.runs import MAX_CHECKPOINTS
from pyroclast.server.errors import HttpError
from pyroclast.server.look_room import ModelBody, Room
from pyroclast.server.service import Exchange, Reply


class TrainingBody(ModelBody, kw_only=True):
    """run: one of the names in meta.  text: the context whose distribution is wanted, too."""

    run: str
    text: Annotated[str, Meta(max_length=2000)] | None = None
    n_steps: Annotated[int, Meta(ge=1, le=MAX_CHECKPOINTS)] = MAX_CHECKPOINTS


async def training(room: Room, exchange: Exchange) -> Reply:
    """The loss curve of a run, its samples, and P(next) by step."""
    body = exchange.body(TrainingBody)
    runs = lens.training_runs(room.training) if room.training is not None else {}
    if body.run not in runs:
        known = ", ".join(runs) or "none; start the server with --training DIR"
        raise HttpError(404, f"there is no run {body.run!r:.80}; there is: {known}", param="run")
    path = runs[body.run]
    return exchange.json(await room.view(exchange, body, lambda *_: _work(path, body)))


def _work(path: Any, body: TrainingBody) -> dict[str, Any]:
    found = lens.training(path)
    reply: dict[str, Any] = {
        "run": body.run,
        "steps": found.steps.tolist(),
        "loss": found.loss.tolist(),
        "tokens_per_s": _listed(found.speed),
        "samples": [{"step": step, "text": text} for step, text in found.samples],
        "checkpoints": found.checkpoints,
        "learning": None,
    }
    if body.text is not None:
        learnt = lens.learning(path, body.text, n_steps=body.n_steps)
        reply["learning"] = {
            "steps": learnt.steps,
            "tokens": [{"id": i, "text": text} for i, text in learnt.tokens],
            "p": learnt.p.tolist(),
            "entropy": learnt.entropy.tolist(),
        }
    return reply


def _listed(values: NDArray[np.float64]) -> list[float | None]:
    """JSON has no NaN."""
    return [None if np.isnan(value) else value for value in values.tolist()]
