"""Compiling in a thread of its own: results, deadlines, and grammars that recurse deeply."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyroclast.errors import KernelError, QueueFullError, SamplingError
from pyroclast.sampling import deep_thread, grammar
from pyroclast.sampling.deep_thread import DeadlineError, DeepTask
from pyroclast.sampling.grammar import GrammarCompiler

TESTS = Path(__file__).parents[1]


def compiler() -> GrammarCompiler:
    tokens = [*(bytes([i]) for i in range(256)), b"<eos>"]
    return GrammarCompiler(
        tokens, lambda text: list(text.encode()), special_ids=[256], eos_ids=[256], n_rows=257
    )


def chain(n: int) -> dict[str, str]:
    """A grammar of n rules, each of which refers to the next."""
    rules = [f'a{i}: a{i + 1} | "x"' for i in range(n)]
    return {"grammar": "\n".join(["start: a0", *rules, f'a{n}: "y"'])}


def run_deep(work: Callable[[], Any], deadline_s: float) -> Any:
    task = DeepTask(work)
    task.start()
    return task.result(deadline_s)


def wait_for_a_place() -> None:
    """What has just been released gives its place back, sooner or later."""
    assert deep_thread._places.acquire(timeout=60)
    deep_thread._places.release()


def test_the_result_and_the_error_come_back() -> None:
    before = threading.stack_size()
    assert run_deep(lambda: 3, 60) == 3
    with pytest.raises(ZeroDivisionError):
        run_deep(lambda: 1 // 0, 60)
    assert threading.stack_size() == before


def test_a_deadline_ends_the_wait_and_a_few_may_be_late() -> None:
    release = threading.Event()
    try:
        for _ in range(deep_thread._MAX_RUNNING):
            with pytest.raises(DeadlineError):
                run_deep(lambda: release.wait(300), 0.05)
        start_s = time.monotonic()
        with pytest.raises(QueueFullError, match="try again later"):
            run_deep(lambda: 3, 300)
        assert time.monotonic() - start_s < 60
    finally:
        release.set()
    wait_for_a_place()
    assert run_deep(lambda: 3, 60) == 3


def test_a_grammar_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = compiler()
    assert grammars.matcher({"regex": "a"})
    monkeypatch.setattr(grammar, "COMPILE_S", 0.01)
    with pytest.raises(SamplingError, match=r"cannot be compiled: it takes longer than 0\.01 sec"):
        grammars.matcher(chain(1500))


def test_a_thread_that_cannot_start_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("limit")

    before = threading.stack_size()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(deep_thread._MAX_RUNNING + 1):
            with pytest.raises(
                KernelError, match=r"could not be started \(limit\); raise the limit"
            ):
                run_deep(lambda: 3, 10)
    assert threading.stack_size() == before
    assert run_deep(lambda: 3, 60) == 3


def test_ctrl_c_when_the_thread_has_begun_gives_the_place_back_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, release = threading.Thread.start, threading.Event()

    def start(thread: threading.Thread) -> None:
        real(thread)
        raise KeyboardInterrupt

    task = DeepTask(lambda: release.wait(60))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            task.start()
    with pytest.raises(KernelError, match="was interrupted"):
        task.result(60)
    release.set()
    for thread in threading.enumerate():
        if thread.name == "pyroclast-grammar":
            thread.join(60)
    places = [deep_thread._places.acquire(blocking=False) for _ in range(5)]
    assert places == [True] * deep_thread._MAX_RUNNING + [False]
    for _ in range(deep_thread._MAX_RUNNING):
        deep_thread._places.release()


def test_equal_grammars_that_come_together_are_compiled_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built, real, n = [], grammar._build, 8
    together = threading.Barrier(n)

    def build(*arguments: Any) -> Any:
        built.append(arguments)
        time.sleep(0.05)
        return real(*arguments)

    def ask(structured: dict[str, str]) -> bool | str:
        together.wait(60)
        try:
            return grammars.matcher(structured).complete
        except SamplingError as error:
            return str(error)

    monkeypatch.setattr(grammar, "_build", build)
    grammars = compiler()
    with ThreadPoolExecutor(n) as pool:
        assert list(pool.map(ask, [{"regex": "a*"}] * n)) == [True] * n
        [why] = set(pool.map(ask, [{"regex": "a("}] * n))
    assert "cannot be compiled" in str(why)
    with pytest.raises(SamplingError, match="cannot be compiled"):
        grammars.matcher({"regex": "a("})
    assert len(built) == 2


def test_a_slow_grammar_is_refused_at_once_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, real = threading.Event(), grammar._build

    def build(*arguments: Any) -> Any:
        release.wait(300)
        return real(*arguments)

    monkeypatch.setattr(grammar, "_build", build)
    grammars = compiler()
    monkeypatch.setattr(grammar, "COMPILE_S", 0.5)
    start_s = time.monotonic()
    with pytest.raises(SamplingError, match=r"takes longer than 0\.5 seconds"):
        grammars.matcher({"regex": "a"})
    assert time.monotonic() - start_s < 60
    real_result = DeepTask.result
    waits_s = []
    monkeypatch.setattr(
        DeepTask,
        "result",
        lambda task, deadline_s: (
            waits_s.append(task._begin_s + deadline_s - time.monotonic())
            or real_result(task, deadline_s)
        ),
    )
    with pytest.raises(SamplingError, match="takes longer than"):
        grammars.matcher({"regex": "a"})
    [wait_s] = waits_s
    assert wait_s < 0.01  # at once: the time of both is counted from the beginning
    [task] = grammars._compiling.values()
    release.set()
    task.result(60)
    monkeypatch.setattr(grammar, "_build", None)
    assert not grammars.matcher({"regex": "a"}).complete


def test_a_full_queue_is_told_to_all_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = compiler()
    with monkeypatch.context() as patch:
        patch.setattr(deep_thread, "_places", threading.BoundedSemaphore(1))
        with deep_thread._places, pytest.raises(QueueFullError):
            grammars.matcher({"regex": "a"})
    assert not grammars.matcher({"regex": "a"}).complete


def test_a_child_of_a_fork_compiles_whatever_the_parent_was_doing() -> None:
    """The locks are held, and the places taken, by threads that the child does not have."""
    code = """
