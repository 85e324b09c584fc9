"""Every kind of torture runs, and the campaign finds each fault that is planted."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pyroclast.errors import ModelFileError
from torture import __main__ as command
from torture.campaign import Kind, replay, torture
from torture.kinds import KINDS
from torture.record import Finding, Record

ROOT = Path(__file__).resolve().parents[2]


# Several in a process, as in `make torture`: one for each would import for longer than it tries.
GROUPS = [KINDS[i::4] for i in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("kinds", GROUPS, ids=lambda kinds: f"{kinds[0].name}-and-others")
def test_kinds_run_and_find_nothing(kinds, tmp_path):
    # A process of its own: tests of other files may have started threads in this one.
    path = tmp_path / "counts.json"
    # Short: that each kind runs.  What its cases find is for `make torture`, which CI runs as well.
    arguments = ["--seconds", str(len(kinds) / 4), "--seed", "1", "--json", str(path)]
    arguments += [word for kind in kinds for word in ("--kind", kind.name)]
    paths = os.pathsep.join(str(ROOT / name) for name in ("engine", "kernels", "tests"))
    done = subprocess.run(
        [sys.executable, "-m", "torture", *arguments, "--findings", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert {row["kind"] for row in rows if row["cases"] > 0} == {kind.name for kind in kinds}


# ---- planted faults ------------------------------------------------------------------------


class PanicError(BaseException):
    pass


def crash(payload):
    ctypes.string_at(0)


def abort(payload):
    os.abort()


def leave(payload):
    os._exit(3)


def spin(payload):
    while True:
        pass


def wait(payload):
    threading.Lock().acquire()
    threading.Event().wait()


def grow(payload):
    return bytearray(1 << 30)


def wrong(payload):
    raise KeyError("surprise")


def panic(payload):
    raise PanicError("as a panic of Rust is")


FAULTS = {
    crash: "died of SIGSEGV",
    abort: "died of SIGABRT",
    leave: "exit code 3",
    spin: "more than 0.5 s of CPU time",
    wait: "more than 3 s",
    grow: "MemoryError",
    wrong: "KeyError: 'surprise'",
    panic: "as a panic of Rust is",
}


def planted(fault):
    """A kind whose third case is the fault."""

    def one(payload):
        if payload == b"2":
            fault(payload)
        if payload == b"1":
            raise ModelFileError("refused")

    def run(seed, deadline, record):
        for number in range(4):
            with record.case(payload := b"%d" % number):
                one(payload)
        while time.monotonic() < deadline:
            time.sleep(0.01)

    # Only what never ends needs a short limit: the others may meet a busy machine.
    case_seconds = 0.5 if fault in (spin, wait) else 10.0
    return Kind("planted", run, one, case_seconds=case_seconds, memory_bytes=1 << 28)


@pytest.mark.parametrize(
    ("fault", "what"), FAULTS.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_a_planted_fault_is_found(fault, what, tmp_path):
    kind = planted(fault)
    outcome = torture(kind, 7, 0.1)
    [finding] = outcome.findings
    assert what in finding.what
    assert (finding.kind, finding.seed, finding.case) == ("planted", 7, 3)
    assert finding.payload == b"2"
    if fault is not leave:
        assert fault.__name__ in finding.detail  # where it happened
    path = finding.save(tmp_path)
    [again] = replay(Finding.load(path), kind).findings
    assert what in again.what
    no_replay = Kind("planted", kind.run, None, kind.case_seconds, 1 << 28)
    [by_seed] = replay(Finding.load(path), no_replay).findings
    assert what in by_seed.what


class EnoughError(Exception):
    pass


def test_the_campaign_goes_on_after_a_fault():
    seen = []

    def note(outcome):
        seen.append((outcome.cases, outcome.refused, len(outcome.findings)))
        if len(seen) == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        torture(planted(crash), 0, 60, note)
    assert seen == [(3, 1, 1), (6, 2, 1), (9, 3, 1)]  # the same fault, found again


def test_faults_of_different_places_are_told_apart():
    found = [torture(planted(fault), 0, 0.01).findings[0] for fault in (crash, crash, abort, wrong)]
    assert found[0].signature == found[1].signature
    assert len({finding.signature for finding in found}) == 3


def test_a_kind_that_cannot_run_is_a_finding():
    def run(seed, deadline, record):
        raise ZeroDivisionError

    n_children = []
    [finding] = torture(Kind("broken", run), 0, 600, n_children.append).findings
    assert "the kind itself failed: ZeroDivisionError" in finding.what
    assert len(n_children) == 3


def test_what_a_kind_starts_ends_with_it(tmp_path):
    def run(seed, deadline, record):
        with record.case(b""):
            child = subprocess.Popen(["sleep", "60"])
            (tmp_path / "pid").write_text(str(child.pid))
            os.kill(os.getpid(), signal.SIGKILL)

    [finding] = torture(Kind("parent", run), 0, 0.01).findings
    assert "died of SIGKILL" in finding.what
    command_line = Path("/proc", (tmp_path / "pid").read_text(), "cmdline")
    end = time.monotonic() + 30
    with suppress(FileNotFoundError, ProcessLookupError):  # gone between two looks
        while command_line.read_bytes():  # empty: only its end is not read
            assert time.monotonic() < end
            time.sleep(0.05)


# ---- the command ---------------------------------------------------------------------------


def test_the_command_adds_up_and_fails_on_a_finding(tmp_path, capsys):
    path, folder = tmp_path / "counts.json", tmp_path / "found"
    arguments = ["--seconds", "0.1", "--seed", "5", "--json", str(path), "--findings", str(folder)]
    assert command.main(arguments, [planted(str)]) == 0
    assert command.main(arguments, [planted(str), planted(wrong)]) == 1
    [row] = json.loads(path.read_text())["rows"]
    assert (row["cases"], row["refused"], row["findings"]) == (12, 3, 1)
    printed = capsys.readouterr().out
    assert "KeyError: 'surprise'" in printed
    [saved] = folder.iterdir()
    assert f'make torture TORTURE_ARGS="--replay {saved}"' in printed
    assert command.main(["--replay", str(saved)], [planted(wrong)]) == 1
    assert "found again" in capsys.readouterr().out
    assert command.main(["--replay", str(saved)], [planted(str)]) == 0
    assert "no fault any more" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_the_watcher_never_reads_half_of_what_a_child_writes(tmp_path):
    record = Record("planted", 0, tmp_path / "findings")
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        while time.monotonic() < begin + 60:
            with record.case():
                pass
        os._exit(0)
    seen = set()
    try:
        while len(seen) < 1000 and time.monotonic() < begin + 50:
            case, wall, _ = record.running()
            assert not case or begin <= wall <= time.monotonic()
            seen.add(case)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert len(seen) > 10
