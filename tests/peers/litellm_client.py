"""litellm against the server: `python litellm_client.py URL MODEL`."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # instead of fetching it
import litellm
from litellm.exceptions import ContextWindowExceededError

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
            "maxProperties": 1,  # some providers leave out the line above
        },
    },
}
HELLO = [{"role": "user", "content": "Say hello."}]


def main(url: str, model: str) -> None:
    for provider, base in (
        ("openai", f"{url}/v1"),
        ("hosted_vllm", f"{url}/v1"),
        ("anthropic", url),
    ):
        asked = {
            "model": f"{provider}/{model}",
            "api_base": base,
            "api_key": "none",
            "max_tokens": 40,
            "temperature": 0,
            "num_retries": 0,
        }
        check_chat(asked)
        check_tools(asked)
        check_overflow(asked)
    texts = litellm.text_completion(
        model=f"text-completion-openai/{model}",
        api_base=f"{url}/v1",
        api_key="none",
        prompt=["The sky is", "The sea is"],
        max_tokens=4,
    )
    assert len(texts.choices) == 2, texts
    vectors = litellm.embedding(
        model=f"openai/{model}", api_base=f"{url}/v1", api_key="none", input=["a", "b"]
    )
    assert len(vectors.data) == 2, vectors
    response = litellm.responses(
        model=f"openai/{model}",
        api_base=f"{url}/v1",
        api_key="none",
        input="Say hello.",
        max_output_tokens=8,
    )
    assert response.status in ("completed", "incomplete"), response


def check_chat(asked: dict) -> None:
    whole = litellm.completion(**asked, messages=HELLO)
    text = whole.choices[0].message.content
    assert text, whole
    assert whole.usage.completion_tokens > 0, whole
    chunks = list(
        litellm.completion(
            **asked, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    found = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert found == text, (found, text)
    assert litellm.stream_chunk_builder(chunks).usage.completion_tokens == (
        whole.usage.completion_tokens
    )


def check_tools(asked: dict) -> None:
    question = {"role": "user", "content": "How is the weather in Rome?"}
    chosen = {"type": "function", "function": {"name": "weather"}}
    for choice in (chosen, "required"):
        answer = litellm.completion(
            **asked | {"max_tokens": 100}, messages=[question], tools=[WEATHER], tool_choice=choice
        ).choices[0]
        assert answer.finish_reason == "tool_calls", answer
        call = answer.message.tool_calls[0]
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome"), answer
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    last = litellm.completion(
        **asked, messages=[question, answer.message.model_dump(), result], tools=[WEATHER]
    )
    assert last.usage.prompt_tokens > 20, last


def check_overflow(asked: dict) -> None:
    try:
        litellm.completion(**asked, messages=[{"role": "user", "content": "a b " * 9000}])
    except ContextWindowExceededError:
        return
    raise AssertionError("an overflow must be recognised")


if __name__ == "__main__":
    main(*sys.argv[1:])
