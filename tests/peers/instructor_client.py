"""instructor against the server: `python instructor_client.py URL MODEL`."""

import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel, Field


class City(BaseModel):
    """What the model is to extract."""

    name: Literal["Paris", "Rome"]
    is_capital: bool
    tags: list[Literal["old", "new"]] = Field(max_length=2)


def main(url: str, model: str) -> None:
    messages = [{"role": "user", "content": "Extract the city: Rome is the capital of Italy."}]
    asked = {
        "model": model,
        "messages": messages,
        "response_model": City,
        "max_tokens": 200,
        "max_retries": 0,
        "temperature": 0,
    }
    for mode in (
        instructor.Mode.TOOLS,
        instructor.Mode.TOOLS_STRICT,
        instructor.Mode.JSON_SCHEMA,
    ):
        client = instructor.from_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="none"), mode)
        city = client.chat.completions.create(**asked)
        assert isinstance(city, City), (mode, city)
        partial = list(client.chat.completions.create_partial(**asked))
        assert partial[-1].model_dump() == city.model_dump(), (mode, partial[-1], city)


if __name__ == "__main__":
    main(*sys.argv[1:])
