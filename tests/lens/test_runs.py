"""What is read of a training run, whatever its files hold, and P(next) by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyroclast import LLM, RequestError, lens
from pyroclast.lens import runs
from tiny import CONFIGS, random_weights, write_folder


def run_in(folder: Path, lines: list[Any], samples: tuple[Any, ...] = ()) -> Path:
    run = folder / "first run"
    run.mkdir(parents=True)
    for name, rows in (("log.jsonl", lines), ("samples.jsonl", samples)):
        texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (run / name).write_text("\n".join(texts))
    return run


def test_the_curve_skips_what_is_no_point(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss": 4.5, "tokens_per_s": 100.0},
        {"step": 2, "loss": float("nan")},
        {"step": "3", "loss": 1.0},
        {"step": -1, "loss": 1.0},
        {"step": True, "loss": 1.0},
        {"note": "warm"},
        [1],
        "[" * 100_000,
        {"step": 4, "loss": 3},
        '{"step": 5, "lo',  # is being written
    ]
    run = run_in(tmp_path, lines, ({"step": 4, "text": "once"}, {"text": "no step"}))
    found = lens.training(run)
    assert found.steps.tolist() == [1, 4] and found.loss.tolist() == [4.5, 3.0]
    assert found.speed[0] == 100.0 and np.isnan(found.speed[1])
    assert found.samples == ((4, "once"),) and found.checkpoints == ()
    assert lens.training_runs(tmp_path) == {"first run": run}
    assert lens.training_runs(run) == {"first run": run}
    with pytest.raises(RequestError, match="no checkpoints"):
        lens.learning(run, "a")
    with pytest.raises(RequestError, match="cannot read"):
        lens.training(tmp_path)


def test_long_curves_are_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_POINTS", 5)
    run = run_in(tmp_path, [{"step": i, "loss": 1 / (i + 1)} for i in range(1001)])
    found = lens.training(run)
    assert found.steps.tolist() == [0, 250, 500, 750, 1000]
    assert found.loss[-1] == 1 / 1001


def test_learning_is_p_next_of_each_checkpoint(tmp_path: Path) -> None:
    run = run_in(tmp_path, [{"step": 0, "loss": 5.0}])
    config = CONFIGS["llama-mha"]
    for step in (0, 20, 100):
        folder = run / f"step-{step}"
        folder.mkdir()
        write_folder(folder, config, random_weights(config, seed=step))
    (run / "step-7").mkdir()  # is being written
    assert lens.training(run).checkpoints == (0, 20, 100)
    found = lens.learning(run, "the", n_steps=2)
    assert found.steps == (0, 100) and len(found.tokens) == 10
    for row, step in enumerate(found.steps):
        with LLM(run / f"step-{step}") as llm:
            want = lens.next_token(llm, "the")
        p = np.exp(want.logits - want.log_z)
        np.testing.assert_allclose(found.p[row], p[[i for i, _ in found.tokens]], rtol=1e-5)
        assert found.entropy[row] == want.entropy
    assert [i for i, _ in found.tokens] == [each.id for each in want.top[:10]]
    with pytest.raises(RequestError, match="1 to 12, got 13"):
        lens.learning(run, "the", n_steps=13)
