"""The benchmark of streams beside a prompt, on the fake model and by a clock of its steps."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from fake_model import fake_llm
from pyroclast.engine import call, stepper
from pyroclast.lab.speed import interleave


def played(llm, monkeypatch):
    """A step takes half a millisecond, and as much for each token; the next one begins when every
    stream has read what this one brought, however late the machine runs them."""
    now_s, real_sleep = 0.0, asyncio.sleep

    def step():
        nonlocal now_s
        deadline = time.monotonic() + 60
        while any(each.chunks for each in llm._loop.stepper.calls()):
            assert time.monotonic() < deadline
            time.sleep(0.0002)
        now_s += 0.0005 * (1 + llm.model.batch.n_tokens)

    async def sleep(seconds):
        until_s = now_s + seconds
        while now_s < until_s:
            await real_sleep(0.001)

    llm.model.before_step = step
    for module in (call, stepper):
        monkeypatch.setattr(module, "perf_counter", lambda: now_s)
    monkeypatch.setattr(interleave, "time", SimpleNamespace(perf_counter=lambda: now_s))
    monkeypatch.setattr(asyncio, "sleep", sleep)


@pytest.mark.parametrize("n_streams", [1, 3])
def test_streams_beside_a_prompt(n_streams, tmp_path, monkeypatch, capsys):
    llm = fake_llm(
        max_seq_len=4096, n_blocks=4096, max_batch_tokens=64, max_seqs=8, prefix_cache=False
    )
    played(llm, monkeypatch)
    monkeypatch.setattr(
        interleave,
        "LLM",
        lambda model, **options: llm if options["prefix_cache"] is False else None,
    )
    path = tmp_path / "out.json"
    words = f"--prompt 300 --streams {n_streams} --quiet 0.1 --repeat 2 --json {path}"
    interleave.main("", words.split())
    [row] = json.loads(path.read_text())["rows"]
    assert (row["n_streams"], row["n_prompt"], row["model"]) == (n_streams, 300, "fake")
    # Less pacing would read 64 tokens a step: 15 times as long.
    assert 1 < row["beside_median_ratio"] < 5
    assert row["beside_p95_ratio"] >= row["beside_median_ratio"]
    assert row["prompt_beside_s"] > row["prompt_alone_s"] > 0.1
    assert row["n_gaps"] > 20
    assert f"{n_streams} streams" in capsys.readouterr().out
