"""Reasoning, content and tool calls read out of an answer, whole and in any pieces."""

from __future__ import annotations

import json
import random

import pytest

from pyroclast.errors import TemplateError
from pyroclast.text.answers.choose import PARSERS, parser_for, parser_name
from pyroclast.text.answers.delta import Answer, call_id

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
    for name in ("weather", "clock")
]
PARIS = {"city": "Paris", "days": 3}
BAR = "\uff5c"


def read(name: str, text: str, sizes: list[int] | None = None, **options: object) -> Answer:
    """The answer of a parser that is fed text in pieces of these sizes (all at once: None)."""
    parser = parser_for(name, **{"tools": TOOLS, **options})  # type: ignore[arg-type]
    answer, at = Answer(), 0
    for size in sizes or [len(text)]:
        answer.add(parser.feed(text[at : at + size]))
        at += size
    answer.add(parser.feed(text[at:]))
    answer.add(parser.finish())
    return answer


def calls(answer: Answer) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in answer.tool_calls]


def deepseek(name: str) -> str:
    return f"<{BAR}tool▁{name}{BAR}>"


# parser, text, reasoning, content, calls
CASES = [
    ("hermes", "Hello <b>you</b> & <tool", "", "Hello <b>you</b> & <tool", []),
    (
        "hermes",
        (
            '<think>\nHm.\n</think>\n\nI look.\n<tool_call>\n{"name": "weather", "arguments": '
            '{"city": "Paris", "days": 3}}\n</tool_call>'
        ),
        "\nHm.\n",
        "I look.\n",
        [("weather", PARIS)],
    ),
    (
        "hermes",
        (
            '<tool_call>{"arguments": {"city": "a}\\"b", "days": 1}, "name": "weather"}</tool_call>'
            '\n<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
        ),
        "",
        "",
        [("weather", {"city": 'a}"b', "days": 1}), ("clock", {})],
    ),
    ("hermes", '<tool_call>{"name": "clock"}</tool_call>', "", "", [("clock", {})]),
    (
        "hermes",
        '<tool_call>{"name": "clock", "arguments": "{\\"city\\": \\"x\\"}"}</tool_call>',
        "",
        "",
        [("clock", {"city": "x"})],
    ),
    ("hermes", "<tool_call>nothing</tool_call> after", "", "nothing after", []),
    ("hermes", '<tool_call>{"no": "name"}</tool_call>x', "", '{"no": "name"}x', []),
    (
        "phi",
        (
            '<|tool_call|>[{"name": "clock", "arguments": {"days": 1}}, {"name": "weather", '
            '"arguments": {}}]<|/tool_call|>'
        ),
        "",
        "",
        [("clock", {"days": 1}), ("weather", {})],
    ),
    (
        "granite",
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Paris", "days": 3}}]',
        "",
        "",
        [("weather", PARIS)],
    ),
    (
        "llama3",
        '{"name": "weather", "parameters": {"city": "Paris", "days": 3}}',
        "",
        "",
        [("weather", PARIS)],
    ),
    (
        "llama3",
        (
            '<|python_tag|>{"type": "function", "name": "clock", "parameters": {}}; '
            '{"name": "weather", "parameters": {"city": "Paris", "days": 3}}<|eom_id|>'
        ),
        "",
        "",
        [("clock", {}), ("weather", PARIS)],
    ),
    ("llama3", '{"name": "nobody", "a": 1} is JSON', "", '{"name": "nobody", "a": 1} is JSON', []),
    ("llama3", "A brace: {", "", "A brace: {", []),
    (
        "mistral",
        'Let me see.[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris", "days": 3}}]',
        "",
        "Let me see.",
        [("weather", PARIS)],
    ),
    (
        "mistral",
        (
            '[THINK]Hm.[/THINK][TOOL_CALLS]weather[ARGS]{"city": "Paris", "days": 3}[TOOL_CALLS]'
            "clock[CALL_ID]123456789[ARGS]{}"
        ),
        "Hm.",
        "",
        [("weather", PARIS), ("clock", {})],
    ),
    (
        "harmony",
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
            'to=functions.weather <|constrain|>json<|message|>{"city": "Paris", "days": 3}<|call|>'
        ),
        "Hm.",
        "",
        [("weather", PARIS)],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.",
        "Hm.",
        "Hi.",
        [],
    ),
    (
        "deepseek",
        (
            f"Yes.{deepseek('calls▁begin')}{deepseek('call▁begin')}weather{deepseek('sep')}"
            f'{{"city": "Paris", "days": 3}}{deepseek("call▁end")}{deepseek("call▁begin")}clock'
            f"{deepseek('sep')}{{}}{deepseek('call▁end')}{deepseek('calls▁end')}"
        ),
        "",
        "Yes.",
        [("weather", PARIS), ("clock", {})],
    ),
    (
        "deepseek",
        (
            f"{deepseek('calls▁begin')}{deepseek('call▁begin')}function{deepseek('sep')}weather\n"
            f'```json\n{{"city": "Paris", "days": 3}}\n```{deepseek("call▁end")}'
        ),
        "",
        "",
        [("weather", PARIS)],
    ),
    (
        "qwen_xml",
        (
            "<think>Hm.</think>\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>"
            "\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
        ),
        "Hm.",
        "",
        [("weather", PARIS)],
    ),
    (
        "qwen_xml",
        (
            "<tool_call><function=weather><parameter=city>12</parameter></function></tool_call>"
            "<tool_call><function=clock></function></tool_call>"
        ),
        "",
        "",
        [("weather", {"city": "12"}), ("clock", {})],
    ),
    (
        "functiongemma",
        "<start_function_call>call:weather{city:<escape>Paris<escape>,days:3}<end_function_call>",
        "",
        "",
        [("weather", PARIS)],
    ),
    (
        "gemma4",
        (
            '<|channel>thought\nHm.<channel|>Ok.<|tool_call>call:weather{city:<|"|>a,}b<|"|>,days:'
            "[1,{k:true}]}<tool_call|>"
        ),
        "Hm.",
        "Ok.",
        [("weather", {"city": "a,}b", "days": [1, {"k": True}]})],
    ),
    ("plain", "<think>Hm.</think>Ok <tool_call>", "Hm.", "Ok <tool_call>", []),
]


