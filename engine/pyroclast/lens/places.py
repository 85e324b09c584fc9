"""Meaning as place: neighbours of a token, analogies, maps of words, and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import RequestError
from pyroclast.lens.choice import Floats
from pyroclast.lens.text import check_ids, text_of
from pyroclast.lens.vectors import ids_of_word, over_rows, rows_of, unit, vectors_of

if TYPE_CHECKING:
    from pyroclast.llm import LLM

MAX_K, MAX_WORDS, MAX_SENTENCES = 200, 200, 32


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A token and the cosine of its vector to the one that was asked about."""

    id: int
    text: str
    cosine: float


@dataclass(frozen=True, slots=True)
class Analogy:
    """What lies nearest to a - b + c, those three left out.  rank: the place of the expected word
    among all tokens, 1 the nearest; None where none was expected."""

    rows: tuple[Neighbour, ...]
    rank: int | None


@dataclass(frozen=True, slots=True)
class WordMap:
    """points float64 (n_words, 2): the first two principal components.  explained (2,): the share
    of the variance that each holds."""

    words: tuple[str, ...]
    points: NDArray[np.float64]
    explained: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sentences:
    """similarity float64 (n, n): cosines of the texts' vectors.  points and explained as in
    WordMap."""

    similarity: NDArray[np.float64]
    points: NDArray[np.float64]
    explained: NDArray[np.float64]


def neighbours(llm: LLM, token: int, k: int = 20) -> tuple[Neighbour, ...]:
    """The k tokens whose input vectors point most nearly in the token's direction."""
    _check_k(k)
    check_ids(llm, [token])
    scores = _scores(llm, rows_of(llm, [token])[0])
    return _nearest(llm, scores, k, [token])


def analogy(
    llm: LLM, a: str, b: str, c: str, k: int = 20, *, expected: str | None = None
) -> Analogy:
    """The k tokens nearest to a - b + c (king - man + woman), of unit vectors."""
    _check_k(k)
    first, second, third = unit(vectors_of(llm, (a, b, c)))
    goal = first - second + third
    scores = _scores(llm, goal)
    taken = [i for word in (a, b, c) for i in ids_of_word(llm, word)]
    return Analogy(_nearest(llm, scores, k, taken), _rank(llm, scores, expected, taken))


def word_map(llm: LLM, words: Sequence[str]) -> WordMap:
    """Chosen words on a plane, by the principal components of their vectors."""
    if not 3 <= len(words) <= MAX_WORDS:
        raise RequestError(f"a map takes 3 to {MAX_WORDS} words, got {len(words)}")
    points, explained = plane(vectors_of(llm, words))
    return WordMap(tuple(words), points, explained)


def sentences(llm: LLM, texts: Sequence[str], *, adapter: str | None = None) -> Sentences:
    """How alike several texts are: `LLM.embed` of each, which wants LLM(..., embeddings=True)."""
    if not 2 <= len(texts) <= MAX_SENTENCES:
        raise RequestError(f"give 2 to {MAX_SENTENCES} texts to compare, got {len(texts)}")
    vectors = np.stack(llm.embed(list(texts), adapter=adapter, progress=False))
    points, explained = plane(vectors)
    return Sentences(unit(vectors) @ unit(vectors).T, points, explained)


def plane(vectors: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(points (n, 2), explained (2,)) by principal components.  The largest entry of each is
    positive, so that the same words give the same picture."""
    x = vectors.astype(np.float64)
    x -= x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    points = np.zeros((len(x), 2))
    n = min(2, len(s))
    points[:, :n] = u[:, :n] * s[:n]
    largest = np.take_along_axis(points, np.abs(points).argmax(axis=0)[None], axis=0)
    total = float((s**2).sum())
    explained = np.zeros(2)
    explained[:n] = s[:n] ** 2 / total if total > 0 else 0
    return points * np.where(largest < 0, -1, 1), explained


def _scores(llm: LLM, goal: NDArray[np.floating]) -> NDArray[np.float64]:
    """float64 (n tokens,): the cosine of every token's vector to `goal`."""
    direction = unit(np.asarray(goal)).astype(np.float32)
    found = []

    def keep(_: int, rows: Floats) -> None:  # in float32: a large table has a billion numbers
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        # Not `@`: on so few rows, the threads of its library wait longer than they compute.
        along = np.einsum("ij,j->i", rows, direction)
        found.append(along / np.where(lengths > 0, lengths, 1))

    over_rows(llm, keep)
    return np.concatenate(found).astype(np.float64)


def _nearest(
    llm: LLM, scores: NDArray[np.float64], k: int, taken: Sequence[int]
) -> tuple[Neighbour, ...]:
    kept = [i for i in _first(-scores, k + len(taken)) if i not in taken][:k]
    return tuple(Neighbour(i, text_of(llm.tokenizer, i), float(scores[i])) for i in kept)


def _first(values: NDArray[np.float64], n: int) -> list[int]:
    """Where the n least values are, the least first and of equals the first; NaN is the greatest.
    Sorting the whole vocabulary would take as long as a step."""
    if n >= len(values):
        few = np.arange(len(values))
    else:
        few = np.flatnonzero(~(values > np.partition(values, n - 1)[n - 1]))
    found: list[int] = few[np.argsort(values[few], kind="stable")][:n].tolist()
    return found


def _rank(
    llm: LLM, scores: NDArray[np.float64], expected: str | None, taken: Sequence[int]
) -> int | None:
    if expected is None:
        return None
    ids = ids_of_word(llm, expected)
    if len(ids) != 1:
        raise RequestError(
            f"the expected word {expected!r:.80} has {len(ids)} tokens; only one that is a token "
            "has a rank"
        )
    others = np.delete(scores, [i for i in set(taken) if i != ids[0]])
    return 1 + int(np.count_nonzero(others > scores[ids[0]]))


def _check_k(k: int) -> None:
    if not 1 <= k <= MAX_K:
        raise RequestError(f"k must be 1 to {MAX_K}, got {k}")
