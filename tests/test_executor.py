"""The executor: every part once, errors, forks, threads beside it, and a program's segments."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Any

import numpy as np
import pytest

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.program import Program, Recorder, make_executor
from pyroclast_kernels.registry import Selection

_executor = pytest.importorskip(
    "pyroclast_kernels._executor", reason="installed without a compiler"
)

pytestmark = pytest.mark.native


def swiglu_calls(n_calls: int, rules: str = "") -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Calls that each write another row block, so that a lost part leaves a zero behind."""
    gate_up = np.ones((64, 2 * 320), np.float32)
    out = np.zeros((n_calls, 64, 320), np.float32)
    recorder = Recorder(Selection(rules))
    for i in range(n_calls):
        recorder.call(
            "swiglu", n_tokens=np.array([64]), gate_up=gate_up, out=out[i], out_q8=None, d_ff=320
        )
    return recorder.calls, out


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_every_part_of_every_call_runs(n_threads: int) -> None:
    calls, out = swiglu_calls(40)
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
    with pytest.raises(ValueError, match="at least 1"):
        _executor.Executor(0)
    with pytest.raises(IndexError):
        _executor.Program(executor, [], [], []).run_range(0, 1)


def test_the_gil_is_free_while_a_program_runs() -> None:
    calls, _ = swiglu_calls(4000)
    program = Program(calls, make_executor(2))
    turns, stop = 0, False

    def count() -> None:
        nonlocal turns
        while not stop:
            turns += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    program.run()
    before = turns
    program.run()  # one call: without a free GIL the other thread could not take a turn
    after = turns
    stop = True
    thread.join()
    assert after > before


def test_an_executor_survives_a_fork() -> None:
    calls, out = swiglu_calls(4)
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
    deadline = time.monotonic() + 30
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert os.read(read, 1) == b"y"
    os.close(read)
    out[:] = 0
    program.run()
    assert (out > 0.7).all()


def test_python_functions_stand_between_native_segments() -> None:
    native, out = swiglu_calls(2)
    eager, eager_out = swiglu_calls(1, "swiglu=numpy")
    program = Program([native[0], *eager, native[1]], make_executor(2))
    program.run()
    assert (out > 0.7).all() and (eager_out > 0.7).all()
    assert len(program.profile()) == 3


def test_profile_gives_a_time_for_each_call() -> None:
    calls, _ = swiglu_calls(5)
    times = Program(calls, make_executor(2)).profile()
    assert len(times) == 5 and all(t > 0 for t in times)


def test_arguments_must_be_those_of_the_op_in_order() -> None:
    with pytest.raises(KernelError, match="d_ff"):
        Recorder(Selection("")).call("swiglu", n_tokens=np.array([1]), d_ff=3)
