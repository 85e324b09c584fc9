"""The executor: every part once, errors, forks, threads beside it, and a program's segments."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.program import OpCall, Program, Recorder, make_executor
from pyroclast_kernels.selection import Kernel, Selection
from pyroclast_kernels.tables import FEW_TOKENS
from pyroclast_kernels.timeline import TimelineRecorder, profile

_executor = pytest.importorskip(
    "pyroclast_kernels._executor", reason="installed without a compiler"
)

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("child_paths")]


def glu_calls(n_calls: int, rules: str = "") -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Calls that each write another row block, so that a lost part leaves a zero behind."""
    gate_up = np.ones((64, 2 * 320), np.float32)
    out = np.zeros((n_calls, 64, 320), np.float32)
    recorder = Recorder(Selection(rules))
    for i in range(n_calls):
        recorder.call(
            "glu",
            n_tokens=np.array([64]),
            gate_up=gate_up,
            out=out[i],
            out_q8=None,
            d_ff=320,
            activation=0,
            gated=1,
        )
    return recorder.calls, out


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_every_part_of_every_call_runs(n_threads: int) -> None:
    calls, out = glu_calls(40)
    program = Program(calls, make_executor(n_threads))
    for _ in range(50):  # more runs than there are sets of counters
        out[:] = 0
        program.run()
        assert (out == out[0, 0, 0]).all() and out[0, 0, 0] > 0.7


def test_each_part_runs_exactly_once() -> None:
    seen: list[int] = []
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)(
        lambda args, part, n_parts: seen.append(part * 1000 + n_parts)
    )
    address = ctypes.cast(kernel, ctypes.c_void_p).value
    program = _executor.Program(_executor.Executor(3), [address] * 5, [0] * 5, [7] * 5)
    program.run()
    assert sorted(seen) == sorted([part * 1000 + 7 for part in range(7)] * 5)


def test_calls_run_in_order_one_after_the_other() -> None:
    seen: list[int] = []

    def note(i: int) -> Any:
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)(
            lambda args, part, n_parts: seen.append(i)
        )

    kernels = [note(i) for i in range(6)]
    addresses = [ctypes.cast(k, ctypes.c_void_p).value for k in kernels]
    _executor.Program(_executor.Executor(4), addresses, [0] * 6, [5] * 6).run()
    assert seen == sorted(seen) and len(seen) == 30


def test_bad_calls_are_refused() -> None:
    executor = _executor.Executor(1)
    with pytest.raises(ValueError, match="one length"):
        _executor.Program(executor, [1], [], [1])
    with pytest.raises(ValueError, match="address"):
        _executor.Program(executor, [0], [0], [1])
    with pytest.raises(ValueError, match="at least one part"):
        _executor.Program(executor, [1], [0], [0])
    for n_parts in (1 << 31, 1 - (1 << 32)):
        with pytest.raises(ValueError, match="no call has so many parts"):
            _executor.Program(executor, [1], [0], [n_parts])
    with pytest.raises(ValueError, match="at least 1"):
        _executor.Executor(0)
    with pytest.raises(IndexError):
        _executor.Program(executor, [], [], []).run_range(0, 1)


def test_the_gil_is_free_while_a_program_runs() -> None:
    """No thread asks for the GIL here: without a free one the other thread has no turn at all."""
    calls, _ = glu_calls(4000)
    program = Program(calls, make_executor(2))
    turns, stop, deadline = 0, False, time.monotonic() + 60
    interval_s = sys.getswitchinterval()

    def count() -> None:
        nonlocal turns
        while not stop:
            turns += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    try:
        sys.setswitchinterval(600)
        thread.start()
        program.run()
        before = turns
        while turns == before:  # a busy machine may not run that thread within a call
            program.run()
            assert time.monotonic() < deadline
    finally:
        stop = True
        sys.setswitchinterval(interval_s)
        thread.join()


def test_an_executor_survives_a_fork() -> None:
    calls, out = glu_calls(4)
    program = Program(calls, make_executor(2))
    program.run()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        out[:] = 0
        program.run()
        os.write(write, b"y" if (out > 0.7).all() else b"n")
        os._exit(0)
    os.close(write)
    deadline = time.monotonic() + 60
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert os.read(read, 1) == b"y"
    os.close(read)
    out[:] = 0
    program.run()
    assert (out > 0.7).all()


