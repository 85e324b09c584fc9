"""Mapped files beside other handlers of SIGBUS, which may repair a fault themselves.

Each test is a process of its own, whose handlers are Python functions behind `ctypes`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyroclast_kernels import program

pytestmark = [
    pytest.mark.usefixtures("child_paths"),
    pytest.mark.skipif(
        program.make_executor(1) is None, reason="the native executor was not built"
    ),
]

START = """
import ctypes, mmap, os, signal, sys, threading, time
from pathlib import Path
from pyroclast_kernels.mapped_file import map_file

path = Path(sys.argv[1])
n_bytes = 1 << 20
path.write_bytes(b"1" * n_bytes)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
SA_SIGINFO, MAP_FIXED = 4, 16
called, n_together = [], 1

class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16),
                ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]

def install(function):
    new, old = Action(), Action()
    new.handler, new.flags = ctypes.cast(function, ctypes.c_void_p), SA_SIGINFO
    assert libc.sigaction(signal.SIGBUS, ctypes.byref(new), ctypes.byref(old)) == 0
    return HANDLER(old.handler or 0)

def mapped():
    with path.open("rb") as file:
        return map_file(file.fileno(), n_bytes)

file = path.open("rb")
theirs = libc.mmap(None, n_bytes, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)

@HANDLER
def repair(*_):
    called.append("repair")
    end = time.monotonic() + 60
    while len(called) < n_together and time.monotonic() < end:
        time.sleep(0.01)  # without the GIL: other threads fault meanwhile
    libc.mmap(theirs, n_bytes, mmap.PROT_READ, MAP_FIXED | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
              -1, 0)

@HANDLER
def hand_on(*arguments):
    called.append("hand on")
    before(*arguments)

@HANDLER
def end(*_):
    os._exit(9)
"""


def run(path: Path, code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", START + code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout.split()


def test_a_fault_passes_every_handler_newest_first(tmp_path: Path) -> None:
    """The second knows ours as the one before it, and ours knows the second."""
    code = """
install(repair)
first = mapped()
before = install(hand_on)
second = mapped()
os.truncate(path, 0)
assert ctypes.string_at(theirs, 1) == bytes(1)
assert called == ["hand on", "repair"], called
print("repaired", first.data[0], second.data[0])
"""
    assert run(tmp_path / "file", code) == ["repaired", "0", "0"]


def test_threads_that_fault_at_once_are_all_passed_on(tmp_path: Path) -> None:
    code = """
n_together = 2
install(repair)
ours = mapped()
os.truncate(path, 0)
threads = [threading.Thread(target=ctypes.string_at, args=(theirs + i * 4096, 1)) for i in (1, 9)]
for each in threads: each.start()
for each in threads: each.join()
print(*called)
"""
    assert run(tmp_path / "file", code) == ["repair", "repair"]


def test_a_later_handler_is_passed_by_after_a_look(tmp_path: Path) -> None:
    """faulthandler may be enabled when the model has been loaded."""
    code = """
ours = mapped()
for _ in range(20):
    install(end)
    assert ours.is_whole
    install(repair)
    assert ours.is_whole
os.truncate(path, 0)
assert ours.data[0] == 0 and not ours.is_whole and not called
ctypes.string_at(theirs, 1)
print(*called)
"""
    assert run(tmp_path / "file", code) == ["repair"]
