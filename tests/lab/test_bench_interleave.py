"""The benchmark of streams beside a prompt, on the fake model."""

import json
import time

import pytest

from fake_model import fake_llm
from pyroclast.lab.speed import interleave


@pytest.mark.parametrize("n_streams", [1, 3])
def test_streams_beside_a_prompt(n_streams, tmp_path, monkeypatch, capsys):
    llm = fake_llm(
        max_seq_len=4096, n_blocks=4096, max_batch_tokens=64, max_seqs=8, prefix_cache=False
    )
    llm.model.before_step = lambda: time.sleep(0.0005 * (1 + llm.model.batch.n_tokens))
    monkeypatch.setattr(
        interleave,
        "LLM",
        lambda model, **options: llm if options["prefix_cache"] is False else None,
    )
    path = tmp_path / "out.json"
    words = f"--prompt 300 --streams {n_streams} --quiet 0.1 --repeat 2 --json {path}"
    for _ in range(10):  # a busy machine may stretch the times of one side alone
        interleave.main("", words.split())
        [row] = json.loads(path.read_text())["rows"]
        assert (row["n_streams"], row["n_prompt"], row["model"]) == (n_streams, 300, "fake")
        assert row["beside_p95_ratio"] >= row["beside_median_ratio"]
        assert row["prompt_alone_s"] > 0.1
        # Less pacing would read 64 tokens a step: 15 times as long.
        is_paced = 1 < row["beside_median_ratio"] < 5 and row["n_gaps"] > 20
        if is_paced and row["prompt_beside_s"] > row["prompt_alone_s"]:
            break
    assert 1 < row["beside_median_ratio"] < 5
    assert row["prompt_beside_s"] > row["prompt_alone_s"]
    assert row["n_gaps"] > 20
    assert f"{n_streams} streams" in capsys.readouterr().out
