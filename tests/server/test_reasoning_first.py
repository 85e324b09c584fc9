"""response_format for models that reason first: the reasoning is free, the answer is held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from pyroclast.server.served import Served
from pyroclast.text.answers.choose import reasoning_marks
from pyroclast.text.tokenizer import Tokenizer
from random_answers import scripted_llm
from server_at import HELLO, WEATHER, serving

FORMAT = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
THINK = ("<think>", "</think>")
ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
ASSISTANT = "<|end|><|start|>assistant"
THOUGHT = "It is {sunny} somewhere."


@pytest.fixture
def tokenizer() -> Tokenizer:
    """The demo model's, as if its template knew reasoning."""
    found = Tokenizer.from_gguf(demo_path())
    found.chat_template = f"{found.chat_template}{{# <think></think> #}}"
    return found


@pytest.fixture
def url(tokenizer: Tokenizer, request: pytest.FixtureRequest) -> Iterator[str]:
    """A server whose model writes the test's parameter."""
    n_prompt = len(tokenizer.encode_chat(HELLO))
    llm = scripted_llm(tokenizer, n_prompt, request.param)
    with serving({"demo": AsyncLLM.of(llm)}) as running:
        yield running.url


def ask(url: str, **more: Any) -> dict[str, Any]:
    body = {"messages": HELLO, "max_tokens": 120, "temperature": 0} | more
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


@pytest.mark.parametrize(
    "url", [f'<think>{THOUGHT}</think>\n\n{{"city":"Rome"}} Done.'], indirect=True
)
def test_the_format_holds_what_follows_the_reasoning(url: str) -> None:
    choice = ask(url, response_format=FORMAT)
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["reasoning"] == THOUGHT
    assert choice["message"]["content"] == '{"city":"Rome"}'


@pytest.mark.parametrize("url", ['{"city":"Paris"} Done.'], indirect=True)
def test_a_model_need_not_reason(url: str) -> None:
    choice = ask(url, response_format=FORMAT)
    assert choice["message"]["content"] == '{"city":"Paris"}'
    assert "reasoning" not in choice["message"]


def test_a_format_leaves_no_room_for_a_call(tokenizer: Tokenizer) -> None:
    """As docs/serving.md says: with tool_choice "auto", the answer is held to the schema."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    n_prompt = len(tokenizer.encode_chat(HELLO, tools=tools))
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    llm = AsyncLLM.of(scripted_llm(tokenizer, n_prompt, call))
    with serving({"demo": llm}, parser="hermes") as running:
        asked: dict[str, Any] = {"tools": tools, "tool_choice": "auto"}
        assert ask(running.url, **asked)["finish_reason"] == "tool_calls"
        held = ask(running.url, response_format=FORMAT, **asked)
        assert "tool_calls" not in held["message"]
        assert held["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("url", [f"<think>{THOUGHT}"], indirect=True)
def test_the_text_may_not_end_in_the_reasoning(url: str) -> None:
    """The model wants to end: it may not, and so runs to the limit."""
    choice = ask(url, response_format=FORMAT)
    assert choice["finish_reason"] == "length"
    assert choice["message"]["reasoning"].startswith(THOUGHT)
    assert ask(url)["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("parser", "template", "prompt", "marks"),
    [
        ("hermes", "a <think> b </think>", "assistant\n", THINK),
        ("hermes", "a <think> b </think>", "assistant\n<think>\n", ("</think>",)),
        ("hermes", "a <think> b </think>", "<think>\n\n</think>\n\n", None),
        ("hermes", "no reasoning", "assistant\n", None),
        ("hermes", None, "assistant\n", None),
        ("phi", "a </think>", "assistant\n", None),
        ("mistral", "[THINK][/THINK]", "[/INST]", ("[THINK]", "[/THINK]")),
        ("harmony", "<|channel|>", "<|start|>assistant", (ANALYSIS, ASSISTANT, FINAL)),
        ("harmony", "<|channel|>", f"Hi{ASSISTANT}", (ANALYSIS, ASSISTANT, FINAL)),
        ("harmony", "<|channel|>", f"Hi{ASSISTANT}{ANALYSIS}", (ASSISTANT + FINAL,)),
        ("harmony", "<|channel|>", f"Hi{ASSISTANT}{FINAL}", None),
    ],
)
def test_the_marks_come_from_parser_template_and_prompt(
    parser: str, template: str | None, prompt: str, marks: tuple[str, ...] | None
) -> None:
    assert reasoning_marks(parser, template, prompt) == marks


def test_a_prompt_that_opens_the_reasoning_is_read_in_it(tokenizer: Tokenizer) -> None:
    served = Served("demo", AsyncLLM.of(scripted_llm(tokenizer, 1, "")))
    prompt = tokenizer.encode("assistant\n<think>\n", add_special_tokens=False)
    form = {"json": WEATHER}
    assert served.after_reasoning(form, prompt) == form | {"after": ("</think>",)}
    assert served.after_reasoning(None, prompt) is None
    plain = tokenizer.encode("assistant\n", add_special_tokens=False)
    assert served.after_reasoning(form, plain) == form | {"after": THINK}


ALWAYS = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{# </think> #}"
SWITCHED = (
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is false %}\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize("ending", [ALWAYS, SWITCHED], ids=["always", "switched"])
@pytest.mark.parametrize("begun", ["The answer is", "Hm.</think>The answer is"])
def test_an_answer_that_is_begun_has_its_reasoning_behind_it(
    tokenizer: Tokenizer, ending: str, begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The begun text is part of the answer, even where the prompt opens the reasoning."""
    tokenizer.chat_template = f"{{{{ messages[0].content }}}}{ending}"
    monkeypatch.setitem(tokenizer.chat_templates, "default", tokenizer.chat_template)  # type: ignore[arg-type]
    head = tokenizer.encode_chat(HELLO)
    if "</think>" not in begun:
        head = tokenizer.encode_chat(HELLO, enable_thinking=False)
        if ending == ALWAYS:
            head += tokenizer.encode("\n</think>\n\n", add_special_tokens=False)
    wanted = head + tokenizer.encode(begun, add_special_tokens=False, parse_special=False)
    turns = [*HELLO, {"role": "assistant", "content": begun}]
    with serving({"demo": AsyncLLM.of(scripted_llm(tokenizer, len(wanted), " 42."))}) as running:
        choice = ask(running.url, messages=turns, continue_final_message=True)
        assert choice["message"] == {"role": "assistant", "content": " 42."}
        body = {"messages": turns, "max_tokens": 9}
        found = httpx.post(f"{running.url}/v1/messages", json=body, timeout=60).json()
    assert found["content"] == [{"type": "text", "text": " 42."}]
