"""Layer by layer: what the model would say if it stopped here, and what each part changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyroclast.errors import RequestError
from pyroclast.lens.choice import Candidate, candidates, entropy_of
from pyroclast.lens.inside import heads, inspected
from pyroclast.lens.looks import check_length, position_of
from pyroclast.lens.text import Context, Piece, pieces, some_ids_of
from pyroclast_kernels.sample.reference import log_softmax

if TYPE_CHECKING:
    from pyroclast.llm import LLM

MAX_K = 50


@dataclass(frozen=True, slots=True)
class LayerView:
    """After one layer, or before the first (layer -1, where nothing was added).

    top: what the final norm and the output head make of the state, most likely first; entropy in
    nats.  norm_attention and norm_feed_forward: the lengths of what these parts added to the state.
    effect_attention and effect_feed_forward: how much each changed the logit of the token that is
    the most likely one in the end, read in the same way before and after the part."""

    layer: int
    top: tuple[Candidate, ...]
    entropy: float
    norm_attention: float
    norm_feed_forward: float
    effect_attention: float
    effect_feed_forward: float


@dataclass(frozen=True, slots=True)
class Layers:
    """The views from the embedding to the last layer, after one position of the context.  piece:
    the token there.  final: the token that the whole model finds most likely."""

    position: int
    piece: Piece
    final: Piece
    rows: tuple[LayerView, ...]


def layers(
    llm: LLM,
    context: Context,
    *,
    position: int = -1,
    k: int = 10,
    adapter: str | None = None,
) -> Layers:
    """What the model would say after each layer about the token that follows `position`."""
    if not 1 <= k <= MAX_K:
        raise RequestError(f"k must be 1 to {MAX_K}, got {k}")
    ids = some_ids_of(llm, context)
    check_length(len(ids))
    at = position_of(position, len(ids))
    seen = inspected(llm, ids[: at + 1], positions=[at], attention=False, adapter=adapter)
    parts = [s for layer in seen.layers.values() for s in (layer.between_parts, layer.state)]
    logits = heads(llm, np.concatenate([seen.embedding, *parts]))
    final = int(np.argmax(logits[-1]))
    # The embedding, then of each layer the state between its parts and after it.
    gains = np.diff(logits[:, final].astype(np.float64)).reshape(-1, 2)
    rows = []
    for i in range(len(seen.layers) + 1):
        added = None if i == 0 else seen.layers[i - 1]
        own = logits[2 * i]
        log_p = log_softmax(own)
        rows.append(
            LayerView(
                layer=i - 1,
                top=candidates(llm.tokenizer, own, k, log_p),
                entropy=entropy_of(log_p),
                norm_attention=0.0 if added is None else _length(added.from_attention),
                norm_feed_forward=0.0 if added is None else _length(added.from_feed_forward),
                effect_attention=0.0 if added is None else float(gains[i - 1, 0]),
                effect_feed_forward=0.0 if added is None else float(gains[i - 1, 1]),
            )
        )
    return Layers(at, pieces(llm, [ids[at]])[0], pieces(llm, [final])[0], tuple(rows))


def _length(vectors: np.ndarray) -> float:
    return float(np.linalg.norm(vectors[0].astype(np.float64)))
