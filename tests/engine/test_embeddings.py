"""Embeddings: pooled states, whatever the chunks and neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from numpy_forward import numpy_forward
from pyroclast import LLM, AsyncLLM, RequestError
from tiny import BASE, random_weights, write_gguf

PROMPTS = [[1, 7, 200, 33, 5], [9] * 70, [2, 3]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("models") / "f32.gguf", BASE, random_weights(BASE))


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(path, embeddings=True) as llm:
        yield llm


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_they_are_pooled_states(llm: LLM, pooling: str) -> None:
    for prompt, found in zip(PROMPTS, llm.embed(PROMPTS, pooling=pooling), strict=True):
        states = numpy_forward(BASE, random_weights(BASE), prompt).normed
        want = states.mean(axis=0) if pooling == "mean" else states[-1]
        np.testing.assert_allclose(found, want / np.linalg.norm(want), atol=1e-4)
        assert found.dtype == np.float32


@pytest.mark.parametrize("options", [{"max_batch_tokens": 7}, {"threads": 1}, {"n_blocks": 4}])
def test_the_bits_depend_on_the_prompt_alone(path: Path, llm: LLM, options: dict[str, int]) -> None:
    alone = [llm.embed([prompt])[0] for prompt in PROMPTS]
    np.testing.assert_equal(llm.embed(PROMPTS), alone)
    with LLM(path, embeddings=True, **options) as other:  # type: ignore[arg-type]
        np.testing.assert_equal(other.embed(PROMPTS), alone)


def test_dimensions_and_length(llm: LLM) -> None:
    [whole] = llm.embed([PROMPTS[0]], normalize=False)
    [short] = llm.embed([PROMPTS[0]], dimensions=8)
    np.testing.assert_allclose(short, whole[:8] / np.linalg.norm(whole[:8]), rtol=1e-5)
    assert abs(float(np.linalg.norm(short)) - 1) < 1e-6


def test_coroutines_get_the_same(llm: LLM) -> None:
    async def ask() -> list[np.ndarray]:
        return await AsyncLLM.of(llm).embed(PROMPTS)

    np.testing.assert_equal(asyncio.run(ask()), llm.embed(PROMPTS))


def test_what_cannot_be_is_refused(path: Path, llm: LLM) -> None:
    with pytest.raises(RequestError, match="mean, last"):
        llm.embed([PROMPTS[0]], pooling="max")
    with pytest.raises(RequestError, match="dimensions"):
        llm.embed([PROMPTS[0]], dimensions=0)
    with pytest.raises(RequestError, match=f"at most {BASE.d_model}, .* got {BASE.d_model + 1}"):
        llm.embed([PROMPTS[0]], dimensions=BASE.d_model + 1)
    with pytest.raises(RequestError, match="normalize must be True or False, got 'no'"):
        llm.embed([PROMPTS[0]], normalize="no")  # type: ignore[arg-type]
    with LLM(path) as without, pytest.raises(RequestError, match="embeddings=True"):
        without.embed([PROMPTS[0]])
