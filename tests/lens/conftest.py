"""Models for the views: a tiny one of known weights, and the demo model where words matter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo import demo_path
from pyroclast import LLM
from tiny import CONFIGS, random_weights, write_gguf


@pytest.fixture(scope="package")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("lens") / "tiny.gguf"
    write_gguf(path, CONFIGS["llama"], random_weights(CONFIGS["llama"]))
    with LLM(path, compute="float32", threads=1, max_batch_tokens=64) as llm:
        yield llm


@pytest.fixture(scope="package")
def demo_llm() -> Iterator[LLM]:
    with LLM(demo_path()) as llm:
        yield llm
