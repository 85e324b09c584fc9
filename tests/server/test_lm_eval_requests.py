"""The requests that lm-eval's local-completions sends, with its way of reading the replies: the
loglikelihoods are those of LLM.score, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from demo import demo_path
from pyroclast import LLM, AsyncLLM, SamplingParams
from server_at import MODEL, RunningServer, serving

PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Rome, of course"),
    ("Naïve café 🙂:", " déjà vu"),
    ("1 + 1 =", " 3"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path())}) as running:
        yield running


@pytest.fixture
def llm(running: RunningServer) -> LLM:
    return running.app.models.all[0].llm.llm


@pytest.fixture
def http(running: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


def encode(http: httpx.Client, text: str) -> list[int]:
    body = {"prompt": text, "add_special_tokens": False}
    ids: list[int] = http.post("/tokenize", json=body).json()["tokens"]
    return ids


def completions(http: httpx.Client, prompt: Any, **more: Any) -> list[Any]:
    """The choices, by index."""
    body = {"model": MODEL, "prompt": prompt, "temperature": 0, "seed": 1234} | more
    answer = http.post("/v1/completions", json=body)
    assert answer.is_success, answer.text
    return sorted(answer.json()["choices"], key=lambda choice: int(choice["index"]))


def likelihood(choice: dict[str, Any], n_context: int, end: int | None) -> tuple[float, bool]:
    """(loglikelihood, whether greedy decoding would have written it)."""
    logprobs = choice["logprobs"]["token_logprobs"][n_context:end]
    tops = choice["logprobs"]["top_logprobs"][n_context:end]
    greedy = all(x == max(top.values()) for x, top in zip(logprobs, tops, strict=True))
    return sum(logprobs), greedy


def scored(llm: LLM, ids: list[int], n_context: int) -> tuple[float, bool]:
    found = [each for each in llm.score([ids])[0].logprobs[n_context:] if each is not None]
    return sum(each.logprob for each in found), all(each.is_greedy for each in found)


@pytest.mark.parametrize(("max_tokens", "end"), [(1, -1), (0, None)])
def test_loglikelihoods_are_those_of_score(
    http: httpx.Client, llm: LLM, max_tokens: int, end: int | None
) -> None:
    """Four requests at a time, then all prompts in one; with the token that lm-eval leaves out,
    and without it."""
    more = {"max_tokens": max_tokens, "logprobs": 1, "echo": True}
    prompts = [encode(http, context + rest) for context, rest in PAIRS]
    n_contexts = [len(encode(http, context)) for context, _ in PAIRS]
    wanted = [scored(llm, ids, n) for ids, n in zip(prompts, n_contexts, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        single = list(pool.map(lambda ids: completions(http, [ids], **more)[0], prompts))
    for choices in (single, completions(http, prompts, **more)):
        found = [likelihood(each, n, end) for each, n in zip(choices, n_contexts, strict=True)]
        assert found == wanted
        lengths = [len(each["logprobs"]["tokens"]) for each in choices]
        assert lengths == [len(ids) + max_tokens for ids in prompts]


def test_a_prompt_as_text_is_scored_as_its_ids(http: httpx.Client, llm: LLM) -> None:
    more = {"max_tokens": 1, "logprobs": 1, "echo": True}
    for context, rest in PAIRS:
        ids, n_context = encode(http, context + rest), len(encode(http, context))
        [choice] = completions(http, context + rest, **more)
        assert likelihood(choice, n_context, -1) == scored(llm, ids, n_context)


def test_the_one_token_may_be_the_end_of_the_text(http: httpx.Client, llm: LLM) -> None:
    """It is left out of the sum, so it must be there whatever it is."""
    [eos] = encode(http, http.get("/tokenizer_info").json()["eos_token"])
    ids = encode(http, "The end.")
    more = {"max_tokens": 1, "logprobs": 1, "echo": True, "logit_bias": {str(eos): 100}}
    [choice] = completions(http, [ids], **more)
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["token_logprobs"]) == len(ids) + 1
    assert likelihood(choice, 1, -1) == scored(llm, ids, 1)


def test_generations_are_greedy_and_stop(http: httpx.Client, llm: LLM) -> None:
    prompt, stops = "Question: What is the capital of France?\nAnswer:", ["\n", "<|im_end|>"]
    [choice] = completions(http, [encode(http, prompt)], max_tokens=16, stop=stops)
    [wanted] = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=16, stop=stops))
    assert choice["text"] == wanted.text
    assert "\n" not in choice["text"]


def test_the_remote_tokenizer_has_what_is_asked_of_it(http: httpx.Client, llm: LLM) -> None:
    info = http.get("/tokenizer_info").json()
    for name in ("bos_token", "eos_token"):
        assert len(encode(http, info[name])) == 1
    assert info["chat_template"] == llm.tokenizer.chat_template
    for context, _ in PAIRS:
        body = {"tokens": encode(http, context)}
        assert http.post("/detokenize", json=body).json()["prompt"] == context
