"""Requests as Claude Code, Codex, Open WebUI, Continue and others send them: what they carry
beside the conversation is read, or ignored, and never in the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from demo import demo_path
from pyroclast import AsyncLLM, SamplingParams
from pyroclast.server.answers import RequiredCallsParser, required_calls_schema
from pyroclast.text.answers.delta import Answer
from server_at import MODEL, WEATHER, RunningServer, serving

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
HELLO = [{"role": "user", "content": "Say hello."}]
TITLE = {
    "type": "object",
    "properties": {"title": {"enum": ["A", "B"]}},
    "required": ["title"],
    "additionalProperties": False,
}

CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
CLAUDE_CODE = {
    "model": MODEL,
    "max_tokens": 8,
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nBe brief.\n</system-reminder>"},
                {"type": "text", "text": "Hello.", **CACHED},
            ],
        },
    ],
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=abc;"},
        {"type": "text", "text": "You are Claude Code.", **CACHED},
    ],
    "tools": [
        {"name": "Bash", "description": "Runs it.", "input_schema": WEATHER, "strict": True}
        | CACHED,
        {"name": "Grep", "input_schema": {"type": "object"}, "eager_input_streaming": True},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        {"type": "mcp_toolset", "mcp_server_name": "x"},
    ],
    "metadata": {"user_id": "user"},
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "medium"},
}
CODEX = {
    "model": MODEL,
    "instructions": "You are Codex.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "A"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]},
    ],
    "tools": [
        {"type": "function", "name": "shell", "strict": False, "parameters": WEATHER},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark"}},
        {"type": "web_search", "external_web_access": False},
        {"type": "namespace", "name": "mcp", "tools": []},
        {"type": "local_shell"},
        {"type": "image_generation"},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "x",
    "text": {"verbosity": "low"},
    "client_metadata": {"a": "b"},
    "max_output_tokens": 8,
}


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path())}) as running:
        yield running


@pytest.fixture
def http(running: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


def answered(http: httpx.Client, path: str, body: Any) -> Any:
    answer = http.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


def refused(http: httpx.Client, path: str, body: Any) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    found: dict[str, Any] = answer.json()["error"]
    return found


def test_claude_code_asks_and_counts(http: httpx.Client) -> None:
    names = ("model", "messages", "system", "tools", "thinking")
    counted = answered(
        http, f"{MESSAGES}/count_tokens?beta=true", {k: CLAUDE_CODE[k] for k in names}
    )
    found = answered(http, f"{MESSAGES}?beta=true", CLAUDE_CODE)
    assert found["usage"]["input_tokens"] == counted["input_tokens"]
    text = http.post(f"{MESSAGES}?beta=true", json=CLAUDE_CODE | {"stream": True}).text
    names = tuple(line[7:] for line in text.splitlines() if line.startswith("event: "))
    assert names[:2] == ("message_start", "content_block_start")
    assert names[-3:] == ("content_block_stop", "message_delta", "message_stop")


def test_claude_code_hands_back_what_other_servers_made(http: httpx.Client) -> None:
    """Blocks of Anthropic's own servers are left out; documents of text are read."""
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}
    answer = [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "a", "name": "Bash", "input": {}, "caller": {"type": "direct"}},
    ]
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "Sun.", **CACHED}

    def n_tokens(*blocks: Any, user: Any = ()) -> int:
        turns = [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": list(blocks)},
            {"role": "user", "content": [result, *user]},
        ]
        body = CLAUDE_CODE | {"messages": turns, "max_tokens": 1}
        usage = answered(http, MESSAGES, body)["usage"]
        return int(usage["input_tokens"] + usage["cache_read_input_tokens"])

    assert n_tokens(*answer, search, found) == n_tokens(*answer)
    text = {"type": "text", "media_type": "text/plain", "data": "A long text. " * 20}
    document = {"type": "document", "title": "Title", "source": text}
    assert n_tokens(*answer, user=[document]) > n_tokens(*answer) + 50
    scan = document | {"source": {"type": "base64", "media_type": "application/pdf", "data": ""}}
    turns = [{"role": "user", "content": [scan]}]
    error = refused(http, MESSAGES, CLAUDE_CODE | {"messages": turns})
    assert "messages[0].content[0] is of type 'document'" in error["message"]


@pytest.mark.parametrize(
    "field", [{"output_config": {"format": {}}}, {"output_format": {}}], ids=["new", "old"]
)
def test_anthropics_output_format_is_enforced(http: httpx.Client, field: Any) -> None:
    form = {"type": "json_schema", "schema": TITLE}
    given = (
        {"output_format": form} if "output_format" in field else {"output_config": {"format": form}}
    )
    found = answered(http, MESSAGES, {"max_tokens": 60, "messages": HELLO} | given)
    assert json.loads(found["content"][0]["text"])["title"] in ("A", "B")


