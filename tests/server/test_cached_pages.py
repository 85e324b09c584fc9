"""A server that was started again answers from the pages on disk, and says so."""

import httpx
import pytest

import tiny
from pyroclast import LLM, AsyncLLM
from server_at import serving

pytest.importorskip("starlette", reason="pip install '.[server]'")


def test_usage_and_metrics_count_what_came_from_disk(tmp_path):
    config = tiny.CONFIGS["llama"]
    path = tiny.write_gguf(tmp_path / "tiny.gguf", config, tiny.random_weights(config))
    body = {"model": "tiny", "prompt": list(range(1, 101)), "max_tokens": 3, "temperature": 0}
    answers, counts = [], []
    for _ in range(2):
        with (
            LLM(path, threads=1, cache_dir=tmp_path / "pages") as llm,
            serving({"tiny": AsyncLLM.of(llm)}) as server,
        ):
            answers.append(httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json())
            lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
            [count] = [line for line in lines if line.startswith("pyroclast:prefix_cache_disk")]
            counts.append(count)
    cached = [each["usage"]["prompt_tokens_details"]["cached_tokens"] for each in answers]
    assert cached == [0, 96]
    assert 'vllm:num_preemptions_total{model_name="tiny"} 0.0' in lines
    name = 'pyroclast:prefix_cache_disk_pages_total{model_name="tiny"}'
    assert counts == [f"{name} 0.0", f"{name} 3.0"]
    assert answers[0]["choices"][0]["text"] == answers[1]["choices"][0]["text"]
