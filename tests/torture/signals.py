"""SIGINT and SIGTERM at random moments: Ctrl-C surfaces once, the model goes on after it, and
commands end soon, with the right exit code and without a traceback."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from typing import Any

from fake_model import free_blocks
from pyroclast import LLM, AsyncLLM, PyroclastError, SamplingParams
from torture.campaign import Kind, Record
from torture.jobs import shown
from torture.nursery import Ended, Nursery
from torture.tiny_model import tiny_llm, tiny_path

_N_INTERRUPTIONS = 12
_PARAMS = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
_COMMANDS = {
    "generate": ["generate", "the and", "-n", "150", "--temperature", "0"],
    "score": ["score", "the and " * 20],
    "serve": ["serve", "--port", "0"],
}
# Before the command has begun, a signal is the interpreter's.
_CODE = """
import sys
from pyroclast.cli import main as command
join_words = command.join_words
def begun(words):
    print("begun", file=sys.stderr, flush=True)
    return join_words(words)
command.join_words = begun
command.main(argv)
"""
_MAX_END_S = 40.0


def run(seed: int, deadline: float, record: Record) -> None:
    """Cases until the deadline: commands, and calls in this very process."""
    number = 0
    with Nursery() as nursery:
        while time.monotonic() < deadline or not number:
            rng = random.Random(f"{seed} {number}")
            with record.case():
                found = _command(rng, nursery) if number % 2 else _calls(rng)
                for what in found:
                    record.finding(what)
            number += 1


def _command(rng: random.Random, nursery: Nursery) -> list[str]:
    name = rng.choice(sorted(_COMMANDS))
    number = rng.choice([signal.SIGINT, signal.SIGTERM])
    words = [*_COMMANDS[name][:1], *_COMMANDS[name][1:], "--threads", "2"]
    words[1:1] = [str(tiny_path())] if name == "serve" else ["-m", str(tiny_path())]
    nursery.start(_CODE, *words)
    nursery.said("begun", where="err")
    if name == "serve":
        nursery.said("/v1")
    time.sleep(rng.random() * (0.2 if name == "serve" else 0.5))
    with contextlib.suppress(ProcessLookupError):
        nursery.send(number)
    ended = nursery.end(_MAX_END_S)
    if ended.code in _allowed(name, number, ended) and "Traceback" not in ended.err:
        return []
    return [f"{name} after {number.name}: {ended}"]


def _allowed(name: str, number: signal.Signals, ended: Ended) -> tuple[int, ...]:
    """The exit codes: 0 where it had ended before, or is a server that was told to.  Once the
    command is done, Ctrl-C meets Python's own end, which is a signal's."""
    if name == "serve":
        return (0,)
    done = (0, -number) if ended.out else ()
    return (*done, 130) if number == signal.SIGINT else (*done, -signal.SIGTERM)


def _calls(rng: random.Random) -> list[str]:
    """Ctrl-C in one call after another of a model, while a neighbour generates."""
    expected = {}
    found: list[str] = []
    with tiny_llm(n_blocks=12) as llm:
        prompts = [[rng.randrange(256) for _ in range(rng.randint(1, 9))] for _ in range(4)]
        for i, prompt in enumerate(prompts):
            expected[i] = shown(llm.generate(prompt, _PARAMS))
        ends = threading.Event()
        neighbour = threading.Thread(target=_neighbour, args=(llm, prompts, expected, ends, found))
        neighbour.start()
        for _ in range(_N_INTERRUPTIONS):
            found += _interrupted(rng, llm, prompts, expected)
        ends.set()
        neighbour.join(30)
        if neighbour.is_alive():
            found.append("a neighbour waits for ever")
        elif free_blocks(llm) != 12:
            found.append(f"{12 - free_blocks(llm)} blocks are lost")
    return found


def _interrupted(rng: random.Random, llm: LLM, prompts: list[Any], expected: Any) -> list[str]:
    i, n_surfaced = rng.randrange(len(prompts)), 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        try:  # before the clock is set: it may be due at once
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + rng.random() * 0.02)
            outcome = _ask(rng, llm, prompts[i])
            if outcome is not None and outcome != expected[i]:
                return [f"{outcome} instead of {expected[i]}"]
            time.sleep(0.03)  # it comes here if it has not
        except KeyboardInterrupt:
            n_surfaced = 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if not n_surfaced:
        return ["Ctrl-C was swallowed"]
    return []


def _ask(rng: random.Random, llm: LLM, prompt: list[int]) -> Any:
    way = rng.randrange(4)
    if way == 0:
        return shown(llm.generate(prompt, _PARAMS))
    if way == 1:
        llm.score(prompt * 10)
        return None
    stream = llm.stream(prompt, _PARAMS)
    for n_chunks, _ in enumerate(stream):
        if way == 3 and n_chunks == 5:
            stream.close()
            return None
    return shown(stream.completions)


def _neighbour(
    llm: LLM, prompts: list[Any], expected: Any, ends: threading.Event, found: list[str]
) -> None:
    """Half its calls have coroutines."""
    import asyncio

    async def wait(prompt: list[int]) -> Any:
        return shown(await AsyncLLM.of(llm).generate(prompt, _PARAMS))

    number = 0
    while not ends.is_set():
        i = number % len(prompts)
        number += 1
        try:
            alone = llm.generate(prompts[i], _PARAMS) if number % 2 else None
            outcome = shown(alone) if alone is not None else asyncio.run(wait(prompts[i]))
        except PyroclastError as error:
            if "interrupted" not in str(error):
                found.append(f"a neighbour was told {error!r}")
            continue
        if outcome != expected[i]:
            found.append(f"a neighbour got {outcome} instead of {expected[i]}")


SIGNALS = Kind("signals", run, memory_bytes=None)
