"""bench/on_policy.py at its smallest, and docs/training.md held against its result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from documents import ROOT
from pyroclast.train import PretrainSettings

torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
pytest.importorskip("trl", reason="trl is not installed: pip install '.[train]'")
rollout_study = pytest.importorskip("pyroclast.train.rollout_study")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # torch's, trl's and transformers' own
]


def test_formats_differ_in_how_far_off_policy_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    text = tmp_path / "text.txt"
    text.write_text("the cat (sat) on the mat, and the hat [1]\n" * 120)
    monkeypatch.setattr(rollout_study, "standard_text", lambda _: text)
    monkeypatch.setattr(rollout_study, "FORMATS", ("float32", "q4_0"))
    monkeypatch.setattr(rollout_study, "START", PretrainSettings(
        steps=1, batch=2, layers=1, width=32, heads=2, context=64, vocab_size=280,
        precision="float32",
    ))  # fmt: skip
    learn = replace(rollout_study.LEARN, batch=4, group=2, max_tokens=4, samples=1)
    monkeypatch.setattr(rollout_study, "LEARN", learn)
    result = tmp_path / "on_policy.json"
    out = ["--out", str(tmp_path / "out"), "--json", str(result)]
    rollout_study.main("", ["--steps", "2", "--seeds", "1", *out])
    torch.set_num_threads(before)
    rows = json.loads(result.read_text())["rows"]
    exact, coarse = (row["curves"]["rollout_max_logprob_diff"] for row in rows)
    assert len(exact) == len(coarse) == 2
    assert max(exact) <= 1e-4 < min(coarse)
    assert "\n".join(rollout_study.table(rows)) in capsys.readouterr().out
    drawn = result.with_suffix(".svg").read_text()
    assert drawn.count("<svg") == 1 and "symlog" not in drawn


def test_the_page_has_the_figures_of_its_result() -> None:
    found = json.loads((ROOT / "bench" / "results" / "on_policy.json").read_text())
    page = (ROOT / "docs" / "training.md").read_text()
    assert "\n".join(rollout_study.table(found["rows"])) in page
    assert "(../bench/results/on_policy.svg)" in page
    exact = [row for row in found["rows"] if row["rollouts"] == "float32"]
    assert all(max(row["curves"]["rollout_max_logprob_diff"]) <= 1e-4 for row in exact)
