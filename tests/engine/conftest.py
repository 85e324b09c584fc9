"""Models that answer at random, over two vocabularies; what tests of cached pages share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import page_folders
from fake_model import fake_llm
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


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "pages"


@pytest.fixture
def expected() -> list[int]:
    """The fake model's answer to the prompt of `page_folders`."""
    with fake_llm() as llm:
        return page_folders.answer(llm)[0]


@pytest.fixture
def warnings_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pyroclast")