def test_an_assistants_last_turn_is_continued(http: httpx.Client, running: RunningServer) -> None:
    """The answer follows the turn's own text; a control token spelt out in it stays text."""
    llm = running.app.models.all[0].llm.llm
    for begun in ("Hello, my name", "Hello<|im_end|>"):
        turns = [*HELLO, {"role": "assistant", "content": begun}]
        ids = llm.tokenizer.encode_chat(HELLO)
        ids += llm.tokenizer.encode(begun, add_special_tokens=False, parse_special=False)
        [wanted] = llm.generate(ids, SamplingParams(temperature=0, max_tokens=8))
        asked = {"messages": turns, "max_tokens": 8, "temperature": 0}
        found = answered(http, MESSAGES, asked)
        assert found["content"][0]["text"] == wanted.text
        usage = found["usage"]
        assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len(ids)
        found = answered(http, CHAT, asked | {"continue_final_message": True})
        assert found["choices"][0]["message"]["content"] == wanted.text
        vllm = {"continue_final_message": True, "add_generation_prompt": False}
        found = answered(http, CHAT, asked | vllm)
        assert found["usage"]["prompt_tokens"] == len(ids)
        assert found["choices"][0]["message"]["content"] == wanted.text
    error = refused(http, CHAT, {"messages": HELLO, "continue_final_message": True})
    assert error["param"] == "continue_final_message"


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_requests_with_other_salts_share_nothing(http: httpx.Client, path: str) -> None:
    long = f"{path} {'Count with me: one, two, three. ' * 8}"
    body: dict[str, Any] = {"messages": [{"role": "user", "content": long}], "max_tokens": 1}
    if path == RESPONSES:
        body = {"input": long, "max_output_tokens": 1}

    def cached(salt: str) -> int:
        usage = answered(http, path, body | {"cache_salt": salt})["usage"]
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        n: int = details["cached_tokens"] if details else usage["cache_read_input_tokens"]
        return n

    # Of its own for each path: what the templates begin with is shared as well.
    salts = (f"a {path}", f"a {path}", f"b {path}", f"b {path}")
    assert [cached(salt) > 0 for salt in salts] == [False, True, False, True]


def test_an_input_is_counted(http: httpx.Client) -> None:
    counted = answered(http, f"{RESPONSES}/input_tokens", CODEX)
    assert counted["object"] == "response.input_tokens"
    assert answered(http, RESPONSES, CODEX)["usage"]["input_tokens"] == counted["input_tokens"]


def test_codex_streams_and_hands_back_its_history(http: httpx.Client) -> None:
    text = http.post(RESPONSES, json=CODEX | {"stream": True}).text
    names = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    assert names[0] == "response.created"
    assert "response.output_item.done" in names
    assert names[-1] in ("response.completed", "response.incomplete")
    history = [
        *CODEX["input"],  # type: ignore[misc]
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
        {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": "x"},
        {"type": "local_shell_call", "call_id": "c2", "status": "completed", "action": {}},
        {"type": "custom_tool_call", "call_id": "c3", "name": "apply_patch", "input": "***"},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "ok"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search"}},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "B"}]},
        {"type": "ghost_snapshot"},
        {"role": "user", "content": "More."},
    ]
    assert answered(http, RESPONSES, CODEX | {"input": history})["output"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("conversation", "conv_1"),
        ("prompt", {"id": "pmpt_1"}),
        ("background", True),
        ("previous_response_id", "resp_1"),
        ("include", ["message.output_text.logprobs"]),
    ],
)
def test_what_responses_do_not_have_is_refused(http: httpx.Client, field: str, value: Any) -> None:
    error = refused(http, RESPONSES, {"input": "Hi.", field: value})
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")


@pytest.mark.parametrize("choice", ["required", "sometimes"])
def test_a_choice_that_nothing_can_meet_is_refused(http: httpx.Client, choice: str) -> None:
    for tools in ([], [{"type": "web_search"}]):
        body = {"tools": tools, "tool_choice": choice}
        error = refused(http, CHAT, body | {"messages": HELLO, "max_tokens": 3})
        assert error["param"] == "tool_choice"
        error = refused(http, RESPONSES, body | {"input": "Hi.", "max_output_tokens": 3})
        assert error["param"] == "tool_choice"


def test_allowed_tools_are_the_only_ones(http: httpx.Client) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": WEATHER}}
        for name in ("first", "second")
    ]
    second = [{"type": "function", "function": {"name": "second"}}]
    allowed = {"mode": "required", "tools": second}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    body = {"messages": HELLO, "tools": tools, "max_tokens": 120, "parallel_tool_calls": False}
    found = answered(http, CHAT, body | {"tool_choice": choice})
    [call] = found["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "second"
    flat = [
        {"type": "function", "name": name, "parameters": WEATHER} for name in ("first", "second")
    ]
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "second"}, {"type": "web_search"}],
    }
    body = {"input": "Hi.", "tools": flat, "max_output_tokens": 120, "parallel_tool_calls": False}
    found = answered(http, RESPONSES, body | {"tool_choice": choice})
    assert [item["name"] for item in found["output"]] == ["second"]
    choice["tools"] = [{"type": "function", "name": "third"}]
    assert refused(http, RESPONSES, body | {"tool_choice": choice})["param"] == "tool_choice"


