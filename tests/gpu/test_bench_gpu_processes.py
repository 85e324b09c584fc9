"""bench/gpu.sh: workers that hang, die or fail, and commands with a limit."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pyroclast.lab.gpu import checks, pool
from pyroclast.lab.peers.client import WORKERS

WORKER = """
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from protocol import serve

def hang():
    child = subprocess.Popen(["sleep", "600"])
    print(child.pid, file=open(sys.argv[2], "w"))
    time.sleep(600)

def die():
    os.kill(os.getpid(), 11)

def leave():
    print("so long", file=sys.stderr)
    os._exit(3)

serve({"add": lambda a, b: a + b, "hang": hang, "die": die, "leave": leave, "fail": lambda: 1 / 0})
"""


@pytest.fixture
def worker(tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, str(script), str(WORKERS), str(tmp_path / "pid")]
    found = pool.Worker(command, {})
    yield found
    found.stop()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_worker_answers_in_order(worker: Any) -> None:
    assert worker.ask("add", 60, a=1, b=2) == 3
    worker.post("add", a=3, b=4)
    worker.post("add", a=5, b=6)
    assert (worker.wait(60), worker.wait(60)) == (7, 11)


def test_a_request_that_fails_leaves_the_worker_alive(worker: Any) -> None:
    with pytest.raises(pool.WorkerError, match="ZeroDivisionError") as error:
        worker.ask("fail", 60)
    assert error.value.alive and worker.running
    assert worker.ask("add", 60, a=1, b=1) == 2


def test_a_worker_that_hangs_is_ended_with_its_children(worker: Any, tmp_path: Path) -> None:
    assert worker.ask("add", 60, a=0, b=0) == 0  # it has started
    deadline = time.monotonic() + 60
    worker.post("hang")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(pool.WorkerError, match="no answer within 1 s") as error:
        worker.wait(1)
    assert not error.value.alive and not worker.running
    while is_alive(int((tmp_path / "pid").read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert worker.ask("add", 60, a=2, b=2) == 4  # and it is started again


@pytest.mark.parametrize(
    ("request_name", "words"),
    [("die", "died of SIGSEGV"), ("leave", "exit code 3: so long")],
)
def test_what_a_worker_died_of_is_told(worker: Any, request_name: str, words: str) -> None:
    with pytest.raises(pool.WorkerError, match=words):
        worker.ask(request_name, 60)
    assert worker.ask("add", 60, a=2, b=3) == 5


def test_a_command_is_stopped_at_its_limit(tmp_path: Path) -> None:
    run = pool.run
    begin = time.monotonic()
    code, output = run(["sh", "-c", "echo begun; sleep 600"], {}, tmp_path, 4.0)
    assert (code, output) == (None, "begun\n") and time.monotonic() - begin < 60
    assert run(["sh", "-c", "pwd; exit 4"], {}, tmp_path, 60)[0] == 4


def test_outcomes_of_tests_are_read_off_both_kinds_of_lines() -> None:
    output = """
tests/gpu/test_a.py::test_x[a b-1] PASSED                    [ 10%]
tests/gpu/test_a.py::test_y FAILED                           [ 20%]
[gw3] [ 30%] PASSED tests/gpu/test_b.py::test_z[q8_0]
[gw0] [  4%] ERROR tests/gpu/test_b.py::test_w
FAILED tests/gpu/test_a.py::test_y - assert 1 == 2
"""
    passed, failed = checks.outcomes(output)
    assert passed == [
        "tests/gpu/test_a.py::test_x[a b-1]",
        "tests/gpu/test_b.py::test_z[q8_0]",
    ]
    assert failed == ["tests/gpu/test_a.py::test_y", "tests/gpu/test_b.py::test_w"]
