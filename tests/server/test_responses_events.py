"""How a stream of /v1/responses ends early: at the limit of tokens, or with an error."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseErrorEvent, ResponseFailedEvent

from demo import demo_path
from pyroclast import AsyncLLM
from server_at import MODEL, RunningServer, serving

LONG = {
    "type": "object",
    "properties": {"x": {"type": "string", "minLength": 99}},
    "required": ["x"],
}
LONG_CALL = [{"type": "function", "name": "weather", "parameters": LONG}]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path())}) as running:
        yield running


@pytest.fixture
def client(running: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("more", [{}, {"tools": LONG_CALL, "tool_choice": "required"}])
def test_the_item_that_is_cut_is_incomplete(client: openai.OpenAI, more: Any) -> None:
    asked: Any = {
        "model": MODEL,
        "input": "Count.",
        "max_output_tokens": 17,
        "temperature": 0,
    } | more
    whole = client.responses.create(**asked)
    events: Any = list(client.responses.create(**asked, stream=True))
    [done] = [event.item for event in events if event.type == "response.output_item.done"]
    streamed = events[-1].response
    assert (whole.status, streamed.status) == ("incomplete", "incomplete")
    for item in (whole.output[-1], streamed.output[-1], done):
        assert item.status == "incomplete"


def test_an_error_in_a_stream_of_responses(
    client: openai.OpenAI, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `error` event with OpenAI's fields, and then response.failed."""
    model = running.app.models.all[0].llm.llm._loop.stepper.model
    forward, n_steps = model.forward, itertools.count()

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(n_steps) == 3:
            raise ValueError("in the middle")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", failing)
    events = list(
        client.responses.create(model=MODEL, input="Hi.", max_output_tokens=30, stream=True)
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    error, failed = events[-2:]
    assert isinstance(error, ResponseErrorEvent)
    assert (error.type, error.param) == ("error", None)
    assert error.code
    assert error.message
    assert isinstance(failed, ResponseFailedEvent)
    assert failed.response.status == "failed"
    assert failed.response.error is not None
    assert failed.response.error.code == "server_error"
