"""The command line with standard streams that are closed or full."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams") / "tiny"
    tiny.write_folder(folder, tiny.BASE, tiny.random_weights(tiny.BASE))
    return str(folder)


def shell(line, **options):
    """Runs a line of shell to its end."""
    paths = [str(ROOT / "engine"), str(ROOT / "kernels")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": ""}
    options |= {"capture_output": True, "text": True, "timeout": 120}
    return subprocess.run(["bash", "-c", f"exec {line}"], check=False, env=env, **options)


NO_SPACE = "pyroclast: error: cannot write to standard output: No space left on device\n"
NO_OUTPUT = "pyroclast: error: cannot write to standard output: Bad file descriptor\n"
ANSWER = "generate x -m MODEL -n 2 --temperature 0 --threads 1"
NO_TEXT = "the following arguments are required: TEXT (see `pyroclast tokenize --help`)"
NOTHING = "pyroclast: error: the prompt is empty: give at least one character or token id\n"


@pytest.mark.parametrize("python", ["-m", "-u -m"])  # buffered, or not
@pytest.mark.parametrize(
    ("command", "code", "has_output", "error"),
    [
        ("tokenize x -m MODEL >&-", 1, False, NO_OUTPUT),
        ("tokenize x -m MODEL >/dev/full", 1, False, NO_SPACE),
        ("tokenize x -m MODEL 2>&-", 0, True, ""),
        ("tokenize x -m MODEL 2>/dev/full", 0, True, ""),
        ("tokenize x -m MODEL <&-", 0, True, ""),
        ("tokenize x -m MODEL >&- 2>&- <&-", 1, False, ""),
        ("tokenize x -m MODEL >/dev/full 2>/dev/full", 1, False, ""),
        (f"{ANSWER} >&-", 1, False, NO_OUTPUT),
        (f"{ANSWER} >/dev/full", 1, False, NO_SPACE),
        (f"{ANSWER} --json >/dev/full", 1, False, NO_SPACE),
        (f"{ANSWER} 2>&-", 0, True, ""),
        ("generate - -m MODEL <&-", 1, False, NOTHING),
        ("chat -m MODEL <&-", 0, False, ""),
        ("chat -m MODEL >&- <&-", 0, False, ""),
        ("tokenize", 2, False, f"pyroclast: error: {NO_TEXT}\n"),
        ("tokenize 2>&-", 2, False, ""),
        ("tokenize 2>/dev/full", 2, False, ""),
        ("--help >&-", 1, False, NO_OUTPUT),
        ("--help >/dev/full", 1, False, NO_SPACE),
        ("--version >/dev/full", 1, False, NO_SPACE),
        ("--version 2>&-", 0, True, ""),
    ],
)
def test_closed_and_full_standard_streams(model, command, code, has_output, error, python):
    """One line at most, and the right exit code; never a traceback."""
    line = command.replace("MODEL", shlex.quote(model))
    done = shell(
        f"{shlex.quote(sys.executable)} {python} pyroclast {line}", stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (code, error)
    assert bool(done.stdout) == has_output


def test_a_closed_stream_keeps_its_number(tmp_path):
    """No file that is opened later becomes standard output by accident."""
    script = "from pyroclast.cli.terminal import open_streams; open_streams(); "
    script += "import sys; sys.exit(open('file', 'w').fileno())"
    python = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}"
    assert shell(f"{python} <&- >&- 2>&-", cwd=tmp_path).returncode == 3
