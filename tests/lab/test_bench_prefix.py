"""The benchmark of the prefix cache, on the fake model and by a clock that its steps move."""

import json

import pytest

from fake_model import fake_llm
from pyroclast.engine import call, stepper
from pyroclast.lab.speed import disk_prefix, prefix


@pytest.fixture
def clock(monkeypatch):
    """[seconds]; a look at it takes a microsecond."""
    now_s = [0.0]

    def look():
        now_s[0] += 1e-6
        return now_s[0]

    for module in (call, stepper, disk_prefix):
        monkeypatch.setattr(module, "perf_counter", look)
    return now_s


def slow_down(llm, clock, token_s):
    """Each token of a step takes so long."""

    def step():
        clock[0] += token_s * llm.model.batch.n_tokens

    llm.model.before_step = step


def test_cached_and_new_prompts_in_turn(tmp_path, monkeypatch, capsys, clock):
    made = []

    def load(model, **options):
        cached = options.get("prefix_cache", True)
        llm = fake_llm(max_seq_len=2048, n_blocks=1024, max_batch_tokens=64, prefix_cache=cached)
        slow_down(llm, clock, 0.0002)
        made.append((model, cached))
        return llm

    monkeypatch.setattr(prefix, "LLM", load)
    path = tmp_path / "out.json"
    prefix.main("", f"--model one --prompt 130 --gen 5 --repeat 4 --json {path}".split())
    row, turns = json.loads(path.read_text())["rows"]
    assert made == [("one", False), ("one", True)]
    assert (row["n_prompt"], row["n_cached"]) == (130, 129)
    assert row["hit_s"] < row["miss_s"] / 4
    assert row["hit_ratio"] < 1 / 4
    assert 0.5 < row["miss_ratio"] < 2
    assert row["hit_quartiles_s"][0] <= row["hit_s"] <= row["hit_quartiles_s"][1]
    assert turns["n_turns"] == 10
    assert turns["n_computed"] < turns["n_prompt"] / 4
    assert turns["first_token_ratio"] < 1 / 4
    out = capsys.readouterr().out
    assert "with 129 of them cached" in out
    assert f"of which {turns['n_computed']} are computed" in out


def test_prompts_from_disk_after_a_restart(tmp_path, monkeypatch, capsys, clock):
    made = []

    def load(model, *, threads, cache_dir):
        llm = fake_llm(max_seq_len=512, n_blocks=512, max_batch_tokens=64, cache_dir=cache_dir)
        slow_down(llm, clock, 0.0005)
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
