"""Two settings on the same random numbers: two texts, and how far the distributions are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyroclast.engine.read_request import ReadRequest
from pyroclast.errors import RequestError
from pyroclast.lens.choice import Floats
from pyroclast.lens.deadline import Deadline
from pyroclast.lens.text import Context, Piece, pieces, some_ids_of
from pyroclast.lens.writing import watched
from pyroclast.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pyroclast.llm import LLM

MAX_TOKENS = 256
_ROW_BYTES = 64 << 20  # of the logits that are there at a time


@dataclass(frozen=True, slots=True)
class Setting:
    """One side of a comparison."""

    llm: LLM
    params: SamplingParams = field(default_factory=SamplingParams)
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """a, b: the tokens of the two texts.  first_difference: the first place where they differ, None
    where they do not.  kl float64 (len(a),): KL(a || b) in nats at each token of a's text, both
    models having read a's tokens.  Each distribution is the model's at its own temperature (at 1 if
    that is 0), without cuts and penalties."""

    a: tuple[Piece, ...]
    b: tuple[Piece, ...]
    first_difference: int | None
    kl: NDArray[np.float64]
    seed: int


def compare(
    a: Setting,
    b: Setting,
    context: Context,
    *,
    max_tokens: int = 64,
    deadline: Deadline | None = None,
) -> Compared:
    """Two texts after one context.  b draws with a's seed unless it has its own; RequestError where
    the models read the context differently, or where it takes longer than the deadline allows,
    PyroclastError where somebody stops it."""
    deadline = deadline or Deadline()
    deadline.begin()
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise RequestError(f"max_tokens must be 1 to {MAX_TOKENS}, got {max_tokens}")
    ids = some_ids_of(a.llm, context)
    if a.llm is not b.llm and (
        some_ids_of(b.llm, context) != ids or a.llm.vocab_size != b.llm.vocab_size
    ):
        raise RequestError(
            f"{a.llm.name!r} and {b.llm.name!r} have different vocabularies; compare models of one"
        )
    seed = a.params.fixed_seed()
    sides = []
    for side in (a, b):
        own = side.params.seed
        params = side.params.replace(seed=seed if own is None else own)
        params = watched(params, len(ids), side.llm.max_seq_len, max_tokens)
        sides.append(replace(side, params=params))
    if a.llm is b.llm:  # in the same steps, which changes no bit and takes half as long
        first, second = _texts(sides, ids, deadline)
    else:
        first, second = (_texts([side], ids, deadline)[0] for side in sides)
    return Compared(
        pieces(a.llm, first),
        pieces(b.llm, second),
        _first_difference(first, second),
        _divergences(a, b, ids, first, deadline),
        seed,
    )


def divergence(a: Floats, b: Floats, heat_a: float = 1.0, heat_b: float = 1.0) -> float:
    """KL(softmax(a / heat_a) || softmax(b / heat_b)) in nats, of logits (vocab_size,)."""
    log_p, p = _logs(a, heat_a)
    log_q, _ = _logs(b, heat_b)
    some = p > 0
    if not some.all():
        log_p, log_q, p = log_p[some], log_q[some], p[some]
    found = float((p * (log_p - log_q)).sum())
    return max(found, 0.0)  # rounding may leave less than nothing of equal distributions


def _logs(logits: Floats, heat: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(log p, p) of softmax(logits / heat)."""
    z = logits.astype(np.float64) / heat
    z -= z.max()
    p = np.exp(z)
    total = p.sum()
    return z - np.log(total), p / total


def _texts(sides: Sequence[Setting], ids: list[int], deadline: Deadline) -> list[list[int]]:
    """What each side of one model answers."""
    llm = sides[0].llm
    call = llm._call([side.adapter for side in sides])  # noqa: SLF001 - a face of the LLM
    requests = llm._intake.generate_requests(  # noqa: SLF001
        [ids] * len(sides), [side.params for side in sides], call, continues_text=True
    )
    with deadline.ends(llm._loop, call):  # noqa: SLF001
        llm._loop.complete(call, requests, progress=False)  # noqa: SLF001
    return [list(request.completion().token_ids) for request in requests]


def _temperature(side: Setting) -> float:
    return 1.0 if side.params.greedy else side.params.temperature


def _divergences(
    a: Setting, b: Setting, before: Sequence[int], text: Sequence[int], deadline: Deadline
) -> NDArray[np.float64]:
    """KL(a || b) at each token of `text`, read in pieces whose logits take at most _ROW_BYTES."""
    same = a.llm is b.llm and a.adapter == b.adapter
    n = max(1, _ROW_BYTES // (4 * a.llm.vocab_size * (1 if same else 2)))
    found: list[float] = []
    for first in range(0, len(text), n):
        ids = [*before, *text[: min(first + n, len(text)) - 1]]
        start = len(before) - 1 + first
        rows_a = _rows(a, ids, start, deadline)
        rows_b = rows_a if same else _rows(b, ids, start, deadline)
        deadline.check()
        found += [
            divergence(x, y, _temperature(a), _temperature(b))
            for x, y in zip(rows_a, rows_b, strict=True)
        ]
    return np.array(found, np.float64)


def _rows(side: Setting, token_ids: list[int], start: int, deadline: Deadline) -> Floats:
    """float32 (len(token_ids) - start, vocab_size): the logits after each token from `start` on.
    The prefix cache serves what it holds of those before."""
    llm = side.llm
    call = llm._call(side.adapter)  # noqa: SLF001 - the lens is a face of the LLM
    found = np.empty((len(token_ids) - start, llm.vocab_size), np.float32)

    def keep(first: int, rows: Floats) -> None:
        skipped = max(0, start - first)
        at = first + skipped - start
        found[at : at + len(rows) - skipped] = rows[skipped:]

    root = llm._intake.root(call)  # noqa: SLF001
    request = ReadRequest(token_ids, call, first_row=start, on_rows=keep, root=root)
    with deadline.ends(llm._loop, call):  # noqa: SLF001
        llm._loop.complete(call, [request], progress=False)  # noqa: SLF001
    return found


def _first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    if list(a) == list(b):
        return None
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
