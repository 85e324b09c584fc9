"""OpenAI's own Python client against the server: every endpoint that it has and we serve."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from server_at import HELLO, MODEL, WEATHER, RunningServer, serving

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": WEATHER,
        },
    }
]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path())}) as running:
        yield running


@pytest.fixture
def client(running: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=24, temperature=0, seed=1
    )
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is not None


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 24, "temperature": 0.8, "seed": 7}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == (
        whole.choices[0].message.content
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


def test_usage_comes_last_and_only_when_asked_for(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 4
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_choices_and_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=5, n=3, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content
        assert all(len(each.top_logprobs) == 2 for each in choice.logprobs.content)


def test_a_named_tool_is_called_with_arguments_of_its_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "How is the weather in Rome?"}],
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=60,
    )
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_streamed_calls_have_an_index_and_one_id(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "How is the weather in Rome?"}],
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,  # on some CPUs the small model calls for ever
        temperature=0,
        max_tokens=200,
    ) as stream:
        final = stream.get_final_completion()
    [choice] = final.choices
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.id
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_a_schema_is_enforced(client: openai.OpenAI) -> None:
    class Capital(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=10)
        is_capital: bool

    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe Paris as JSON."}],
        response_format=Capital,
        max_tokens=80,
        seed=1,
    )
    assert isinstance(answer.choices[0].message.parsed, Capital)


def test_completions_with_echo_and_logprobs(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The sky is", max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    [choice] = answer.choices
    assert choice.text.startswith("The sky is")
    assert choice.logprobs is not None
    names, logprobs = choice.logprobs.tokens, choice.logprobs.token_logprobs
    assert names is not None
    assert logprobs is not None
    assert len(names) == len(logprobs)
    assert logprobs[0] is None
    assert "".join(names) == choice.text


def test_completions_of_several_prompts_in_one_stream(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": ["One", "Two"], "max_tokens": 6, "seed": 3, "n": 2}
    whole = client.completions.create(**asked)
    texts = [""] * 4
    for chunk in client.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=MODEL, instructions="Be brief.", input="Say hello.", max_output_tokens=16
    )
    assert answer.status in ("completed", "incomplete")
    assert answer.output_text
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_a_stream_of_responses(client: openai.OpenAI) -> None:
    events = list(
        client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=8, stream=True)
    )
    kinds = [each.type for each in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert [each.sequence_number for each in events] == list(range(len(events)))
    deltas = [each.delta for each in events if each.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text  # type: ignore[union-attr]


def test_models(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("nobody")


def test_errors_name_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="maximum context length") as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "a b " * 9000}]
        )
    assert caught.value.code == "context_length_exceeded"


def test_echoed_logprobs_are_those_of_score(client: openai.OpenAI, running: RunningServer) -> None:
    """What lm-eval asks for: a prompt as token ids, and exactly one token more."""
    llm = running.app.models.all[0].llm.llm
    prompts = [llm.tokenizer.encode(text) for text in ("Paris is in France.", "The sky is green.")]
    answer = client.completions.create(
        model=MODEL, prompt=prompts, max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1
    )
    for ids, choice, score in zip(prompts, answer.choices, llm.score(prompts), strict=True):
        assert choice.logprobs is not None
        found, tops = choice.logprobs.token_logprobs, choice.logprobs.top_logprobs
        assert found is not None
        assert tops is not None
        assert len(found) == len(ids) + 1
        wanted = [None if each is None else each.logprob for each in score.logprobs]
        assert found[:-1] == wanted
        for logprob, top, each in zip(found[1:-1], tops[1:-1], score.logprobs[1:], strict=True):
            assert each is not None
            assert (logprob == max(top.values())) == each.is_greedy


class City(pydantic.BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]


ASK_CITY = [{"role": "user", "content": "Which city is the capital of Italy?"}]


def test_a_streamed_chat_is_parsed(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ASK_CITY, response_format=City, max_tokens=100, seed=1
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, City)
    assert "content.delta" in kinds


def test_parsed_responses(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "input": ASK_CITY, "text_format": City, "max_output_tokens": 100}
    assert isinstance(client.responses.parse(**asked).output_parsed, City)
    with client.responses.stream(**asked) as stream:
        assert "response.output_text.delta" in [event.type for event in stream]
        assert isinstance(stream.get_final_response().output_parsed, City)


def test_a_loop_of_chats_with_a_tool(client: openai.OpenAI) -> None:
    """The message with the calls goes back as it came."""
    messages: list[Any] = list(ASK_CITY)
    tools = [openai.pydantic_function_tool(City)]
    asked = {"model": MODEL, "tools": tools, "max_tokens": 150, "parallel_tool_calls": False}
    message = (
        client.chat.completions.parse(**asked, messages=messages, tool_choice="required")
        .choices[0]
        .message
    )
    [call] = message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, City)
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "Right."}]
    answer = client.chat.completions.create(**asked | {"max_tokens": 4}, messages=messages)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 4


def test_a_loop_of_responses_with_a_tool(client: openai.OpenAI) -> None:
    """The items of the first answer go back as they came."""
    schema = City.model_json_schema() | {"additionalProperties": False}
    tools = [{"type": "function", "name": "city", "strict": True, "parameters": schema}]
    asked = {"model": MODEL, "tools": tools, "max_output_tokens": 100}
    items: list[Any] = list(ASK_CITY)
    first = client.responses.create(
        **asked, input=items, tool_choice={"type": "function", "name": "city"}
    )
    [call] = first.output
    items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "Right."}]
    second = client.responses.create(**asked | {"max_output_tokens": 4}, input=items)
    assert second.usage.input_tokens > first.usage.input_tokens
