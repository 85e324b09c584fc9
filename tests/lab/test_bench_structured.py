"""The benchmark of structured output, on a model that writes at random."""

import json

import pytest

from pyroclast.lab.speed import structured
from pyroclast.sampling.grammar import Matcher
from random_answers import byte_llm


def steps_of(llm, batch, params):
    """Stands for decode_s: a second for each step, however busy the machine is."""
    n_before = len(llm.model.steps)
    assert real_decode_s(llm, batch, params) > 0
    return float(len(llm.model.steps) - n_before)


real_decode_s = structured.decode_s


def test_rows_of_structured_output(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(structured, "LLM", lambda model, **options: byte_llm())
    monkeypatch.setattr(structured, "decode_s", steps_of)
    real = Matcher.write_mask
    path = tmp_path / "out.json"
    structured.main("", f"-b 2 -n 30 --repeat 3 --json {path}".split())
    steps, jumps = json.loads(path.read_text())["rows"]
    assert (steps["batch"], steps["jumps"], jumps["jumps"]) == (2, False, True)
    for row in (steps, jumps):
        assert 0 < row["mask_share"] < 1
        assert row["write_mask_median_us"] > 0
        assert row["mask_share_quartiles"][0] <= row["mask_share"]
        ratio = row["structured_ms_per_token"] / row["free_ms_per_token"]
        assert row["ratio"] == pytest.approx(ratio)
    # Names are forced: a step each without jumps, none with them.
    assert jumps["ratio"] < 0.9 * steps["ratio"]
    assert steps["forced_median_us"] == 0
    assert Matcher.write_mask is real
    assert "batch 2, jumps: the matcher takes" in capsys.readouterr().out
