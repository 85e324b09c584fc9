"""`.ci/run` with a `make` that does nothing: it reports times and keeps to its limit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from documents import ROOT

STEPS = ("make check", "make test", "make sanitize", "make torture")


def ci(folder: Path, make: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with `make` replaced by a line of shell."""
    fake = folder / "make"
    fake.write_text(f"#!/bin/sh\n{make}\n")
    fake.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")],
        env={**os.environ, "PATH": path, "CXX": "true", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_pass_ends_with_the_time_of_each_step(tmp_path: Path) -> None:
    done = ci(tmp_path, "exit 0")
    table = done.stdout.split("=== time of each step\n")[1].splitlines()
    assert done.returncode == 0
    assert [line.split()[2] for line in table[:5]] == ["passed"] * 5
    assert all(name in line for name, line in zip(STEPS, table, strict=False))
    assert "total, of at most 2400 s" in table[5]
    assert table[6] == "=== passed"


@pytest.mark.parametrize("step", ["check", "test", "sanitize", "torture"])
def test_a_failing_step_fails_the_run_and_is_in_the_table(tmp_path: Path, step: str) -> None:
    done = ci(tmp_path, f'[ "$1" != {step} ]')
    table = done.stdout.split("=== time of each step\n")[1].splitlines()
    assert done.returncode == 1
    [failed] = [line for line in table if " failed " in line]
    assert f"make {step}" in failed
    assert "=== passed" not in done.stdout


def test_a_run_above_its_limit_fails(tmp_path: Path) -> None:
    done = ci(tmp_path, "sleep 1", CI_LIMIT_MINUTES="0")
    assert done.returncode == 1
    assert "CI took more than 0 minutes" in done.stderr
