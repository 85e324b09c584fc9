"""Forks while other threads generate: the child's model works, or says that it is closed; the
parent's goes on."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import threading
import time
from typing import Any

from fake_model import free_blocks
from pyroclast import LLM, AsyncLLM, ClosedError, PyroclastError, SamplingParams
from torture.campaign import Kind, Record
from torture.jobs import shown
from torture.tiny_model import tiny_llm

_PARAMS = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
_PROMPTS = [[1, 2, 3], [4, 5], list(range(40))]
_N_BLOCKS, _N_FORKS, _MAX_WAIT_S = 24, 4, 30


def run(seed: int, deadline: float, record: Record) -> None:
    """Cases until the deadline."""
    number = 0
    while time.monotonic() < deadline or not number:
        with record.case():
            for what in _case(random.Random(f"{seed} {number}")):
                record.finding(what)
        number += 1


def _case(rng: random.Random) -> list[str]:
    llm, found = tiny_llm(n_blocks=_N_BLOCKS, threads=rng.randint(1, 2)), list[str]()
    expected = [shown(llm.generate(prompt, _PARAMS)) for prompt in _PROMPTS]
    ends = threading.Event()
    works = [rng.choice([_generate, _await]) for _ in range(rng.randint(1, 3))]
    threads = [
        threading.Thread(target=_repeat, args=(work, llm, expected, ends, found)) for work in works
    ]
    for thread in threads:
        thread.start()
    for _ in range(_N_FORKS):
        time.sleep(rng.random() * 0.02)
        found += _in_child(rng, llm, expected)
    ends.set()
    for thread in threads:
        thread.join(_MAX_WAIT_S)
    if any(thread.is_alive() for thread in threads):
        return [*found, "a thread of the parent waits for ever"]
    if free_blocks(llm) != _N_BLOCKS:
        found.append(f"the parent lost {_N_BLOCKS - free_blocks(llm)} blocks")
    llm.close()
    return found


def _generate(llm: LLM, prompt: list[int]) -> Any:
    return shown(llm.generate(prompt, _PARAMS))


def _await(llm: LLM, prompt: list[int]) -> Any:
    async def work() -> Any:
        return shown(await AsyncLLM.of(llm).generate(prompt, _PARAMS))

    return asyncio.run(work())


def _repeat(work: Any, llm: LLM, expected: Any, ends: threading.Event, found: list[str]) -> None:
    number = 0
    while not ends.is_set():
        i = number % len(_PROMPTS)
        number += 1
        try:
            if work(llm, _PROMPTS[i]) != expected[i]:
                found.append("a thread of the parent got another answer")
        except PyroclastError as error:
            found.append(f"a thread of the parent was told {error!r}")


def _in_child(rng: random.Random, llm: LLM, expected: Any) -> list[str]:
    """Forks; what is wrong with the child."""
    work, nested = rng.choice([_generate, _await]), rng.random() < 0.3
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, _child(work, nested, llm, expected).encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        if not select.select([answers], [], [], _MAX_WAIT_S)[0]:
            os.kill(pid, signal.SIGKILL)
        said = answers.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return [] if (code, said) == (0, "right") else [f"the child ended with {code}: {said!r}"]


def _child(work: Any, nested: bool, llm: LLM, expected: Any) -> str:
    try:
        for prompt, wanted in zip(_PROMPTS, expected, strict=True):
            if work(llm, prompt) != wanted:
                return "another answer"
        if free_blocks(llm) != _N_BLOCKS:
            return f"{_N_BLOCKS - free_blocks(llm)} blocks are lost"
        if nested:
            grand = _in_child(random.Random(1), llm, expected)
            return grand[0] if grand else "right"
        llm.close()
    except ClosedError as error:
        return "right" if "child of a fork" in str(error) else f"{error}"
    except BaseException as error:  # noqa: BLE001 - told to the parent
        return f"{error!r}"
    return "right"


FORKS = Kind("fork", run, memory_bytes=None)