@pytest.mark.parametrize(("name", "text", "reasoning", "content", "expected"), CASES)
def test_answers_are_read(
    name: str, text: str, reasoning: str, content: str, expected: list[tuple[str, object]]
) -> None:
    answer = read(name, text)
    assert (answer.reasoning, answer.content, calls(answer)) == (reasoning, content, expected)


@pytest.mark.parametrize(("name", "text"), [case[:2] for case in CASES])
def test_pieces_change_nothing(name: str, text: str) -> None:
    """One character at a time, and cut anywhere: the same reasoning, content and calls."""
    whole = read(name, text)
    chance = random.Random(0)
    cuts = [[1] * len(text)] + [[chance.randint(1, 9) for _ in range(len(text))] for _ in range(20)]
    for sizes in cuts:
        pieces = read(name, text, sizes)
        assert (pieces.reasoning, pieces.content) == (whole.reasoning, whole.content)
        assert calls(pieces) == calls(whole)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_no_text_hangs_or_raises(name: str) -> None:
    """Random walks over all marks: a parser always ends, and every call has a name and an id."""
    marks = ["<think>", "</think>", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>", "{", "}"]
    marks += ["[TOOL_CALLS]", "[ARGS]", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", '"']
    marks += ["name", ":", ",", "[", "]", "weather", "arguments", "\\", " ", "<function=", ">"]
    marks += ["<parameter=", "</parameter>", "</function>", "<|tool_call>", "<tool_call|>", "call:"]
    marks += ["<start_function_call>", "<end_function_call>", "<|python_tag|>", "to=functions.a"]
    marks += [deepseek(each) for each in ("calls▁begin", "call▁begin", "sep", "call▁end")]
    chance = random.Random(name)
    for _ in range(300):
        text = "".join(chance.choices(marks, k=chance.randint(0, 40)))
        answer = read(name, text, [chance.randint(1, 20) for _ in range(40)])
        assert all(call.id and call.name is not None for call in answer.tool_calls)


def test_arguments_arrive_while_they_are_written() -> None:
    parser = parser_for("hermes", tools=TOOLS)
    first = parser.feed('<tool_call>{"name": "weather", "arguments": {"city": "Pa')
    assert [(piece.name, piece.arguments) for piece in first.tool_calls] == [
        ("weather", '{"city": "Pa')
    ]
    second = parser.feed("ris")
    assert [(piece.index, piece.id, piece.name) for piece in second.tool_calls] == [(0, None, None)]
    assert second.tool_calls[0].arguments == "ris"


def test_without_tools_nothing_is_a_call() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    assert read("hermes", text, tools=[]).content == text


def test_a_prompt_may_open_the_reasoning() -> None:
    answer = read("hermes", "Hm.</think>Yes.", prompt="<|im_start|>assistant\n<think>\n")
    assert (answer.reasoning, answer.content) == ("Hm.", "Yes.")


def test_mistral_ids_have_nine_letters_and_digits() -> None:
    [call] = read("mistral", "[TOOL_CALLS]clock[ARGS]{}").tool_calls
    assert len(call.id) == 9
    assert call.id.isalnum()
    assert call_id() != call_id()


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (None, "plain"),
        ("{{ messages }}", "plain"),
        ("<|start|>{{ x }}<|channel|>final<|message|>", "harmony"),
        ("<tool_call>\n<function=a>\n<parameter=b>", "qwen_xml"),
        ("<tool_call>", "hermes"),
        ("[TOOL_CALLS]", "mistral"),
        ("<|python_tag|>", "llama3"),
        ("<|tool_call|>[...]<|/tool_call|>", "phi"),
        (deepseek("call▁begin"), "deepseek"),
    ],
)
def test_the_template_chooses(template: str | None, name: str) -> None:
    assert parser_name(template) == name


def test_an_unknown_override_lists_the_known_ones() -> None:
    assert parser_name("<tool_call>", "llama3") == "llama3"
    with pytest.raises(TemplateError, match="known: deepseek, functiongemma"):
        parser_name(None, "nobody")
