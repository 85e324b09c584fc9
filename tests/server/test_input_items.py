"""Input items of /v1/responses as turns of a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from pyroclast.server.response_items import input_messages

CALL = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "x"}
NO_TEXT = {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "x"}
OTHER = {"type": "web_search_call", "status": "completed"}


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


@pytest.mark.parametrize(
    ("items", "turns"),
    [
        ([NO_TEXT, said("assistant", "B")], ["assistant:B"]),
        ([NO_TEXT, said("user", "A")], ["user:A"]),
        ([said("user", "A"), NO_TEXT, CALL, OUTPUT], ["user:A", "assistant: 1 call", "tool:x"]),
        ([NO_TEXT, thought("Hm."), NO_TEXT, said("assistant", "B")], ["assistant:B (Hm.)"]),
        ([thought("H"), thought("m."), said("assistant", "B")], ["assistant:B (Hm.)"]),
        ([thought("H"), OTHER, thought("m."), CALL, CALL], ["assistant: (Hm.) 2 call"]),
        ([thought("H"), said("assistant", ""), thought("m.")], ["assistant: (Hm.)"]),
        (
            [thought("H"), said("user", "A"), thought("m.")],
            ["assistant: (H)", "user:A", "assistant: (m.)"],
        ),
        (
            [thought("H"), CALL, OUTPUT, thought("m."), said("assistant", "B")],
            ["assistant: (H) 1 call", "tool:x", "assistant:B (m.)"],
        ),
        ([said("assistant", "B"), thought("H"), CALL], ["assistant:B", "assistant: (H) 1 call"]),
        ([NO_TEXT], []),
    ],
)
def test_reasoning_goes_into_the_turn_that_follows(items: list[Any], turns: list[str]) -> None:
    assert [shown(turn) for turn in input_messages(items)] == turns


def shown(turn: Any) -> str:
    thoughts = "" if turn.reasoning_content is None else f" ({turn.reasoning_content})"
    calls = f" {len(turn.tool_calls)} call" if turn.tool_calls else ""
    return f"{turn.role}:{turn.content}{thoughts}{calls}"
