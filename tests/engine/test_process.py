"""Forks, the end of the interpreter, and calls from the middle of a step."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import tiny
from fake_model import fake_llm, free_blocks
from pyroclast import LLM, AsyncLLM, ClosedError, ReentryError, SamplingParams
from pyroclast.engine import process

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
LONG = GREEDY.replace(max_tokens=100)


def slow_llm(seconds=0.002):
    llm = fake_llm()
    llm.model.before_step = lambda: time.sleep(seconds)
    return llm


# ---- the end of the interpreter ----------------------------------------------------------------

_ENDS = """
import asyncio, sys, threading, time
from pyroclast import LLM, AsyncLLM, SamplingParams
llm = LLM(sys.argv[1], threads=2)
params = SamplingParams(max_tokens=60, ignore_eos=True)
def generate():
    while True: llm.generate([1, 2, 3], params)
def stream():
    while True: list(llm.stream([1, 2, 3], params))
async def read():
    model = AsyncLLM.of(llm)
    while True: [chunk async for chunk in model.stream([1, 2, 3], params)]
def pump(): asyncio.run(read())
threading.Thread(target=globals()[sys.argv[2]], daemon=True).start()
time.sleep(0.3)
print("main done")
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = tiny.CONFIGS["llama"]
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    return tiny.write_gguf(path, config, tiny.random_weights(config), "Q8_0")


