"""The vectors of tokens and words: rows of the input embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import RequestError
from pyroclast.lens.choice import Floats
from pyroclast.lens.inside import between, model_of
from pyroclast.model.embedding_rows import EmbeddingReader, embedding_rows

if TYPE_CHECKING:
    from pyroclast.llm import LLM

_N_ROWS = 2048  # of the table that are read between two steps
# Of those, the bytes that are there at a time: they stay in the cache of a core.  A new array for
# all of them spends more time on page faults than on its numbers.
_BLOCK_BYTES = 512 << 10


def rows_of(llm: LLM, token_ids: Sequence[int]) -> Floats:
    """float32 (n, d_model): the vectors of tokens."""
    model = model_of(llm)
    return between(llm, lambda: embedding_rows(model, token_ids))


def over_rows(llm: LLM, work: Callable[[int, Floats], None]) -> None:
    """Calls work(first token id, vectors of it and of those that follow) block by block, for the
    whole vocabulary.  It runs between two steps, and the next call overwrites the vectors."""
    model = model_of(llm)
    n = min(llm.tokenizer.vocab_size, llm.vocab_size)
    size = max(16, _BLOCK_BYTES // (4 * model.config.d_model) // 16 * 16)

    def piece(start: int) -> None:
        end = min(start + _N_ROWS, n)
        reader = EmbeddingReader(model, min(size, end - start))
        for first in range(start, end, size):
            work(first, reader.read(range(first, min(first + size, end))))

    for start in range(0, n, _N_ROWS):
        between(llm, partial(piece, start))


def ids_of_word(llm: LLM, word: str) -> list[int]:
    """The tokens of a word as it stands in a running text: with a space before it, unless it is
    shorter without."""
    if not word.strip():
        raise RequestError("a word must have at least one letter, got only spaces")
    encode = llm.tokenizer.encode
    written = (f" {word.strip()}", word.strip())
    found = [encode(each, add_special_tokens=False, parse_special=False) for each in written]
    return min(found, key=len)


def vectors_of(llm: LLM, words: Sequence[str]) -> Floats:
    """float32 (n, d_model): the vector of each word, the mean of its tokens' where it has several.
    All are read at once: between two steps, not between many."""
    ids = [ids_of_word(llm, word) for word in words]
    rows = rows_of(llm, [i for each in ids for i in each])
    ends = np.cumsum([len(each) for each in ids])
    return np.stack(
        [rows[end - len(own) : end].mean(axis=0) for own, end in zip(ids, ends, strict=True)]
    )


def unit(vectors: Floats) -> NDArray[np.float64]:
    """The same directions with length 1; a vector of zeros stays one."""
    x = vectors.astype(np.float64)
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x / np.where(lengths > 0, lengths, 1))


def cosines(a: Floats, b: Floats) -> NDArray[np.float64]:
    """float64 (len(a), len(b))."""
    return np.asarray(unit(a) @ unit(b).T)
