"""Models that answer at random, over two vocabularies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyroclast import LLM
from random_answers import byte_llm, demo_llm


@pytest.fixture(scope="module")
def by_bytes() -> Iterator[LLM]:
    with byte_llm() as llm:
        yield llm


@pytest.fixture(scope="module")
def by_tokens() -> Iterator[LLM]:
    with demo_llm() as llm:
        yield llm