def test_required_calls_stream_and_can_be_held_to_one() -> None:
    text = '[{"name": "f", "parameters": {"a": "}[{" } \n},\n {"name": "g", "parameters": {}}]'
    parser, answer, deltas = RequiredCallsParser(), Answer(), []
    for char in text:
        deltas += (delta := parser.feed(char)).tool_calls
        answer.add(delta)
    assert [(call.name, json.loads(call.arguments)) for call in answer.tool_calls] == [
        ("f", {"a": "}[{"}),
        ("g", {}),
    ]
    assert answer.tool_calls[0].arguments == '{"a": "}[{" }'
    assert len(deltas) > 10
    assert all(call.id for call in answer.tool_calls)
    tools = [{"function": {"name": "f"}}]
    assert "maxItems" not in required_calls_schema(tools)
    assert required_calls_schema(tools, one_only=True)["maxItems"] == 1


def test_one_call_at_a_time_if_the_client_says_so() -> None:
    from pyroclast import Chunk
    from pyroclast.server.answers import ChoiceReader
    from pyroclast.text.answers.choose import parser_for

    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
    for max_calls, n_calls in ((None, 2), (1, 1)):
        tools = [{"type": "function", "function": {"name": "f"}}]
        reader = ChoiceReader(parser_for("hermes", tools=tools), max_calls=max_calls)
        reader.read(Chunk(call * 2, [1], 0, "stop"))
        assert len(reader.answer.tool_calls) == n_calls


def test_tools_of_other_types_are_ignored(http: httpx.Client) -> None:
    body = {"messages": HELLO, "max_tokens": 1}
    assert answered(http, CHAT, body | {"tools": [{"type": "custom", "custom": {"name": "x"}}]})
    error = refused(http, CHAT, body | {"tools": [{"type": "function"}]})
    assert error["param"] == "tools[0].function"


def test_open_webui_asks_for_a_chat_and_a_title(http: httpx.Client) -> None:
    extra = {"params": {}, "files": None, "features": {}, "session_id": "a", "chat_id": "b"}
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 3, "stream": True} | extra
    body["stream_options"] = {"include_usage": True}
    assert '"completion_tokens":3' in http.post(CHAT, json=body).text
    title = {"model": MODEL, "messages": HELLO, "max_completion_tokens": 3, "metadata": {"a": 1}}
    assert answered(http, CHAT, title)["choices"]
    data = http.get("/v1/models").json()["data"]
    assert data[0]["id"] == MODEL


def test_llama_servers_paths_need_no_v1(http: httpx.Client) -> None:
    assert http.get("/models").json() == http.get("/v1/models").json()
    assert answered(http, "/chat/completions", {"messages": HELLO, "max_tokens": 1})
    assert http.get("/v1/nothing").status_code == 404


def test_numbers_may_be_written_as_floats(http: httpx.Client) -> None:
    """JSON has one kind of number, and so have Lua and JavaScript."""
    raw = '{"messages": [{"role": "user", "content": "Hi."}], "max_tokens": 3.0, "seed": 1e2}'
    answer = http.post(CHAT, content=raw.replace("3.0", "2.5"))
    assert answer.json()["error"]["param"] == "max_tokens"
    assert http.post(CHAT, content=raw).json()["usage"]["completion_tokens"] == 3
    assert http.post(CHAT, content=raw.replace("1e2", "1e999")).status_code == 400


def test_minus_one_means_as_many_tokens_as_there_is_room(http: httpx.Client) -> None:
    """LM Studio's clients send it."""
    body = {"messages": HELLO, "max_tokens": -1, "stop": ["e"], "temperature": 0}
    assert answered(http, CHAT, body)["choices"][0]["finish_reason"] == "stop"
    assert refused(http, CHAT, body | {"max_tokens": 0})["param"] == "max_tokens"
    body = {"prompt": ["One, two,", "Three."], "max_tokens": -1, "stop": ["e"], "temperature": 0}
    for choice in answered(http, "/v1/completions", body)["choices"]:
        assert choice["finish_reason"] == "stop"
    for wrong in (0, -2):
        error = refused(http, "/v1/completions", body | {"max_tokens": wrong})
        assert error["param"] == "max_tokens"


def test_a_missing_field_is_named(http: httpx.Client) -> None:
    assert refused(http, RESPONSES, {})["param"] == "input"
    assert refused(http, CHAT, {"messages": [{}]})["param"] == "messages[0].role"


def test_a_wrong_method_is_told_which_are_right(http: httpx.Client) -> None:
    answer = http.put(CHAT, json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
