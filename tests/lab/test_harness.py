"""lm-eval in process: PYROCLAST_LM_EVAL_PYTHON names a Python with lm_eval[api] and what Pyroclast
needs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from demo import demo_path
from lm_eval_tasks import QUESTIONS, read_samples, write_tasks
from pyroclast import LLM, SamplingParams

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    python = os.environ.get("PYROCLAST_LM_EVAL_PYTHON")
    if not python:
        pytest.skip("PYROCLAST_LM_EVAL_PYTHON names no Python")
    folder = tmp_path_factory.mktemp("harness")
    write_tasks(folder)
    paths = os.pathsep.join(str(ROOT / each) for each in ("engine", "kernels"))
    arguments = [
        *("run", "--model", "pyroclast", "--model_args", f"model={demo_path()},threads=1"),
        *("--include_path", str(folder), "--tasks", "choice,text,perplexity"),
        *("--output_path", str(folder / "out"), "--log_samples"),
    ]
    done = subprocess.run(
        [python, "-m", "pyroclast.lab.evaluate.harness", *arguments],
        env=os.environ
        | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return read_samples(folder)


@pytest.fixture(scope="module")
def llm() -> Any:
    with LLM(demo_path(), threads=1) as loaded:
        yield loaded


def test_loglikelihoods_are_those_of_score(llm: LLM, samples: dict[str, Any]) -> None:
    for question, sample in zip(QUESTIONS, samples["choice"], strict=True):
        choices: Any = question["choices"]
        scores = llm.score(question["question"], [f" {choice}" for choice in choices])
        found = [(float(logprob), greedy) for [[logprob, greedy]] in sample["resps"]]
        assert found == [(score.logprob, str(score.is_greedy)) for score in scores]
        logprobs = [logprob for logprob, _ in found]
        assert sample["acc"] == float(logprobs.index(max(logprobs)) == question["answer"])


def test_texts_are_those_of_generate(llm: LLM, samples: dict[str, Any]) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, stop=["\n"])
    for question, sample in zip(QUESTIONS, samples["text"], strict=True):
        prompt = f"Question: {question['question']}?\nAnswer:"
        assert sample["resps"] == [[llm.generate(prompt, params)[0].text]]


def test_whole_texts_are_scored_after_the_first_token(llm: LLM, samples: dict[str, Any]) -> None:
    begin = llm.tokenizer.encode(llm.tokenizer.named_tokens["bos_token"])
    for question, sample in zip(QUESTIONS, samples["perplexity"], strict=True):
        [score] = llm.score([begin + llm.tokenizer.encode(str(question["question"]))])
        assert float(sample["resps"][0][0]) == score.logprob
