"""One server of the demo model for all tests of the page in a process, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from demo import demo_path
from look_page import Watched, chromium, launched, new_context
from pyroclast import LLM, AsyncLLM
from pyroclast.server.look import Look
from server_at import serving


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[str, LLM]]:
    """The page's address, and the model behind it."""
    chromium()
    served = AsyncLLM(demo_path(), embeddings=True)
    with serving({"demo": served}, look=Look()) as running:
        yield f"{running.url}/look/", served.llm
    served.llm.close()


# Not for the whole session: Playwright's driver keeps an event loop in this thread, and tests of
# other modules want their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def shared_context(browser: Any) -> Any:
    """One for the module, so that its pages load the scripts from the browser's cache."""
    return new_context(browser, accept_downloads=True)


@pytest.fixture
def watched(browser: Any, shared_context: Any, served: tuple[str, LLM]) -> Iterator[Watched]:
    """A page at 1400 px, in light colours; the test fails if it does what it must not."""
    watched = Watched(browser, served[0], shared=shared_context)
    yield watched
    watched.close()


@pytest.fixture(scope="session")
def llm(served: tuple[str, LLM]) -> LLM:
    return served[1]