@pytest.mark.parametrize("what", ["generate", "stream", "pump"])
def test_the_interpreter_ends_quietly_while_a_daemon_thread_works(checkpoint, what):
    for _ in range(3):
        found = subprocess.run(
            [sys.executable, "-c", _ENDS, str(checkpoint), what],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (found.returncode, found.stdout, found.stderr) == (0, "main done\n", "")


def test_an_exit_handler_may_still_generate(checkpoint):
    code = (
        "import atexit, sys\nfrom pyroclast import LLM, SamplingParams\nllm = None\n"
        "def last(): print(len(llm.generate([1], SamplingParams(max_tokens=3, ignore_eos=True))"
        "[0].token_ids))\natexit.register(last)\nllm = LLM(sys.argv[1], threads=2)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "3\n", "")


# ---- forks -------------------------------------------------------------------------------------


def in_child(work):
    """What `work` returns, as text, in the child of a fork."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = str(work())
        except BaseException as error:  # noqa: BLE001 - told to the parent
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    deadline = time.monotonic() + 60
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.005)
    with os.fdopen(read) as answers:
        return answers.read()


def test_a_child_generates_while_another_thread_of_the_parent_does():
    llm = slow_llm()
    [expected] = llm.generate("abc", GREEDY)
    stream = llm.stream("abc", GREEDY)
    begun = [next(stream).token_ids[0]]
    thread = threading.Thread(target=lambda: llm.generate(["x", "y"], LONG))
    thread.start()
    while len(llm.model.steps) < 20:
        time.sleep(0.001)

    def work():
        n_before = len(llm.model.steps)
        [out] = llm.generate("abc", GREEDY)
        rest = [chunk.token_ids[0] for chunk in stream]
        # Two requests at most: those of the other thread are not run here.
        n_most = max(n_seqs for _, n_seqs, _ in llm.model.steps[n_before:])
        return out.token_ids, begun + rest, n_most <= 2, free_blocks(llm)

    found = in_child(work)
    thread.join(60)
    assert found == str((expected.token_ids, expected.token_ids, True, 64))
    assert begun + [chunk.token_ids[0] for chunk in stream] == expected.token_ids
    assert free_blocks(llm) == 64


def test_a_child_has_a_pump_of_its_own():
    llm = slow_llm()
    model = AsyncLLM.of(llm)
    [expected] = asyncio.run(model.generate("abc", GREEDY))

    def work():
        [out] = asyncio.run(model.generate("abc", GREEDY))
        return out.token_ids

    assert in_child(work) == str(expected.token_ids)
    assert asyncio.run(model.generate("abc", GREEDY))[0].token_ids == expected.token_ids


def test_a_child_made_in_the_middle_of_a_long_step_is_closed(monkeypatch):
    monkeypatch.setattr(process, "_MAX_WAIT_S", 0.05)
    llm, may_end = fake_llm(), threading.Event()
    llm.model.before_step = lambda: may_end.wait(60)
    thread = threading.Thread(target=lambda: llm.generate("x", GREEDY.replace(max_tokens=2)))
    thread.start()
    while not llm._loop._busy:
        time.sleep(0.001)
    found = in_child(lambda: llm.generate("abc", GREEDY))
    may_end.set()
    assert found.startswith("ClosedError: this process is the child of a fork, made in the middle")
    thread.join(60)
    assert len(llm.generate("x", GREEDY)[0].token_ids) == 12


def test_a_model_on_a_gpu_is_closed_in_a_child(monkeypatch):
    llm = fake_llm()
    monkeypatch.setattr(llm.model, "device", "cuda")
    assert "CUDA does not survive" in in_child(lambda: llm.generate("abc", GREEDY))
    assert len(llm.generate("x", GREEDY)[0].token_ids) == 12


def test_a_fork_inside_a_step_leaves_both_with_it():
    def forks(token_ids, logits):
        if len(token_ids) == 3:
            found.append(in_child(lambda: "child"))
        return logits

    found = []
    llm = fake_llm()
    params = GREEDY.replace(logits_processors=[forks])
    [out] = llm.generate([1, 2], params)
    assert found == ["child"]
    assert out.token_ids == fake_llm().generate([1, 2], GREEDY)[0].token_ids


# ---- from the middle of a step -----------------------------------------------------------------

CALLS = {
    "generate": lambda llm: llm.generate("y", GREEDY),
    "stream": lambda llm: next(llm.stream("y", GREEDY)),
    "score": lambda llm: llm.score("yes"),
    "logits": lambda llm: llm.logits("yes"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_logits_processor_that_asks_its_own_model_is_told(name):
    llm = fake_llm()

    def ask(token_ids, logits):
        CALLS[name](llm)
        return logits

    with pytest.raises(ReentryError, match="has to use another LLM"):
        llm.generate("x", GREEDY.replace(logits_processors=[ask]))
    assert len(llm.generate("x", GREEDY)[0].token_ids) == 12
    assert free_blocks(llm) == 64


def test_a_logits_processor_may_ask_another_model():
    llm, other = fake_llm(), fake_llm()

    def ask(token_ids, logits):
        return other.logits(token_ids)[-1]

    [out] = llm.generate("x", GREEDY.replace(logits_processors=[ask]))
    assert out.token_ids == llm.generate("x", GREEDY)[0].token_ids


def test_a_signal_handler_in_a_step_is_told_and_between_steps_it_works():
    llm = fake_llm()
    found = []

    def handler(number, frame):
        try:
            found.append(len(llm.generate("y", GREEDY)[0].token_ids))
        except ReentryError:
            found.append("reentry")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        llm.model.before_step = lambda: (
            len(llm.model.steps) == 3 and os.kill(os.getpid(), signal.SIGUSR1)
        )
        [out] = llm.generate("x", GREEDY)
        llm.model.before_step = lambda: None
        stream = llm.stream("x", GREEDY)
        next(stream)
        os.kill(os.getpid(), signal.SIGUSR1)
        rest = list(stream)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert found == ["reentry", 12]
    assert len(out.token_ids) == 12
    assert len(rest) == 11


@pytest.mark.parametrize("how", ["processor", "signal", "finalizer", "thread"])
def test_close_works_from_anywhere(how):
    llm = slow_llm()

    class Last:
        def __del__(self):
            llm.close()

    def inside():
        if len(llm.model.steps) != 3:
            return
        if how == "signal":
            os.kill(os.getpid(), signal.SIGUSR1)
        elif how == "finalizer":
            Last()
            gc.collect()
        elif how == "thread":
            threading.Thread(target=llm.close).start()
            while not llm._loop.closed:  # however late the machine runs it
                time.sleep(0.001)
        else:
            llm.close()

    def process(token_ids, logits):
        if how == "processor":
            inside()
        return logits

    before = signal.signal(signal.SIGUSR1, lambda number, frame: llm.close())
    try:
        if how != "processor":
            llm.model.before_step = lambda: (time.sleep(0.01), inside())
        with pytest.raises(ClosedError, match="was closed"):
            llm.generate("x", LONG.replace(logits_processors=[process]))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(llm.model.steps) <= 6
    assert llm.model.closed
    assert free_blocks(llm) == 64


def test_a_child_whose_new_threads_have_the_place_of_the_parents_generates(checkpoint):
    """The C library gives a thread of the child the descriptor of one that the fork left behind."""
    with LLM(checkpoint, threads=3) as llm:
        expected = llm.generate([1, 2], GREEDY)[0].token_ids

        def work():
            waits = threading.Event()
            threads = [threading.Thread(target=waits.wait) for _ in range(4)]
            for thread in threads:
                thread.start()
            found = llm.generate([1, 2], GREEDY)[0].token_ids
            waits.set()
            for thread in threads:
                thread.join()
            return found

        assert in_child(work) == str(expected)
