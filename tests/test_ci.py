"""`.ci/run`, with a `make` that does nothing, and the workflows of GitHub."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from documents import ROOT

STEPS = (
    "make core",
    "make tools",
    "make check",
    "make test-aarch64",
    "make torture",
    "make test ",
    "make wheel-check",
    "make sanitize",
    "lines",
)


RUN = ("bash", str(ROOT / ".ci" / "run"))


def faked(folder: Path, make: str) -> dict[str, str]:
    """The environment in which `make` is a line of shell."""
    fake = folder / "make"
    fake.write_text(f"#!/bin/sh\n{make}\n")
    fake.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    given = {name: value for name, value in os.environ.items() if name != "CI_LIMIT_MINUTES"}
    return {**given, "PATH": path, "CXX": "true"}


def ci(folder: Path, make: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with `make` replaced by a line of shell."""
    return subprocess.run(
        RUN,
        env={**faked(folder, make), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_pass_ends_with_the_time_of_each_step(tmp_path: Path) -> None:
    done = ci(tmp_path, "exit 0")
    table = done.stdout.split("=== time of each step\n")[1].splitlines()
    assert done.returncode == 0
    rows, total = table[: len(STEPS)], table[len(STEPS) :]
    assert [line.split()[2] for line in rows] == ["passed"] * len(STEPS)
    assert all(sum(name in f"{line} " for line in rows) == 1 for name in STEPS)
    assert "total, of at most 4500 s" in total[0]
    assert total[1:] == ["=== passed"]


def test_steps_run_beside_others_and_print_by_themselves(tmp_path: Path) -> None:
    """`make check` ends once `make tools` has begun, and what that prints comes after it."""
    begun = tmp_path / "begun"
    lines = f"""case "$1" in
      tools) touch {begun}; sleep 0.2; echo all installed ;;
      check) while ! [ -e {begun} ]; do sleep 0.05; done; echo all checked ;;
    esac"""
    done = ci(tmp_path, lines)
    assert done.returncode == 0
    assert done.stdout.index("all checked") < done.stdout.index("all installed")
    assert done.stdout.index("all installed") < done.stdout.index("=== make test ")


def test_a_failure_ends_what_runs_beside(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    lines = f"""case "$1" in
      tools) echo $$ >{pid}.new; mv {pid}.new {pid}; echo a part; exec sleep 60 ;;
      check) while ! [ -e {pid} ]; do sleep 0.05; done; exit 1 ;;
    esac"""
    done = ci(tmp_path, lines)
    assert done.returncode == 1
    assert "a part" in done.stdout
    until(lambda: not Path(f"/proc/{pid.read_text().strip()}/exe").exists())


@pytest.mark.parametrize("signal_id", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_has_not_passed_and_leaves_nothing(
    tmp_path: Path, signal_id: signal.Signals
) -> None:
    beside, begun = tmp_path / "beside", tmp_path / "begun"
    lines = f"""case "$1" in
      tools) echo $$ >{beside}.new; mv {beside}.new {beside}; exec sleep 600 ;;
      check) touch {begun}; exec sleep 600 ;;
    esac"""
    said = tmp_path / "said"
    with said.open("w") as out:
        run = subprocess.Popen(
            RUN, env=faked(tmp_path, lines), stdout=out, stderr=out, start_new_session=True
        )
    until(lambda: beside.exists() and begun.exists())
    os.killpg(run.pid, signal_id)
    assert run.wait(60) != 0
    until(lambda: not Path(f"/proc/{beside.read_text().strip()}/exe").exists())
    assert "=== passed" not in said.read_text()


def until(holds: Callable[[], bool]) -> None:
    """Waits for it, at most a minute."""
    end_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@pytest.mark.parametrize("step", [name.split()[1] for name in STEPS if name != "lines"])
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


@pytest.mark.parametrize("step", ["sanitize", "test-aarch64"])
def test_a_step_without_its_tools_is_not_called_passed(tmp_path: Path, step: str) -> None:
    done = ci(tmp_path, f'[ "$1" != {step} ] || echo "not run: no compiler" > "$NOT_RUN"')
    table = done.stdout.split("=== time of each step\n")[1].splitlines()
    assert done.returncode == 0
    [line] = [line for line in table if "not run" in line]
    assert f" not run  make {step}" in line
    assert line.endswith(": no compiler")
    assert sum(" passed " in line for line in table) == len(STEPS) - 1


# ---- the tests for aarch64 -----------------------------------------------------------------------
def write(path: Path, text: str = "") -> None:
    """A file that may be run, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def aarch64(
    folder: Path,
    commands: dict[str, str],
    done: tuple[str, ...] = (),
    target: str = "test-aarch64",
) -> subprocess.CompletedProcess[str]:
    """`make` in a folder of its own, with these lines of shell as commands, where these steps are
    done."""
    for name in ("Makefile", ".ci/aarch64_python.py"):
        write(folder / name, (ROOT / name).read_text(encoding="utf-8"))
    binaries = folder / ".venv/bin"
    for name, line in commands.items():
        write(binaries / name, f"#!/bin/sh\n{line}\n")
    if "python" not in commands:
        (binaries / "python").symlink_to(sys.executable)
    for name in ("pyproject.toml", "setup.py", "CMakeLists.txt"):  # what stamps depend on
        write(folder / name)
    (folder / "kernels").mkdir()
    for name in (".venv/.created", ".venv/.core", ".venv/.installed", ".venv/.native"):
        write(folder / name)
    for name in done:
        write(folder / "build/aarch64" / name)
    return subprocess.run(
        ["make", "AARCH64_CXX=cross-g++", target],
        cwd=folder,
        env={
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "NOT_RUN": str(folder / "reason"),
            "CI": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


NO_MIRROR = {"apt-get": "exit 100"}
TOOLS = {"qemu-aarch64": "exit 1", "cross-g++": "exit 1"}


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (NO_MIRROR | {"qemu-aarch64": "exit 1"}, "apt-get install g++-aarch64-linux-gnu"),
        (NO_MIRROR | TOOLS, "arm64"),
    ],
    ids=["no-compiler", "no-python"],
)
def test_without_a_mirror_the_tests_for_aarch64_say_so(
    tmp_path: Path, commands: dict[str, str], said: str
) -> None:
    done = aarch64(tmp_path, commands)
    assert done.returncode == 0
    assert said in done.stderr
    assert (tmp_path / "reason").read_text("utf-8").startswith("not run: ")
    assert (tmp_path / "reason").read_text("utf-8") in done.stdout


def test_with_the_tools_a_failure_for_aarch64_fails(tmp_path: Path) -> None:
    for name in ("executor_test", "executor_schedules_test"):
        write(tmp_path / f"tests/native/{name}.cpp")
    done = aarch64(tmp_path, TOOLS | {"apt-get": "exit 100"}, done=(".tools", ".site", ".headers"))
    assert done.returncode == 2
    assert "cross-g++ -std=c++17" in done.stdout
    assert not (tmp_path / "reason").exists()


@pytest.mark.parametrize("is_debian", [False, True])
def test_the_headers_for_aarch64_are_not_those_that_include_themselves(
    tmp_path: Path, is_debian: bool
) -> None:
    include = tmp_path / "include"
    write(include / "python3.11/pyconfig.h", "first")
    if is_debian:  # whose first one includes the second
        write(include / "x86_64-linux-gnu/python3.11/pyconfig.h", "second")
    header = include / "python3.11/pyconfig.h"
    python = f'case "$2" in *MULTIARCH*) echo x86_64-linux-gnu ;; *) echo {header} ;; esac'
    done = aarch64(tmp_path, {"python": python}, target="build/aarch64/.headers")
    assert done.returncode == 0
    copied = tmp_path / "build/aarch64/include/aarch64-linux-gnu/python3.11/pyconfig.h"
    assert copied.read_text("utf-8") == ("second" if is_debian else "first")


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
