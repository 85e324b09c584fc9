"""The benchmark of the prefix cache, on the fake model."""

import json
import time

from fake_model import fake_llm
from pyroclast.lab.speed import prefix


def test_cached_and_new_prompts_in_turn(tmp_path, monkeypatch, capsys):
    made = []

    def load(model, **options):
        cached = options.get("prefix_cache", True)
        llm = fake_llm(max_seq_len=512, n_blocks=512, max_batch_tokens=64, prefix_cache=cached)
        llm.model.before_step = lambda: time.sleep(0.0002 * llm.model.batch.n_tokens)
        made.append((model, cached))
        return llm

    monkeypatch.setattr(prefix, "LLM", load)
    path = tmp_path / "out.json"
    prefix.main("", f"--model one --prompt 130 --repeat 4 --json {path}".split())
    [row] = json.loads(path.read_text())["rows"]
    assert made == [("one", False), ("one", True)]
    assert (row["n_prompt"], row["n_cached"]) == (130, 128)
    assert row["hit_s"] < row["miss_s"] / 4
    assert row["hit_ratio"] < 1 / 4
    assert 0.5 < row["miss_ratio"] < 2
    assert row["hit_quartiles_s"][0] <= row["hit_s"] <= row["hit_quartiles_s"][1]
    assert "with 128 of them cached" in capsys.readouterr().out
