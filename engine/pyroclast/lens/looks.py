"""Where a model looks: attention by layer and head, a word's way through the layers, rotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import ContextOverflowError, RequestError
from pyroclast.lens.about import MAX_TOKENS_ATTENTION
from pyroclast.lens.choice import Floats
from pyroclast.lens.inside import attention_of, inspected, model_of
from pyroclast.lens.text import Context, Piece, pieces, some_ids_of
from pyroclast.lens.vectors import cosines, vectors_of

if TYPE_CHECKING:
    from pyroclast.llm import LLM

MAX_WORDS = 200
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Attention:
    """pieces: the n tokens.  weights float32 (len(layers), len(heads), n, n): row q says how much
    the query takes of each position, 0 for those it does not see.  With is_mean there is one head,
    the mean over `heads`."""

    pieces: tuple[Piece, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    weights: Floats
    is_mean: bool


@dataclass(frozen=True, slots=True)
class Movement:
    """Cosines float64 (2, n_layers + 1, n_words) between the state of a token, in two contexts,
    and the embedding of each word: before the first layer, and after each.  tokens: the pieces."""

    words: tuple[str, ...]
    tokens: tuple[Piece, Piece]
    cosines: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rotation:
    """angles float64 (len(pairs), len(distances)), in radians: how far a pair of dimensions of a
    query is rotated against that of a key so many positions before it.  turns: the distance after
    which a pair has rotated once, inf where it never does."""

    pairs: tuple[int, ...]
    distances: tuple[int, ...]
    angles: NDArray[np.float64]
    turns: NDArray[np.float64]


def attention(
    llm: LLM,
    context: Context,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    mean: bool = False,
    max_bytes: int | None = None,
    adapter: str | None = None,
) -> Attention:
    """The probabilities of attention, exactly those that the kernels computed.  layers and heads
    choose; None is all that there are.  max_bytes bounds the weights; RequestError where they need
    more, or where those of all heads are more than MAX_BYTES."""
    ids = some_ids_of(llm, context)
    check_length(len(ids))
    model = model_of(llm)
    attends = attention_of(model)
    layers = chosen("layers", list(attends) if layers is None else layers, model.config.n_layers)
    counts = {attends[i]["n_heads"] if i in attends else 0 for i in layers}
    if len(counts) > 1 or counts == {0}:
        raise RequestError(
            f"these layers have {' and '.join(map(str, sorted(counts)))} heads; choose layers "
            "of one kind"
        )
    n_heads = counts.pop()
    heads = chosen("heads", heads, n_heads)
    n_of_a_head = 4 * len(layers) * len(ids) ** 2
    _check_bytes(n_of_a_head * n_heads, MAX_BYTES, "layers")
    if max_bytes is not None:
        remedy = "layers or heads, the mean over heads"
        _check_bytes(n_of_a_head * (1 if mean else len(heads)), max_bytes, remedy)
    found = inspected(llm, ids, layers=layers, adapter=adapter)
    probs = [found.layers[i].probs[list(heads)] for i in layers]
    weights = np.stack([p.mean(axis=0, keepdims=True) if mean else p for p in probs])
    return Attention(pieces(llm, ids), layers, heads, weights, mean)


def movement(
    llm: LLM,
    a: tuple[Context, int],
    b: tuple[Context, int],
    words: Sequence[str],
    *,
    adapter: str | None = None,
) -> Movement:
    """How a token's vector moves towards chosen words, in two contexts: ("... bank", -1) beside the
    river and with money.  A context comes with the index of the token in it."""
    if not 1 <= len(words) <= MAX_WORDS:
        raise RequestError(f"give 1 to {MAX_WORDS} words, got {len(words)}")
    towards = vectors_of(llm, words)
    found, tokens = [], []
    for context, index in (a, b):
        ids = some_ids_of(llm, context)
        at = position_of(index, len(ids))
        seen = inspected(llm, ids, positions=[at], attention=False, adapter=adapter)
        states = [seen.embedding[0], *(layer.state[0] for layer in seen.layers.values())]
        found.append(cosines(np.stack(states), towards))
        tokens.append(pieces(llm, [ids[at]])[0])
    return Movement(tuple(words), (tokens[0], tokens[1]), np.stack(found))


def rotation(
    llm: LLM, distances: Sequence[int], *, pair: int | None = None, layer: int | None = None
) -> Rotation:
    """How positions are told apart: the rotation of a pair of dimensions, or of every pair, by
    distance.  layer: None is the first that rotates.  RequestError for one whose heads do not."""
    calls = model_of(llm).program().calls
    rotates = [c for c in calls if c.kernel.op == "rope"]
    if layer is not None:
        [layer] = chosen("layers", [layer], model_of(llm).config.n_layers)
        rotates = [c for c in rotates if c.label == f"layer {layer}"]
    tables = [
        call.arguments["inv_freq"]
        for call in calls
        if call.kernel.op == "rope_table"
        and any(call.arguments["out"] is each.arguments["table"] for each in rotates[:1])
    ]
    if not tables:
        which = "this model" if layer is None else f"layer {layer}"
        raise RequestError(f"{which} rotates nothing: it learns positions, or has none")
    inv_freq = tables[0].astype(np.float64)
    pairs = chosen("pair", None if pair is None else [pair], len(inv_freq))
    frequencies = inv_freq[list(pairs)]
    angles = np.outer(frequencies, np.array(distances, np.float64))
    with np.errstate(divide="ignore"):
        turns = 2 * np.pi / frequencies
    return Rotation(pairs, tuple(distances), angles, turns)


def _check_bytes(n_bytes: int, most: int, remedy: str) -> None:
    if n_bytes > most:
        raise RequestError(
            f"the weights would have {n_bytes:,} bytes, at most {most:,} are allowed; choose "
            f"{remedy}, or a shorter text"
        )


def check_length(n_tokens: int) -> None:
    """ContextOverflowError for more tokens than a view of the whole inside takes."""
    if n_tokens > MAX_TOKENS_ATTENTION:
        raise ContextOverflowError(
            f"this view takes at most {MAX_TOKENS_ATTENTION} tokens, got {n_tokens}; "
            "shorten the text"
        )


def chosen(what: str, given: Sequence[int] | None, n: int) -> tuple[int, ...]:
    """The chosen numbers out of 0..n-1, each once; None is all."""
    numbers = tuple(range(n)) if given is None else tuple(sorted(set(given)))
    for number in numbers:
        if not 0 <= number < n:
            raise RequestError(f"{what} must be in 0..{n - 1}, got {number}")
    if not numbers:
        raise RequestError(f"{what} must name at least one of 0..{n - 1}")
    return numbers


def position_of(index: int, n_tokens: int) -> int:
    """The index of a token, negative ones from the end; RequestError where there is none."""
    if not -n_tokens <= index < n_tokens:
        raise RequestError(f"position must be in 0..{n_tokens - 1}, got {index}")
    return index % n_tokens
