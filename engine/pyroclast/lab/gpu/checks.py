"""Builds the native kernels of a checkout and runs its GPU tests, in processes of their own."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyroclast.lab.gpu.pool import run
from pyroclast.lab.speed.process import python_command

_N_TESTERS = 4  # processes that compile and test kernels, where pytest-xdist is installed
_WORDS = 1000  # characters of an output that go into the file


def build(checkout: Path, environment: Mapping[str, str], limit_s: float) -> tuple[str, str]:
    """Builds the CPU's kernels, which the GPU is compared with: (why it failed, or empty; the end
    of the output)."""
    command = python_command("setup.py", "-q", "build_native", "--inplace")
    reason, output = _run(command, checkout, environment, limit_s)
    return reason, output[-_WORDS:]


def tests(
    checkout: Path, where: str, environment: Mapping[str, str], limit_s: float
) -> dict[str, Any]:
    """A row: how many tests of Triton's kernels pass on this GPU, slow tests left out."""
    command = python_command("-m", "pytest", "-m", "not slow", "-v", "--maxfail=20")
    # Our settings make warnings errors; other versions of packages warn of more than ours.
    command += ["--tb=line", "--no-header", "-W", "default", where]
    if "::" not in where and importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(_N_TESTERS)]
    reason, output = _run(command, checkout, environment, limit_s)
    passed, failed = outcomes(output)
    if failed:
        reason = f"{len(failed)} failed; {reason}"
    return {
        "part": "tests",
        "test": "GPU tests passed",
        "value": len(passed),
        "unit": "tests",
        "failures": failed[:20],
        "reason": reason,
        "output": output[-_WORDS:],
        "target": "all",
        "met": not reason,
    }


def _run(
    command: list[str], checkout: Path, environment: Mapping[str, str], limit_s: float
) -> tuple[str, str]:
    code, output = run(command, environment, checkout, limit_s)
    if code == 0:
        return "", output
    if code is None:
        return f"stopped after {limit_s:.0f} s", output
    words = " | ".join(output.strip().splitlines()[-3:])
    return f"exit code {code}: {words[-300:]}", output


def outcomes(output: str) -> tuple[list[str], list[str]]:
    """(Tests that passed, tests that failed) in the output of pytest -v, with or without xdist."""
    found: dict[str, list[str]] = {"PASSED": [], "FAILED": [], "ERROR": []}
    for line in output.splitlines():
        alone = re.match(r"(tests/\S+::.+?) (PASSED|FAILED|ERROR)\b", line)
        beside = re.match(r"\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR) (tests/\S+::.+)", line)
        if alone:
            found[alone[2]].append(alone[1])
        elif beside:
            found[beside[1]].append(beside[2].strip())
    return found["PASSED"], found["FAILED"] + found["ERROR"]
