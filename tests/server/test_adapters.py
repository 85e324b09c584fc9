"""A model with adapters behind HTTP: each is a model of its own name, and answers as LLM does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from lora_files import random_pairs, write_gguf, write_peft
from pyroclast import LLM, AsyncLLM, SamplingParams
from pyroclast.cli.main import make_parser
from pyroclast.cli.serve import _load
from pyroclast.errors import RequestError
from pyroclast.server.app import create_app
from server_at import RunningServer, serving
from tiny import BASE, random_weights, write_folder

MESSAGES = [{"role": "user", "content": "ab"}]
TEXT = "the hat and the ant in the inn"
NAMES = (None, "x", "y")
MODELS = ("tiny", "tiny:x", "tiny:y")
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
ASKED = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with a chat template, and its adapters x and y."""
    path = tmp_path_factory.mktemp("served")
    config = write_folder(path / "model", BASE, random_weights(BASE)) / "tokenizer_config.json"
    template = {"chat_template": "{% for m in messages %}{{ m['content'] * 20 }}{% endfor %}"}
    config.write_text(json.dumps(json.loads(config.read_text()) | template))
    return {
        "model": path / "model",
        "x": write_peft(path / "x", random_pairs(BASE, 4)),
        "y": write_gguf(path / "y", BASE, random_pairs(BASE, 2, ("wq", "w_down"), seed=1)),
    }


@pytest.fixture(scope="module")
def running(files: dict[str, Path]) -> Iterator[RunningServer]:
    adapters = {name: files[name] for name in ("x", "y")}
    llm = AsyncLLM(files["model"], adapters=adapters, embeddings=True, n_blocks=64)
    with serving({"tiny": llm}) as running:
        yield running


@pytest.fixture
def llm(running: RunningServer) -> LLM:
    found: LLM = running.app.models.all[0].llm.llm
    return found


@pytest.fixture
def http(running: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as http:
        yield http


def post(http: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    reply = http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_models_are_listed_with_their_parents(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    found = [(each["id"], each["parent"], each["root"]) for each in listed["data"]]
    assert found == [("tiny", None, "tiny"), *((m, "tiny", "tiny") for m in MODELS[1:])]
    assert [each["slug"] for each in listed["models"]] == list(MODELS)
    assert http.get("/v1/models/tiny:x").json() == listed["data"][1]
    assert http.get("/v1/models/TINY:X").json() == listed["data"][1]


def test_chats_and_completions_are_those_of_llm(http: httpx.Client, llm: LLM) -> None:
    texts = set()
    for name, model in zip(NAMES, MODELS, strict=True):
        [want] = llm.chat(MESSAGES, GREEDY, adapter=name)
        texts.add(want.text)
        body = {"model": model, "messages": MESSAGES} | ASKED
        reply = post(http, "/v1/chat/completions", body)
        assert reply["choices"][0]["message"]["content"] == want.text
        assert reply["model"] == model
        message = post(http, "/v1/messages", body)
        assert message["content"][0]["text"] == want.text
        asked = {"model": model, "input": MESSAGES, "max_output_tokens": 6, "temperature": 0}
        answered = post(http, "/v1/responses", asked | {"ignore_eos": True})
        assert answered["output"][0]["content"][0]["text"] == want.text
        [want] = llm.generate([TEXT], GREEDY, adapter=name)
        reply = post(http, "/v1/completions", {"model": model, "prompt": TEXT} | ASKED)
        assert reply["choices"][0]["text"] == want.text
    assert len(texts) == 3


def test_openai_s_client_streams_from_an_adapter(running: RunningServer, llm: LLM) -> None:
    [want] = llm.chat(MESSAGES, GREEDY, adapter="x")
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        chunks = client.chat.completions.create(
            model="tiny:x",
            messages=MESSAGES,
            max_tokens=6,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == want.text
        assert [model.id for model in client.models.list()] == list(MODELS)
        with pytest.raises(openai.NotFoundError, match="tiny:z"):
            client.chat.completions.create(model="tiny:z", messages=MESSAGES)


def test_embeddings_are_those_of_llm(http: httpx.Client, llm: LLM) -> None:
    found = []
    for name, model in zip(NAMES, MODELS, strict=True):
        reply = post(http, "/v1/embeddings", {"model": model, "input": TEXT})
        found.append(reply["data"][0]["embedding"])
        np.testing.assert_allclose(found[-1], llm.embed([TEXT], adapter=name)[0], rtol=1e-6)
    assert found[0] != found[1] != found[2]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": TEXT}),
        ("/detokenize", {"tokens": [97, 98]}),
        ("/apply-template", {"messages": MESSAGES}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
        ("/v1/responses/input_tokens", {"input": MESSAGES}),
    ],
)
def test_endpoints_that_do_not_generate_know_the_names(
    http: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    replies = [post(http, path, body | {"model": model}) for model in MODELS]
    assert replies[0] == replies[1] == replies[2]
    assert http.post(path, json=body | {"model": "tiny:z"}).status_code == 404


@pytest.mark.parametrize("name", ["tiny:z", "x", "tiny:", ":x", "tiny:x:y"])
def test_an_unknown_adapter_is_a_404_that_lists_the_others(http: httpx.Client, name: str) -> None:
    reply = http.post("/v1/completions", json={"model": name, "prompt": "a"} | ASKED)
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "this server has: tiny, tiny:x, tiny:y" in error["message"]
    assert http.get(f"/v1/models/{name}").status_code == 404


def test_the_load_of_a_model_is_told_once(http: httpx.Client) -> None:
    """An adapter's requests run in its model's steps; its tokens are counted under its name."""
    body = {"model": "tiny:x", "prompt": TEXT} | ASKED
    post(http, "/v1/completions", body)
    lines = http.get("/metrics").text.splitlines()
    assert [line for line in lines if line.startswith("vllm:num_requests_running{")] == [
        'vllm:num_requests_running{model_name="tiny"} 0.0'
    ]
    counted = 'vllm:generation_tokens_total{model_name="tiny:x"}'
    assert any(line.startswith(counted) for line in lines)


def test_two_models_cannot_have_one_name(running: RunningServer) -> None:
    llm = running.app.models.all[0].llm
    with pytest.raises(RequestError, match="two models are called 'TINY:x'"):
        create_app({"tiny": llm, "TINY:x": llm})


def test_the_command_loads_what_its_flags_name(files: dict[str, Path]) -> None:
    flags = [f"--adapter={name}={files[name]}" for name in ("y", "x")]
    args = make_parser().parse_args(["serve", str(files["model"]), *flags, "--threads", "1"])
    [(name, llm)] = _load(args).items()
    assert (name, llm.llm.adapters) == ("model", ("y", "x"))
    llm.llm.close()
