"""`.ci/run`, with a `make` that does nothing, and the workflows of GitHub."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from documents import ROOT

STEPS = ("make check", "make test", "make sanitize", "make wheel-check", "make torture")


def ci(folder: Path, make: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with `make` replaced by a line of shell."""
    fake = folder / "make"
    fake.write_text(f"#!/bin/sh\n{make}\n")
    fake.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    given = {name: value for name, value in os.environ.items() if name != "CI_LIMIT_MINUTES"}
    return subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")],
        env={**given, "PATH": path, "CXX": "true", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_pass_ends_with_the_time_of_each_step(tmp_path: Path) -> None:
    done = ci(tmp_path, "exit 0")
    table = done.stdout.split("=== time of each step\n")[1].splitlines()
    assert done.returncode == 0
    assert [line.split()[2] for line in table[:6]] == ["passed"] * 6
    assert all(name in line for name, line in zip(STEPS, table, strict=False))
    assert "total, of at most 3600 s" in table[6]
    assert table[7] == "=== passed"


@pytest.mark.parametrize("step", ["check", "test", "sanitize", "wheel-check", "torture"])
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


# ---- GitHub's workflows --------------------------------------------------------------------------
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_know_no_secrets_and_run_what_there_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "secrets" not in text

    commands = [
        step["run"] for job in jobs(path).values() for step in job["steps"] if "run" in step
    ]
    assert commands
    for command in commands:
        for word in command.split():
            if word.startswith(".ci/"):
                assert (ROOT / word).is_file()


def test_the_page_is_built_before_what_is_published() -> None:
    steps = jobs(ROOT / ".github/workflows/wheels.yml")["build"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    page = commands.index("npm run --prefix engine/pyroclast/lens/page build")
    packed = [i for i, each in enumerate(commands) if "--outdir" in each or "--output-dir" in each]
    assert len(packed) == 2
    assert page < min(packed)


def test_a_wheel_without_the_page_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "pyroclast_lm-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pyroclast/__init__.py", "")
    command = [sys.executable, str(ROOT / ".ci/fresh_install.py"), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "page.js is missing" in done.stderr


def test_a_wheel_is_published_only_if_every_python_has_run_it() -> None:
    found = jobs(ROOT / ".github/workflows/wheels.yml")
    assert found["publish"]["needs"] == "test"
    assert found["publish"]["permissions"] == {"id-token": "write"}
    assert found["test"]["needs"] == "build"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {line for line in project["classifiers"] if line.startswith("Programming Language")}
    pythons = found["test"]["strategy"]["matrix"]["python"]
    assert {f"Programming Language :: Python :: {version}" for version in pythons} == {
        line for line in wanted if line[-1].isdigit()
    }
