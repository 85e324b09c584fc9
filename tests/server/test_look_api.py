"""The data of the page `look`: what each endpoint answers, and what it refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pyroclast import AsyncLLM, SamplingParams, lens
from pyroclast.lens.vectors import ids_of_word
from pyroclast.server.look import Look
from server_at import RunningServer, serving
from tiny import CONFIGS, random_weights, write_gguf

IDS = [256, 7, 99, 3, 7]
KEY = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> AsyncLLM:
    path = tmp_path_factory.mktemp("look") / "tiny.gguf"
    write_gguf(path, CONFIGS["llama"], random_weights(CONFIGS["llama"]))
    return AsyncLLM(path, compute="float32", threads=1, max_batch_tokens=64, embeddings=True)


@pytest.fixture(scope="module")
def running(llm: AsyncLLM) -> Iterator[RunningServer]:
    with serving({"tiny": llm}, look=Look(), api_keys=["secret"]) as running:
        yield running
    llm.llm.close()


@pytest.fixture
def ask(running: RunningServer) -> Iterator[Any]:
    with httpx.Client(base_url=f"{running.url}/look/api", headers=KEY, timeout=60) as http:
        yield lambda name, **body: http.post(f"/{name}", json=body)


def floats(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_meta_tells_the_models_and_the_limits(running: RunningServer) -> None:
    answer = httpx.get(f"{running.url}/look/api/meta", headers=KEY, timeout=60).json()
    assert answer["models"] == ["tiny"] and answer["model"] == "tiny"
    assert answer["n_layers"] == 2 and answer["n_heads"] == 6 and answer["n_kv_heads"] == 2
    assert answer["vocab_size"] == 320 and answer["max_tokens_attention"] == 256
    assert answer["has_template"] is False and answer["eos_token_ids"] == [257]


def test_tokens_and_pieces(ask: Any) -> None:
    answer = ask("tokens", text="the\u00e9").json()
    assert answer["token_ids"] == [each["id"] for each in answer["pieces"]]
    said = [each for each in answer["pieces"] if not each["special"]]
    assert bytes(b for each in said for b in each["bytes"]).decode() == "the\u00e9"
    answer = ask("pieces", ids=[257, 258]).json()
    assert answer == {"pieces": [{"id": 257, "text": "<|eos|>"}, {"id": 258, "text": "th"}]}


def test_next_equals_the_public_function(ask: Any, llm: AsyncLLM) -> None:
    answer, want = ask("next", token_ids=IDS).json(), lens.next_token(llm.llm, IDS)
    np.testing.assert_array_equal(floats(answer["logits_b64"]), want.logits)
    assert answer["log_z"] == want.log_z and answer["entropy"] == want.entropy
    assert answer["n_equal_sides"] == want.n_equal_sides and answer["token_ids"] == IDS
    assert answer["top"][3] == {
        "id": want.top[3].id,
        "text": want.top[3].text,
        "p": want.top[3].p,
        "logit": want.top[3].logit,
    }


def test_trace_and_redraw_equal_the_public_functions(ask: Any, llm: AsyncLLM) -> None:
    params = {"temperature": 1.4, "top_p": 0.95, "seed": 9}
    want = lens.trace(llm.llm, IDS, SamplingParams(**params), n_top=5, n_prompt=2)
    answer = ask("trace", token_ids=IDS, params=params, top=5, n_prompt=2).json()
    assert answer == json.loads(json.dumps(asdict(want)))
    drawn = lens.redraw(llm.llm, IDS, SamplingParams(**params), 50, n_prompt=2)
    answer = ask("redraw", token_ids=IDS, params=params, n=50, n_prompt=2).json()
    assert [(c["id"], c["text"], c["n"]) for c in answer["counts"]] == list(drawn.counts)
    assert answer["seed"] == 9 and answer["position"] == len(IDS)
    assert ask("redraw", token_ids=IDS, n=3).json()["seed"] < 2**32


def test_generate_streams_a_step_for_each_token(ask: Any, llm: AsyncLLM) -> None:
    params = {"temperature": 1.5, "seed": 5, "ignore_eos": True}
    want = list(lens.generate(llm.llm, IDS, SamplingParams(**params), max_tokens=9))
    answer = ask("generate", token_ids=IDS, params=params, max_tokens=9)
    found = [json.loads(line[6:]) for line in answer.text.splitlines() if line[:6] == "data: "]
    *steps, end = found
    assert [{**each, "n_cached": 0} for each in steps] == [
        json.loads(json.dumps({**asdict(each), "n_cached": 0})) for each in want
    ]
    assert end["done"] is True and end["finish_reason"] == "length" and end["seed"] == 5
    assert end["timings"]["n_completion_tokens"] == 9
    # A step of an answer that has begun: penalties count its tokens.
    params |= {"presence_penalty": 2.0, "frequency_penalty": 2.0}
    [whole] = llm.llm.generate(IDS, SamplingParams(**params, max_tokens=20))
    ids = [*IDS, *whole.token_ids[:12]]
    answer = ask("generate", token_ids=ids, n_prompt=5, params=params, max_tokens=8)
    found = [json.loads(line[6:]) for line in answer.text.splitlines() if line[:6] == "data: "]
    assert [each["id"] for each in found[:-1]] == whole.token_ids[12:]


def test_the_views_of_the_inside_equal_the_public_functions(ask: Any, llm: AsyncLLM) -> None:
    answer = ask("attention", token_ids=IDS, layers=[1], heads=[0, 5]).json()
    want: Any = lens.attention(llm.llm, IDS, layers=[1], heads=[0, 5])
    weights = floats(answer["weights_b64"]).reshape(answer["shape"])
    np.testing.assert_array_equal(weights, want.weights)
    assert answer["layers"] == [1] and answer["heads"] == [0, 5] and answer["mean"] is False
    assert [each["id"] for each in answer["pieces"]] == IDS
    answer = ask("attention", token_ids=IDS, layers=[1], mean=True).json()
    assert answer["mean"] is True and answer["shape"] == [1, 1, 5, 5]
    answer = ask("layers", token_ids=IDS, position=2, k=3).json()
    want = lens.layers(llm.llm, IDS, position=2, k=3)
    assert answer["rows"] == json.loads(json.dumps([asdict(row) for row in want.rows]))
    assert answer["final"]["id"] == want.final.id and answer["position"] == 2
    body = {"a": {"token_ids": IDS, "index": 3}, "b": {"text": "the"}, "words": ["in", "an"]}
    answer = ask("movement", **body).json()
    want = lens.movement(llm.llm, (IDS, 3), ("the", -1), ["in", "an"])
    assert answer["cosines"] == want.cosines.tolist() and answer["tokens"][0]["id"] == 3
    answer = ask("rotation", distances=[0, 5], pair=2, layer=1).json()
    want = lens.rotation(llm.llm, [0, 5], pair=2, layer=1)
    assert answer["angles"] == want.angles.tolist() and answer["turns"] == want.turns.tolist()


def test_the_views_of_words_equal_the_public_functions(ask: Any, llm: AsyncLLM) -> None:
    answer = ask("neighbours", token=97, k=3).json()
    assert answer["rows"] == [asdict(row) for row in lens.neighbours(llm.llm, 97, 3)]
    ids = ids_of_word(llm.llm, "there")
    named = ask("neighbours", word="there", k=3).json()
    assert [piece["id"] for piece in named["pieces"]] == ids
    assert named["rows"] == ask("neighbours", token=ids[0], k=3).json()["rows"]
    answer = ask("analogy", a="the", b="in", c="an", k=2, expected="a").json()
    want: Any = lens.analogy(llm.llm, "the", "in", "an", 2, expected="a")
    assert answer == json.loads(json.dumps(asdict(want)))
    answer = ask("map", words=["the", "in", "an"]).json()
    want = lens.word_map(llm.llm, ["the", "in", "an"])
    assert [[each["x"], each["y"]] for each in answer["points"]] == want.points.tolist()
    assert [each["word"] for each in answer["points"]] == ["the", "in", "an"]
    answer = ask("sentences", texts=["the", "in"]).json()
    assert answer["similarity"] == lens.sentences(llm.llm, ["the", "in"]).similarity.tolist()


def test_compare_equals_the_public_function(ask: Any, llm: AsyncLLM) -> None:
    hot, cold = {"temperature": 2.0, "seed": 4}, {"temperature": 0.5}
    body = {"a": {"params": hot}, "b": {"params": cold, "model": "TINY"}, "max_tokens": 9}
    answer = ask("compare", token_ids=IDS, **body).json()
    sides = [lens.Setting(llm.llm, SamplingParams(**each)) for each in (hot, cold)]
    want = lens.compare(*sides, IDS, max_tokens=9)
    for name in ("a", "b"):
        assert [p["id"] for p in answer[name]] == [p.id for p in getattr(want, name)]
    assert answer["kl"] == want.kl.tolist() and answer["seed"] == 4
    assert answer["first_difference"] == want.first_difference is not None
    answer = ask("compare", token_ids=IDS, b={"model": "none"})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("next", {}, "exactly one of text, messages and token_ids"),
        ("next", {"text": "a", "token_ids": [1]}, "exactly one"),
        ("next", {"token_ids": []}, "no tokens"),
        ("next", {"token_ids": [320]}, "0..319, got 320"),
        ("next", {"token_ids": [-1]}, "token_ids"),
        ("next", {"token_ids": [1] * 300}, "256"),
        ("next", {"messages": [{"role": "user", "content": "x"}]}, "chat template"),
        ("tokens", {"text": 3}, "text"),
        ("pieces", {"ids": [1] * 1001}, "1000"),
        ("trace", {"token_ids": IDS, "params": {"temprature": 1}}, "did you mean 'temperature'"),
        ("trace", {"token_ids": IDS, "params": {"temperature": -1}}, "temperature"),
        ("trace", {"token_ids": IDS, "params": {"logits_processors": ["x"]}}, "logits_processors"),
        ("trace", {"token_ids": IDS, "params": {"logit_bias": {"999": 1}}}, "999"),
        ("trace", {"token_ids": IDS, "params": {"allowed_token_ids": []}}, "allowed_token_ids"),
        ("trace", {"token_ids": IDS, "params": [1]}, "params"),
        ("trace", {"token_ids": IDS, "top": 10**9}, "200"),
        ("redraw", {"token_ids": IDS, "n": 1001}, "1000"),
        ("generate", {"token_ids": IDS, "max_tokens": 513}, "512"),
        ("generate", {"token_ids": IDS, "n_prompt": 6}, "n_prompt must be 0 to 5"),
        ("compare", {"token_ids": IDS, "max_tokens": 257}, "256"),
        ("compare", {"token_ids": IDS, "b": {"params": {"top_p": 2}}}, "top_p"),
        ("attention", {"token_ids": IDS, "layers": [2]}, "0..1, got 2"),
        ("attention", {"token_ids": IDS, "layers": [2**70]}, "layers"),
        ("attention", {"token_ids": IDS, "heads": []}, "at least one"),
        ("attention", {"token_ids": [1] * 257}, "at most 256 tokens"),
        ("layers", {"token_ids": IDS, "position": 5}, "0..4, got 5"),
        ("movement", {"a": {"text": "a"}, "b": {"text": "a"}, "words": []}, "words"),
        ("movement", {"a": {}, "b": {"text": "a"}, "words": ["a"]}, "exactly one"),
        ("rotation", {"distances": [-1]}, "distances"),
        ("rotation", {"distances": [1], "pair": 8}, "0..7, got 8"),
        ("neighbours", {"token": 320}, "0..319"),
        ("neighbours", {}, "exactly one of token and word"),
        ("neighbours", {"token": 1, "word": "a"}, "exactly one of token and word"),
        ("analogy", {"a": "a", "b": " ", "c": "c"}, "only spaces"),
        ("map", {"words": ["a"]}, "3 to 200"),
        ("map", {"words": ["a" * 201] * 3}, "words"),
        ("sentences", {"texts": ["a"] * 33}, "32"),
        ("generate", {"token_ids": IDS, "params": {"structured": {"regex": "("}}}, "structured"),
    ],
)
def test_bad_bodies_are_told_what_is_wrong(
    ask: Any, name: str, body: dict[str, Any], said: str
) -> None:
    answer = ask(name, **body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_the_page_is_open_and_its_data_are_not(running: RunningServer, tmp_path: Path) -> None:
    answer = httpx.post(f"{running.url}/look/api/next", json={"token_ids": IDS}, timeout=60)
    assert answer.status_code == 401
    assert httpx.get(f"{running.url}/look/api/meta", timeout=60).status_code == 401
    answer = httpx.get(f"{running.url}/look", timeout=60)
    assert answer.status_code == 308 and answer.headers["location"] == "look/"
    for name in ("no.js", "../look.py", "..%2flook.py", "%2e%2e/%2e%2e/llm.py", "\\..\\x"):
        assert httpx.get(f"{running.url}/look/{name}", timeout=60).status_code in (401, 404)
    assert httpx.post(f"{running.url}/look/", timeout=60).status_code == 405
    answer = httpx.get(f"{running.url}/look/api/", headers=KEY, timeout=60)
    assert (answer.status_code, "--look" in answer.text) == (404, False)


def test_a_server_without_the_room_has_no_page(llm: AsyncLLM) -> None:
    with serving({"tiny": AsyncLLM.of(llm.llm)}) as running:
        answer = httpx.get(f"{running.url}/look/", timeout=60)
        assert (answer.status_code, "--look" in answer.text) == (404, True)
        answer = httpx.post(f"{running.url}/look/api/next", json={"token_ids": IDS}, timeout=60)
        assert answer.status_code == 404