import os, threading
from sampling.test_deep_thread import compiler
from pyroclast.sampling import deep_thread, grammar
grammars, waits, real = compiler(), threading.Event(), grammar._build
begun = threading.Semaphore(0)
def build(*arguments):
    begun.release()
    waits.wait(60)
grammar._build = build
for text in "abcd":
    threading.Thread(target=grammars.matcher, args=({"regex": text},), daemon=True).start()
    begun.acquire()
grammar._build = real
with grammars._lock, deep_thread._starting:
    threading.stack_size(1 << 20)
    pid = os.fork()
    if pid == 0:
        assert not grammars.matcher({"regex": "a"}).complete
        assert threading.stack_size() == 0
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


@pytest.mark.parametrize("kind", ["rules", "refs"])
def test_a_chain_of_rules_does_not_end_the_process(kind: str) -> None:
    """llguidance recurses along it: on a usual stack that was a segmentation fault."""
    code = f"""
from sampling.test_deep_thread import chain, compiler
found = chain(3000)
if {kind!r} == "refs":
    import json
    of = lambda i: {{"type": "array", "items": {{"$ref": f"#/$defs/{{i}}"}}}}
    defs = {{str(i): of(i + 1) for i in range(6000)}} | {{"6000": {{"type": "integer"}}}}
    found = {{"json": json.dumps({{"$ref": "#/$defs/0", "$defs": defs}})}}
try:
    compiler().matcher(found).forced()
except ValueError as error:
    print(error)
print("alive")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout.endswith("alive\n")
