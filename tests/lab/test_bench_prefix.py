"""The benchmark of the prefix cache, on the fake model."""

import json
import time

from fake_model import fake_llm
from pyroclast.lab.speed import disk_prefix, prefix


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


def test_prompts_from_disk_after_a_restart(tmp_path, monkeypatch, capsys):
    made = []

    def load(model, *, threads, cache_dir):
        llm = fake_llm(max_seq_len=512, n_blocks=512, max_batch_tokens=64, cache_dir=cache_dir)
        llm.model.before_step = lambda: time.sleep(0.0005 * llm.model.batch.n_tokens)
        made.append((model, threads, cache_dir is not None))
        return llm

    monkeypatch.setattr(disk_prefix, "LLM", load)
    path = tmp_path / "out.json"
    words = f"--model one -t 3 --disk 130 --disk 200 --repeat 2 --json {path}"
    prefix.main("", words.split())
    rows = json.loads(path.read_text())["rows"]
    assert made[:5] == [("one", 3, has_folder) for has_folder in (True, True, False, False, True)]
    assert [(row["n_prompt"], row["n_cached"]) for row in rows] == [(130, 128), (200, 196)]
    for row in rows:
        assert row["disk_s"] < row["cold_s"] / 2
        assert row["disk_ratio"] < 1 / 2
        assert row["load_folder_s"] > 0 and row["load_ratio"] > 0
        assert row["n_bytes"] > 2 * 32 * row["n_cached"] // 4
    assert "with 128 of them on disk after" in capsys.readouterr().out