_FORKS_AT_THE_END = """
import atexit, os, threading, time
begin, done = threading.Event(), threading.Event()
atexit.register(lambda: (begin.set(), done.wait(60)))  # runs after what the import registers
from pyroclast_kernels import _executor
program = _executor.Program(_executor.Executor(2), [], [], [])
def fork():
    begin.wait()
    pid = os.fork()
    if pid == 0:
        program.run()
        os._exit(7)
    deadline = time.monotonic() + 50
    while (status := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if status == (0, 0): os.kill(pid, 9)
    print(os.waitstatus_to_exitcode(status[1]) if status[0] else "hangs", flush=True)
    done.set()
threading.Thread(target=fork, daemon=True).start()
"""


def test_a_child_of_a_thread_that_outlives_the_main_program_runs() -> None:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKS_AT_THE_END],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "7\n", "")


def test_references_are_given_back() -> None:
    """Also where an argument is refused half way through a list."""
    executor = _executor.Executor(1)
    large, bad = 1 << 40, object()
    lists = [large, large], [0, 0], [1, 1]
    refused = bad
    before = [sys.getrefcount(each) for each in (large, bad, executor, type(executor))]
    for _ in range(100):
        _executor.Program(executor, *lists)
        for refused in ([large, bad], [large, -1], bad):
            with pytest.raises((TypeError, OverflowError)):
                _executor.Program(executor, refused, *lists[1:])
        with pytest.raises(ValueError, match="one length"):
            _executor.Program(executor, *lists[:2], [])
    assert [sys.getrefcount(each) for each in (large, bad, executor, type(executor))] == before


def test_python_functions_stand_between_native_segments() -> None:
    native, out = glu_calls(2)
    eager, eager_out = glu_calls(1, "glu=numpy")
    program = Program([native[0], *eager, native[1]], make_executor(2))
    program.run()
    assert (out > 0.7).all() and (eager_out > 0.7).all()
    assert len(profile(program)) == 3


def test_profile_gives_a_time_for_each_call() -> None:
    calls, _ = glu_calls(5)
    times = profile(Program(calls, make_executor(2)))
    assert len(times) == 5 and all(t > 0 for t in times)


def test_arguments_must_be_those_of_the_op_in_order() -> None:
    with pytest.raises(KernelError, match="d_ff"):
        Recorder(Selection("")).call("glu", n_tokens=np.array([1]), d_ff=3)


def test_a_whole_number_is_taken_for_a_double_where_the_op_has_one() -> None:
    """Config files write 1 where they mean 1.0."""
    logits = np.ones((2, 8), np.float32)
    arguments = {"n_tokens": np.array([2], np.int64), "logits": logits, "n_cols": 8}
    found = []
    for scale, softcap in ((2, 30), (2.0, 30.0)):
        recorder = Recorder(Selection())
        recorder.call("scale_logits", **arguments, scale=scale, softcap=softcap)
        found.append(recorder.calls[0].slots)
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0] is not None


def python_kernel(function: Any) -> tuple[int, Any]:
    """(address, what keeps it alive) of a Python function as a kernel."""
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)(
        lambda args, part, n_parts: function()
    )
    return ctypes.cast(kernel, ctypes.c_void_p).value or 0, kernel


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_a_trace_accounts_for_every_nanosecond_of_a_run(n_threads: int) -> None:
    calls, _ = glu_calls(12)
    program = Program(calls, make_executor(n_threads))
    with TimelineRecorder([program], 30) as recorder:
        for _ in range(30):
            program.run()
    runs = recorder.runs()
    assert len(runs) == 30
    for run in runs:
        parts, times = run.parts, run.calls()
        keys = sorted(zip(parts["call"].tolist(), parts["part"].tolist(), strict=True))
        assert keys == [(c, p) for c in range(12) for p in range(program.n_parts)]
        # Barrier to barrier, and the way out: the whole run, without a gap or an overlap.
        tail = run.end_ns - times.end_ns[-1]
        assert times.wall_ns.sum() + tail == run.wall_ns and tail >= 0
        assert (times.begin_ns <= times.first_ns).all() and (times.first_ns < times.end_ns).all()
        # On every thread parts and waiting make up the run: no two parts at a time.
        for thread in range(n_threads):
            mine = parts[parts["thread"] == thread]
            waits = mine["begin_ns"][1:] - mine["end_ns"][:-1]
            assert (waits >= 0).all()
        assert (times.busy_ns <= n_threads * times.wall_ns).all()


