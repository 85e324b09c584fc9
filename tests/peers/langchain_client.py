"""langchain-openai against the server: `python langchain_client.py URL MODEL`."""

import sys
from typing import Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]


@tool
def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return f"It is sunny in {city}."


def main(url: str, model: str) -> None:
    base = {"base_url": f"{url}/v1", "api_key": "none", "model": model, "max_retries": 0}
    for uses_responses in (False, True):
        chat = ChatOpenAI(
            **base,
            temperature=0,
            max_tokens=200,
            use_responses_api=uses_responses,
            stream_usage=True,
        )
        check_chat(chat)
    text = OpenAI(**base, max_tokens=8, temperature=0).invoke("The sky is")
    assert text
    embeddings = OpenAIEmbeddings(**base, check_embedding_ctx_length=False)
    first, second = embeddings.embed_documents(["a", "b"])
    assert len(first) == len(second) > 100
    vectors = OpenAIEmbeddings(**base, tiktoken_enabled=False, check_embedding_ctx_length=False)
    assert vectors.embed_query("a") == first


def check_chat(chat: ChatOpenAI) -> None:
    turns = [SystemMessage("Be brief."), HumanMessage("Say hello.")]
    answer = chat.invoke(turns)
    assert answer.text, answer
    assert answer.usage_metadata["output_tokens"] > 0, answer
    chunks = list(chat.stream(turns))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == answer.text, (whole, answer)
    assert whole.usage_metadata == answer.usage_metadata, (whole, answer)
    for method in ("json_schema", "function_calling"):
        found = chat.with_structured_output(City, method=method).invoke(
            "Which city is Italy's capital?"
        )
        assert isinstance(found, City), (method, found)
    check_tools(chat)


def check_tools(chat: ChatOpenAI) -> None:
    question = HumanMessage("How is the weather in Rome?")
    for choice in ("weather", "any"):
        call = chat.bind_tools([weather], tool_choice=choice, strict=True).invoke([question])
        assert isinstance(call, AIMessage)
        assert call.tool_calls[0]["name"] == "weather", (choice, call)
        assert call.tool_calls[0]["args"]["city"] in ("Paris", "Rome"), call
    result = weather.invoke(call.tool_calls[0])
    assert isinstance(result, ToolMessage)
    last = chat.bind_tools([weather]).invoke([question, call, result])
    assert last.usage_metadata["input_tokens"] > 20, last


if __name__ == "__main__":
    main(*sys.argv[1:])
