"""A seed gives the same tokens in every process: nothing of a draw lives outside its arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyroclast_kernels import sample
from pyroclast_kernels.selection import all_variants

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = [name for name, v in all_variants("sample").items() if not v.unavailable]
DRAW = """
import json, sys
from test_sample_restart import draw
print(json.dumps(draw(sys.argv[1])))
"""


def draw(variant: str) -> list[int]:
    """64 tokens: four seeds at sixteen positions, half of them cut by top-p."""
    from pyroclast.lab.speed.sample_call import run_sample

    logits = np.random.default_rng(5).standard_normal((64, 3000)).astype(np.float32) * 3
    rows = sample.new_rows(64)
    rows["seed"], rows["position"] = np.arange(64) % 4, np.arange(64) // 4
    rows["temperature"], rows["top_p"] = 0.8, np.where(np.arange(64) % 2, 0.9, 1.0)
    return [int(token) for token in run_sample(variant, logits, rows).out["token_id"]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_process_draws_the_same_tokens(variant: str) -> None:
    folders = [ROOT / name for name in ("engine", "kernels", "tests", "tests/engine")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, variant],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    here = draw(variant)
    assert json.loads(done.stdout) == here
    assert len(set(here)) > 20
