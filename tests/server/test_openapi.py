"""/openapi.json: schemathesis makes right and wrong requests of it, and holds the replies to it.
No reply is a 5xx, and each has the shape that the document promises."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.core.failures import Failure, FailureGroup

from demo import demo_path
from pyroclast import AsyncLLM
from pyroclast.server.routes import ROUTES, Route
from server_at import HELLO, MODEL, WEATHER, RunningServer, serving

N_EXAMPLES = 6  # of each endpoint and kind
checks.load_all_checks()
# Not positive_data_acceptance: a text may hold bytes that the vocabulary has no token for.
CHECKS = [
    checks.CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    )
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
FUNCTIONS = [{"type": "function", "name": "weather", "parameters": WEATHER}]
BLOCKS = [{"name": "weather", "input_schema": WEATHER}]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path(), embeddings=True)}) as running:
        [served] = running.app.models.all
        served.max_model_len = 96  # answers without a limit end soon
        yield running


@pytest.fixture(scope="module")
def schema(running: RunningServer) -> Any:
    return schemathesis.openapi.from_url(f"{running.url}/openapi.json")


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_replies_are_what_the_document_says(schema: Any, route: Route, mode: str) -> None:
    operation = schema[route.path][route.method]
    if mode == "negative" and route.body is None:
        assert not operation.body, "nothing that could be wrong"
        return

    @settings(
        max_examples=N_EXAMPLES if route.body else 1,
        phases=[Phase.generate],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def holds(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60)

    holds()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2, "n": 2}),
        ("/v1/chat/completions", {"tools": TOOLS, "tool_choice": "required"}),
        ("/v1/messages", {"tools": BLOCKS, "tool_choice": {"type": "any"}}),
        ("/v1/messages", {"stop_sequences": ["e"]}),
        ("/v1/responses", {"tools": FUNCTIONS, "tool_choice": "required"}),
        ("/v1/responses", {"reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}}),
        ("/v1/completions", {"echo": True, "logprobs": 2, "return_token_ids": True}),
        ("/v1/embeddings", {"encoding_format": "base64"}),
        ("/tokenize", {"return_token_strs": True}),
    ],
    ids=str,
)
def test_rich_replies_are_what_the_document_says(
    running: RunningServer, schema: Any, path: str, body: dict[str, Any]
) -> None:
    """Replies with fields that random requests hardly ever lead to."""
    prompt = {
        "/v1/responses": {"input": HELLO, "max_output_tokens": 40},
        "/v1/completions": {"prompt": "The sky is", "max_tokens": 4},
        "/v1/embeddings": {"input": ["The sky"]},
        "/tokenize": {"prompt": "The sky"},
    }.get(path, {"messages": HELLO, "max_tokens": 40})
    answer = httpx.post(running.url + path, json=prompt | body, timeout=60)
    assert answer.status_code == 200, answer.text
    schema[path]["POST"].validate_response(answer)


def test_a_reply_that_breaks_the_document_is_found(schema: Any) -> None:
    """So that the tests above can fail."""
    request = httpx.Request("POST", "http://server/v1/chat/completions")
    for body in ({"id": "x"}, {"id": "x", "object": "chat.completion", "choices": [{}]}):
        broken = httpx.Response(200, json=body, request=request)
        broken.elapsed = timedelta()
        with pytest.raises((Failure, FailureGroup)):
            schema["/v1/chat/completions"]["POST"].validate_response(broken)
