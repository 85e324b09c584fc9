"""Hostile answers: any chunking gives the same result, a megabyte takes seconds, and the arguments
that are sent on are JSON."""

from __future__ import annotations

import json
import random
import time

import msgspec
import pytest

from pyroclast.text.answers.choose import PARSERS, parser_for
from pyroclast.text.answers.delta import Answer

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("weather", "clock")]
BAR = "\uff5c"
SEP, BEGIN, END = (f"<{BAR}tool▁{word}{BAR}>" for word in ("sep", "call▁begin", "call▁end"))
CALLS = f"<{BAR}tool▁calls▁begin{BAR}>"
MARKS = [
    "<think>", "</think>", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>", "{", "}", '"',
    "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|channel|>", "<|message|>", "<|end|>", "<|call|>",
    "name", ":", ",", "[", "]", "weather", "arguments", "\\", " ", "\n", "<function=", ">",
    "<parameter=", "</parameter>", "</function>", "<|tool_call>", "<tool_call|>", "call:", "a",
    "<start_function_call>", "<end_function_call>", "<|python_tag|>", "to=functions.a", "<escape>",
    "<|tool_call|>", "<|/tool_call|>", "<|eom_id|>", SEP, BEGIN, END, CALLS, '"name": "clock"',
    '{"name": "weather", "arguments": {"city": "x"}}', '"arguments": "{}"', "<|start|>assistant",
]  # fmt: skip
N = 1_000_000
# parser, what the text begins with, what it repeats to a megabyte
FLOODS = [
    ("hermes", "", "<think></think>"),
    ("hermes", "", "<tool_call>"),
    ("hermes", "", " "),
    ("hermes", '<tool_call>{"name":"clock","arguments":{"k":"', "x"),
    ("hermes", '<tool_call>{"name":"clock","arguments":"', "\\n"),
    ("hermes", '<tool_call>{"', "x"),
    ("granite", "<|tool_call|>", '{"name":"clock","arguments":{}}'),
    ("phi", "<|tool_call|>", "[{"),
    ("plain", "", "<think></think>"),
    ("llama3", "", " "),
    ("llama3", "", '{"name":'),
    ("mistral", "[TOOL_CALLS]", "x"),
    ("mistral", "[TOOL_CALLS]clock[ARGS]{", "x"),
    ("mistral", "", "[TOOL_CALLS]clock[ARGS]{}"),
    ("harmony", "", "x"),
    ("harmony", "", "<|message|><|end|>"),
    ("harmony", "", "to=functions.clock<|message|>{}<|call|>"),
    ("deepseek", CALLS + BEGIN, "x"),
    ("deepseek", CALLS + BEGIN + "clock" + SEP + "{", '"'),
    ("deepseek", CALLS, BEGIN + "clock" + SEP + "{}" + END),
    ("functiongemma", "<start_function_call>call:clock{k:", "["),
    ("functiongemma", "<start_function_call>call:clock{k:", "<escape>"),
    ("gemma4", "<|tool_call>call:clock{k:", "{a:"),
    ("gemma4", "", "<|tool_call>call:clock{}<tool_call|>"),
    ("qwen_xml", "<tool_call><function=", "x"),
    ("qwen_xml", "<tool_call><function=clock><parameter=k>", "["),
    ("qwen_xml", "<tool_call><function=clock>", "<parameter=k></parameter>"),
]


def read(name: str, text: str, sizes: list[int] | None = None) -> Answer:
    """The answer to text in pieces of these sizes, and then the rest."""
    parser, answer, at = parser_for(name, tools=TOOLS), Answer(), 0
    for size in sizes or ():
        answer.add(parser.feed(text[at : at + size]))
        at += size
    answer.add(parser.feed(text[at:]))
    answer.add(parser.finish())
    return answer


def shown(answer: Answer) -> tuple[str, str, list[tuple[str, str]]]:
    """All but the ids, which are drawn."""
    calls = [(call.name, call.arguments) for call in answer.tool_calls]
    return answer.reasoning, answer.content, calls


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_any_pieces_of_any_text_give_the_same_answer(name: str) -> None:
    chance = random.Random(name)
    for _ in range(400):
        text = "".join(chance.choices(MARKS, k=chance.randint(1, 30)))
        whole = shown(read(name, text))
        for most in (1, 3, 20):
            sizes = [chance.randint(1, most) for _ in text]
            assert shown(read(name, text, sizes)) == whole, (text, sizes)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_second_name_and_a_tag_inside_the_object_are_read_alike(size: int) -> None:
    second = '<tool_call>{"name": "clock", "name": [1": 2}</tool_call>'
    tag = '{"name": "nobody", "x": "<|eom_id|>"} after'
    for name, text in (("hermes", second), ("granite", second), ("llama3", tag)):
        sizes = [size] * len(text)
        assert shown(read(name, text, sizes)) == shown(read(name, text))


def test_every_parser_is_flooded() -> None:
    assert {name for name, _, _ in FLOODS} == set(PARSERS)


@pytest.mark.parametrize("size", [4, N])
@pytest.mark.parametrize(("name", "begin", "part"), FLOODS)
def test_a_megabyte_takes_seconds(name: str, begin: str, part: str, size: int) -> None:
    text = begin + part * (N // len(part))
    parser = parser_for(name, tools=TOOLS)
    start_s = time.thread_time()
    for at in range(0, len(text), size):
        parser.feed(text[at : at + size])
    parser.finish()
    assert time.thread_time() - start_s < 6


DEEP = "[" * 100_000
VALUES = [DEEP, "NaN", "-Infinity", "1e999", '"\\ud800"', "9" * 5000, "{" * 100_000]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:9])
@pytest.mark.parametrize("name", ["qwen_xml", "functiongemma", "gemma4", "hermes"])
def test_arguments_that_are_no_json_become_texts(name: str, value: str) -> None:
    text = {
        "qwen_xml": f"<tool_call><function=clock><parameter=k>{value}</parameter></function>",
        "functiongemma": f"<start_function_call>call:clock{{k:{value}}}<end_function_call>",
        "gemma4": f"<|tool_call>call:clock{{k:{value}}}<tool_call|>",
        "hermes": f'<tool_call>{{"name":"clock","arguments":{json.dumps(value)}}}</tool_call>',
    }[name]
    [call] = read(name, text).tool_calls
    msgspec.json.encode({"name": call.name, "arguments": call.arguments})  # as the server does
    if name != "hermes":  # which passes on what the model wrote
        assert set(msgspec.json.decode(call.arguments)) == {"k"}


def test_a_name_of_half_a_character_is_no_call() -> None:
    answer = read("hermes", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>')
    assert not answer.tool_calls
    assert "\\ud800" in answer.content
