"""Builds the native kernels and runs the tests of the GPU's, in processes of their own."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_pool import run

ROOT = Path(__file__).resolve().parent.parent
_N_TESTERS = 4  # processes that compile and test kernels side by side, where pytest-xdist is there
_WORDS = 1000  # of an output that goes into the file


def build(environment: Mapping[str, str], limit_s: float) -> tuple[str, str]:
    """(Why it is not done, or empty; the output's end): the CPU's kernels, which the comparisons
    with the CPU run on."""
    command = [sys.executable, "setup.py", "-q", "build_native", "--inplace"]
    reason, output = _run(command, environment, limit_s)
    return reason, output[-_WORDS:]


def tests(where: str, environment: Mapping[str, str], limit_s: float) -> dict[str, Any]:
    """A row: what the tests of Triton's kernels that are not slow came to, on this GPU."""
    command = [sys.executable, "-m", "pytest", "-m", "not slow", "-v", "--maxfail=20"]
    # Warnings are errors elsewhere; here are versions of other packages, which warn of more.
    command += ["--tb=line", "--no-header", "-W", "default", where]
    if "::" not in where and importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(_N_TESTERS)]
    reason, output = _run(command, environment, limit_s)
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


def _run(command: list[str], environment: Mapping[str, str], limit_s: float) -> tuple[str, str]:
    code, output = run(command, environment, ROOT, limit_s)
    if code == 0:
        return "", output
    if code is None:
        return f"stopped after {limit_s:.0f} s", output
    words = " | ".join(output.strip().splitlines()[-3:])
    return f"exit code {code}: {words[-300:]}", output


def outcomes(output: str) -> tuple[list[str], list[str]]:
    """(Tests that passed, tests that failed) in what pytest -v wrote, with pytest-xdist or not."""
    found: dict[str, list[str]] = {"PASSED": [], "FAILED": [], "ERROR": []}
    for line in output.splitlines():
        alone = re.match(r"(tests/\S+::.+?) (PASSED|FAILED|ERROR)\b", line)
        beside = re.match(r"\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR) (tests/\S+::.+)", line)
        if alone:
            found[alone[2]].append(alone[1])
        elif beside:
            found[beside[1]].append(beside[2].strip())
    return found["PASSED"], found["FAILED"] + found["ERROR"]
