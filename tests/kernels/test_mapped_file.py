"""Mapped files: what they hold, and what happens when the file is cut under them.

Everything that may end in a signal runs in a process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pyroclast_kernels import mapped_file, program
from pyroclast_kernels.mapped_file import MappedFile, map_file

PAGE = os.sysconf("SC_PAGESIZE")
N_BYTES = 64 * PAGE

pytestmark = [
    pytest.mark.usefixtures("child_paths"),
    pytest.mark.skipif(
        program.make_executor(1) is None, reason="the native executor was not built"
    ),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(i % 251 for i in range(N_BYTES)))
    return path


def mapped(path: Path) -> MappedFile:
    with path.open("rb") as file:
        found = map_file(file.fileno(), path.stat().st_size)
    assert found is not None
    return found


def test_it_is_the_file_and_read_only(path: Path) -> None:
    found = mapped(path)
    assert found.data.tobytes() == path.read_bytes()
    assert not found.data.flags.writeable
    assert found.is_whole
    view = found.data[PAGE:]
    del found
    assert view[0] == PAGE % 251, "a view keeps the mapping"


def test_pages_come_in_ahead(path: Path) -> None:
    found = mapped(path)
    found.read_ahead()
    lines = Path("/proc/self/smaps").read_text().split(str(path))[-1].splitlines()
    end = time.monotonic() + 60
    while not any(line.split()[:2] == ["Rss:", str(N_BYTES // 1024)] for line in lines[:9]):
        assert time.monotonic() < end, lines[:9]
        lines = Path("/proc/self/smaps").read_text().split(str(path))[-1].splitlines()
    assert found.is_whole


def test_a_change_is_seen_and_a_new_file_is_not(path: Path) -> None:
    found = mapped(path)
    other = path.with_name("other")
    other.write_bytes(b"x" * N_BYTES)
    other.replace(path)
    assert found.is_whole and found.data[5] == 5
    found = mapped(path)
    time.sleep(0.02)  # a file system may tell times apart by some milliseconds only
    with path.open("r+b") as file:
        file.write(b"y")
    assert not found.is_whole
    assert not mapped(path).data[1:].tobytes().strip(b"x"), "a mapping made now is of the new file"


def test_what_cannot_be_mapped_is_none(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="memory"), path.open("rb") as file:
        map_file(file.fileno(), 1 << 60)
    read_end, write_end = os.pipe()
    assert map_file(read_end, PAGE) is None  # nothing that could be mapped
    assert map_file(-1, PAGE) is None
    os.close(read_end)
    os.close(write_end)
    monkeypatch.setattr(program, "_executor", None)
    with path.open("rb") as file:
        assert map_file(file.fileno(), PAGE) is None


def test_there_may_be_many_but_not_too_many(path: Path) -> None:
    found: list[MappedFile | None] = []
    with path.open("rb") as file:
        while not found or found[-1] is not None:
            found.append(map_file(file.fileno(), N_BYTES))
            assert len(found) < 1000
        assert len(found) > 100
        found.clear()
        assert map_file(file.fileno(), N_BYTES) is not None, "places come back"


def test_without_threads_pages_come_when_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThread:
        def __init__(self, **_: object) -> None:
            pass

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(mapped_file.threading, "Thread", NoThread)
    found = mapped(path)
    found.read_ahead()
    assert int(found.data.astype(np.int64).sum()) > 0


# ---- a file that is cut --------------------------------------------------------------------

START = """
import faulthandler, mmap, os, signal, sys, threading
from pathlib import Path
import numpy as np
from pyroclast_kernels.mapped_file import map_file
path = Path(sys.argv[1])
n_bytes = path.stat().st_size
def mapped():
    with path.open("rb") as file:
        return map_file(file.fileno(), n_bytes)
"""


def run(path: Path, code: str, before: str = "") -> subprocess.CompletedProcess[str]:
    script = START.replace("\nfrom pyroclast", f"\n{before}\nfrom pyroclast") + code
    return subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_cut_file_reads_as_zeros(path: Path) -> None:
    done = run(
        path,
        """
one, other = mapped(), mapped()
assert one.data[-1] and other.data.sum()
os.truncate(path, n_bytes // 2)
assert one.data[n_bytes - 1] == 0 and not one.is_whole
assert other.data[:9].tobytes() == bytes(range(9)), "only the mapping that was read is gone"
threads = [threading.Thread(target=lambda: other.data.sum()) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
assert not other.data.any() and not other.is_whole
os.truncate(path, n_bytes)
assert not one.is_whole and not one.data.any(), "what was lost stays lost"
print("done", mapped().is_whole)
""",
    )
    assert (done.returncode, done.stdout) == (0, "done True\n"), done.stderr


FOREIGN = """
ours = mapped()
file = open(path, "rb")
theirs = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
os.truncate(path, 0)
assert ours.data[0] == 0
print("ours", flush=True)
theirs[0]
"""


def test_the_faults_of_others_are_theirs(path: Path) -> None:
    done = run(path, FOREIGN)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "ours\n"), done.stderr


@pytest.mark.parametrize("when", ["before", "after"])
def test_faulthandler_still_tells(path: Path, when: str) -> None:
    enable = "faulthandler.enable()"
    code = (
        FOREIGN
        if when == "before"
        else "ours = mapped(); " + enable + "; ours = mapped()" + FOREIGN
    )
    done = run(path, code, enable if when == "before" else "")
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "ours\n")
    assert "Bus error" in done.stderr and "theirs[0]" not in done.stdout


@pytest.mark.parametrize(
    ("before", "code", "returncode"),
    [
        ("", "os.kill(os.getpid(), signal.SIGBUS)", -signal.SIGBUS),
        ("signal.signal(signal.SIGBUS, signal.SIG_IGN)", "os.kill(os.getpid(), signal.SIGBUS)", 7),
        (
            "signal.signal(signal.SIGBUS, lambda *_: os._exit(9))",
            "os.kill(os.getpid(), signal.SIGBUS); [None for _ in range(99)]",
            9,
        ),
    ],
    ids=["default", "ignored", "handled"],
)
def test_a_signal_that_is_sent(path: Path, before: str, code: str, returncode: int) -> None:
    done = run(path, f"ours = mapped()\n{code}\nos._exit(7)", before)
    assert done.returncode == returncode, done.stderr


def test_a_fork_is_guarded_as_well(path: Path) -> None:
    done = run(
        path,
        """
ours = mapped()
assert ours.is_whole
os.truncate(path, 0)
pid = os.fork()
if pid == 0:
    os._exit(3 if ours.data[0] == 0 and not ours.is_whole else 4)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
print("done")
""",
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_an_unmapped_range_is_forgotten(path: Path) -> None:
    """Its addresses may belong to somebody else's file next."""
    done = run(
        path,
        """
begin = mapped().data.ctypes.data
file = open(path, "rb")
for _ in range(50):
    ours = mapped()
    at = ours.data.ctypes.data
    del ours
    theirs = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if np.frombuffer(theirs, np.uint8).ctypes.data == at:
        break
else:
    print("no such luck", flush=True)
print("same", flush=True)
os.truncate(path, 0)
theirs[0]
""",
    )
    assert done.returncode == -signal.SIGBUS and "same" in done.stdout, done.stderr
