"""Every kernel compiles for a GPU that is not there: what the interpreter lets pass may not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.slow
def test_every_kernel_compiles_for_an_h200_without_spilling_much() -> None:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("engine", "kernels", "tests"))
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_sm90.py"), "--bench"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if " registers " in line]
    assert len(lines) > 30
    stacks = {line[0]: int(line[5]) for line in lines}
    assert {name: n for name, n in stacks.items() if n > 64} == {}
