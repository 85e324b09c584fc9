"""instructor, langchain-openai, litellm and lm-eval, each in a Python of its own, against the
server.

PYROCLAST_CLIENTS_PYTHON names a Python that has instructor, langchain-openai and litellm, and
PYROCLAST_LM_EVAL_PYTHON one that has lm_eval[api]."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import demo_path
from lm_eval_tasks import QUESTIONS, read_samples, write_tasks
from pyroclast import AsyncLLM, SamplingParams
from server_at import MODEL, RunningServer, serving

PEERS = Path(__file__).parents[1] / "peers"


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path(), embeddings=True)}) as running:
        yield running


def run(variable: str, *arguments: object, **more: str) -> None:
    """Runs the Python that the environment names."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, *map(str, arguments)],
        env=environment | more,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("client", ["instructor", "langchain", "litellm"])
def test_a_client_works(running: RunningServer, client: str) -> None:
    run("PYROCLAST_CLIENTS_PYTHON", PEERS / f"{client}_client.py", running.url, MODEL)


@pytest.fixture(scope="module")
def samples(
    running: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """What lm-eval has of each question, by task."""
    folder = tmp_path_factory.mktemp("lm_eval")
    write_tasks(folder)
    model = {
        "model": MODEL,
        "base_url": f"{running.url}/v1/completions",
        "num_concurrent": 4,
        "tokenizer_backend": "remote",
    }
    run(
        "PYROCLAST_LM_EVAL_PYTHON",
        *("-m", "lm_eval", "run", "--model", "local-completions"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in model.items())),
        *("--include_path", folder, "--tasks", "choice,text,perplexity"),
        *("--output_path", folder / "out", "--log_samples"),
        HF_HUB_OFFLINE="1",
        HF_HOME=str(folder / "home"),
    )
    return read_samples(folder)


def test_lm_eval_has_the_loglikelihoods_of_score(
    running: RunningServer, samples: dict[str, list[dict[str, Any]]]
) -> None:
    llm = running.app.models.all[0].llm.llm
    for question, sample in zip(QUESTIONS, samples["choice"], strict=True):
        context = str(question["question"])
        sums = []
        for choice, [[logprob, is_greedy]] in zip(
            question["choices"], sample["resps"], strict=True
        ):
            ids, n_context = (
                llm.tokenizer.encode(f"{context} {choice}"),
                len(llm.tokenizer.encode(context)),
            )
            scored = llm.score([ids])[0].logprobs[n_context:]
            sums.append(sum(each.logprob for each in scored))
            assert float(logprob) == sums[-1]
            assert is_greedy == str(all(each.is_greedy for each in scored))
        best = max(range(len(sums)), key=sums.__getitem__)
        assert sample["acc"] == float(best == question["answer"])


def test_lm_eval_has_the_perplexity_of_score(
    running: RunningServer, samples: dict[str, list[dict[str, Any]]]
) -> None:
    """The text is scored after the token that begins a sequence."""
    llm = running.app.models.all[0].llm.llm
    begin = llm.tokenizer.encode(llm.tokenizer.named_tokens["bos_token"])
    for question, sample in zip(QUESTIONS, samples["perplexity"], strict=True):
        ids = begin + llm.tokenizer.encode(str(question["question"]))
        wanted = sum(each.logprob for each in llm.score([ids])[0].logprobs[1:])
        assert float(sample["resps"][0][0]) == wanted


def test_lm_eval_has_the_greedy_texts(
    running: RunningServer, samples: dict[str, list[dict[str, Any]]]
) -> None:
    llm = running.app.models.all[0].llm.llm
    params = SamplingParams(temperature=0, max_tokens=12, stop=["\n"])
    for question, sample in zip(QUESTIONS, samples["text"], strict=True):
        prompt = f"Question: {question['question']}?\nAnswer:"
        assert sample["resps"] == [[llm.generate(prompt, params)[0].text]]