def test_a_part_is_timed_where_it_ran() -> None:
    """The thread that waits must not shift its own delays into the call it waits for."""
    naps = [0.02, 0.0, 0.02]
    kept = [python_kernel(lambda nap=nap: time.sleep(nap)) for nap in naps]
    [call], _ = glu_calls(1)
    calls = [
        OpCall(Kernel("glu", "f32", "test", address), call.arguments, "", call.slots)
        for address, _ in kept
    ]
    program, between_us = Program(calls, make_executor(1)), []
    for _ in range(20):  # a busy machine may delay the second as well
        times = profile(program)
        assert times[0] > 19_000 and times[2] > 19_000
        between_us.append(times[1])
        if times[1] < 10_000:
            break
    assert between_us[-1] < 10_000, between_us


def test_nothing_is_recorded_before_or_after_a_trace() -> None:
    calls, _ = glu_calls(3)
    program = Program(calls, make_executor(2))
    program.run()
    with TimelineRecorder([program], 1) as recorder:
        program.run()
    program.run()
    assert len(recorder.runs()) == 1


def test_a_trace_that_is_too_small_says_so() -> None:
    calls, _ = glu_calls(3)
    program = Program(calls, make_executor(2))
    with TimelineRecorder([program], 1) as recorder:
        program.run()
        program.run()
    with pytest.raises(KernelError, match="no room for 1"):
        recorder.runs()


def test_python_functions_are_traced_in_their_place() -> None:
    native, _ = glu_calls(2)
    eager, _ = glu_calls(1, "glu=numpy")
    program = Program([native[0], *eager, native[1]], make_executor(2))
    with TimelineRecorder([program], 2) as recorder:
        program.run()
        program.run()
    for run in recorder.runs():
        middle = run.parts[run.parts["call"] == 1]
        assert len(middle) == 1 and middle["thread"][0] == 0
        times = run.calls()
        assert (times.wall_ns > 0).all() and times.end_ns[-1] <= run.end_ns
        assert (times.first_ns[1:] >= times.end_ns[:-1]).all()


def test_two_programs_of_one_executor_are_told_apart() -> None:
    executor = make_executor(2)
    first, second = (Program(glu_calls(n)[0], executor) for n in (2, 5))
    with TimelineRecorder([first, second], 3) as recorder:
        first.run()
        Program(glu_calls(1)[0], executor).run()  # a stranger
        second.run()
    assert [run.program for run in recorder.runs()] == [first, second]
    assert [len(run.calls().wall_ns) for run in recorder.runs()] == [2, 5]


@pytest.mark.parametrize("n_threads", [None, 1, 2])
def test_the_count_of_a_call_decides_between_its_two_kernels(n_threads: int | None) -> None:
    ran: list[str] = []
    few, keep_few = python_kernel(lambda: ran.append("few"))
    many, keep_many = python_kernel(lambda: ran.append("many"))
    [call], _ = glu_calls(1)
    call.kernel, call.many = (
        Kernel("glu", "f32", name, address) for name, address in (("few", few), ("many", many))
    )
    program = Program([call], None if n_threads is None else make_executor(n_threads))
    for n_tokens, wanted in ((FEW_TOKENS, "few"), (FEW_TOKENS + 1, "many"), (1, "few")):
        ran.clear()
        call.arguments["n_tokens"][0] = n_tokens
        program.run()
        assert set(ran) == {wanted} and call.running().variant == wanted
    assert keep_few and keep_many


def test_both_languages_agree_on_few() -> None:
    assert _executor.FEW_TOKENS == FEW_TOKENS


def test_bad_second_kernels_are_refused() -> None:
    executor = _executor.Executor(1)
    with pytest.raises(ValueError, match="as long as"):
        _executor.Program(executor, [1], [0], [1], [1, 2], [0, 0])
    with pytest.raises(ValueError, match="n_tokens"):
        _executor.Program(executor, [1], [0], [1], [1], [0])


_STARVED = """
import os, resource
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.program import make_executor
n_before = len(os.listdir("/proc/self/task"))
n_bytes = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (n_bytes + (200 << 20),) * 2)
try: make_executor(200)
except KernelError as error: print(error)
print(len(os.listdir("/proc/self/task")) - n_before, make_executor(3).n_threads)
"""


def test_threads_that_cannot_be_started_are_an_error_and_leave_none_behind() -> None:
    """Stacks need address space: the limit leaves room for some of them."""
    found = subprocess.run(
        [sys.executable, "-c", _STARVED], capture_output=True, text=True, timeout=120, check=False
    )
    message, counts = found.stdout.splitlines()
    assert re.match(r"only \d+ of 200 threads could be started .*; ask for fewer threads", message)
    assert counts == "0 3"
    assert (found.returncode, found.stderr) == (0, "")
