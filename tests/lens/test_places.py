"""Vectors of tokens, words and sentences against NumPy on the model's own weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyroclast import LLM, RequestError, lens
from pyroclast.lens import places
from pyroclast.lens.vectors import ids_of_word, over_rows, rows_of, unit
from tiny import CONFIGS, random_weights, write_gguf

TABLE = random_weights(CONFIGS["llama"])["token_embd"]


def cosines(vector: np.ndarray) -> np.ndarray:
    return TABLE @ vector / np.linalg.norm(TABLE, axis=1) / np.linalg.norm(vector)


def test_rows_are_the_model_s(tiny_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(rows_of(tiny_llm, [5, 319, 5]), TABLE[[5, 319, 5]])
    monkeypatch.setattr("pyroclast.lens.vectors._N_ROWS", 100)
    monkeypatch.setattr("pyroclast.lens.vectors._BLOCK_BYTES", 48 * 4 * TABLE.shape[1])
    parts: list[tuple[int, np.ndarray]] = []
    over_rows(tiny_llm, lambda first, rows: parts.append((first, rows.copy())))
    assert [first for first, _ in parts] == [0, 48, 96, 100, 148, 196, 200, 248, 296, 300]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in parts]), TABLE)


def test_the_first_of_many_are_those_of_a_sort() -> None:
    values = np.array([3.0, np.nan, 1, 2, 1, np.nan, 1, 0])
    order = np.argsort(values, kind="stable").tolist()
    assert [places._first(values, n) for n in range(1, 10)] == [order[:n] for n in range(1, 10)]


def test_neighbours(tiny_llm: LLM) -> None:
    found = lens.neighbours(tiny_llm, 97, k=6)
    scores = cosines(TABLE[97])
    order = [i for i in np.argsort(-scores) if i != 97][:6]
    assert [each.id for each in found] == order
    np.testing.assert_allclose([each.cosine for each in found], scores[order], atol=1e-6)


def test_analogy_and_the_rank_of_what_was_expected(tiny_llm: LLM) -> None:
    found = lens.analogy(tiny_llm, "the", "in", "an", k=4, expected="a")
    a, b, c, expected = (ids_of_word(tiny_llm, word) for word in ("the", "in", "an", "a"))
    goal = sum(s * unit(TABLE[ids].mean(axis=0)) for s, ids in ((1, a), (-1, b), (1, c)))
    scores = cosines(goal)
    order = [i for i in np.argsort(-scores) if i not in (*a, *b, *c)]
    assert [row.id for row in found.rows] == order[:4]
    assert len(expected) == 1 and found.rank == 1 + order.index(expected[0])
    assert lens.analogy(tiny_llm, "the", "in", "an", k=1).rank is None


def test_a_map_has_the_principal_components(tiny_llm: LLM) -> None:
    words = ["the", "in", "an", "and", "a"]
    found = lens.word_map(tiny_llm, words)
    x = np.stack([TABLE[ids_of_word(tiny_llm, word)].mean(axis=0) for word in words])
    x = x.astype(np.float64) - x.mean(axis=0)
    values = np.linalg.eigvalsh(x @ x.T)[::-1]
    np.testing.assert_allclose((found.points**2).sum(axis=0), values[:2], rtol=1e-5)
    np.testing.assert_allclose(found.explained, values[:2] / values.sum(), rtol=1e-5)
    distances = np.linalg.norm(found.points[:, None] - found.points, axis=-1)
    assert (distances <= np.linalg.norm(x[:, None] - x, axis=-1) + 1e-6).all()
    assert (np.take_along_axis(found.points, abs(found.points).argmax(0)[None], 0) > 0).all()


def test_words_are_written_as_in_a_text(demo_llm: LLM) -> None:
    names = demo_llm.tokenizer.token_bytes
    assert [names(i) for i in ids_of_word(demo_llm, "king")] == [b" king"]
    assert len(ids_of_word(demo_llm, "<|im_end|>")) > 1
    found = lens.analogy(demo_llm, "king", "man", "woman", k=5, expected="queen")
    assert found.rank is not None and found.rank < 20


def test_sentences(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", CONFIGS["llama"], random_weights(CONFIGS["llama"]))
    texts = ["the cat", "the dog", "no"]
    with LLM(path, threads=1, embeddings=True) as llm:
        found = lens.sentences(llm, texts)
        vectors = np.stack(llm.embed(texts)).astype(np.float64)
    np.testing.assert_allclose(found.similarity, vectors @ vectors.T, atol=1e-6)
    assert found.points.shape == (3, 2) and np.isclose(found.explained.sum(), 1)


def test_bad_requests(tiny_llm: LLM) -> None:
    with pytest.raises(RequestError, match="1 to 200, got 0"):
        lens.neighbours(tiny_llm, 1, k=0)
    with pytest.raises(RequestError, match="got 320"):
        lens.neighbours(tiny_llm, 320)
    with pytest.raises(RequestError, match="only one that is a token"):
        lens.analogy(tiny_llm, "a", "in", "an", expected="xyz")
    with pytest.raises(RequestError, match="only spaces"):
        lens.analogy(tiny_llm, "a", " ", "an")
    with pytest.raises(RequestError, match="3 to 200 words, got 2"):
        lens.word_map(tiny_llm, ["a", "b"])
    with pytest.raises(RequestError, match="2 to 32 texts"):
        lens.sentences(tiny_llm, ["a"])
    with pytest.raises(RequestError, match="embeddings=True"):
        lens.sentences(tiny_llm, ["a", "b"])
