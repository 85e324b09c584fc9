"""An exception out of any function of the engine, at any moment: whoever it concerns is told, the
others get what they would have got, and the model goes on.

A trace function counts the calls and returns of the engine's functions, in one thread or in the
pump's, and raises at one of them: there a signal handler may run, and so may Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import linecache
import random
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pyroclast.engine
from fake_model import fake_llm, free_blocks
from pyroclast import LLM, AsyncLLM, PyroclastError, SamplingParams
from pyroclast.engine.pump import Pump
from torture.campaign import Kind, Record
from torture.jobs import random_params, same, shown

_ENGINE = str(Path(pyroclast.engine.__file__).parent)
_EXCEPTIONS = (KeyboardInterrupt, MemoryError, RuntimeError, PyroclastError, SystemExit)
_MAX_WAIT_S = 40


class Injector:
    """Raises `error` at the `n`-th event in the engine's files in a thread that it is set in: the
    call or return of a function, or with by_line each line."""

    def __init__(self, error: type[BaseException], n: int, *, by_line: bool) -> None:
        self.error, self.left, self.by_line = error, n, by_line
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_ENGINE) or self.where:
            return None
        frame.f_trace_lines = self.by_line
        if event == "exception" or (event == "line" and _begins_with(frame)):
            return self
        if event == "call" and frame.f_code is Pump._work.__code__:  # nothing can catch it there
            return self
        self.left -= 1
        if self.left <= 0:
            name = Path(frame.f_code.co_filename).name
            self.where = f"{event} of {frame.f_code.co_name}, {name}:{frame.f_lineno}"
            raise self.error("injected")
        return self


def _begins_with(frame: FrameType) -> bool:
    """Whether a line is that of a `with`.  Python comes by again at its end, and only there a trace
    function can raise before what was entered is left: no signal handler can."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith("with ")


def run(seed: int, deadline: float, record: Record) -> None:
    """Cases until the deadline."""
    sys.unraisablehook = lambda _: None  # an exception in a finalizer is only noted
    threading.excepthook = lambda _: None
    number = 0
    while time.monotonic() < deadline or not number:
        rng = random.Random(f"{seed} {number}")
        with record.case():
            for what in (_in_a_pump if number % 3 == 2 else _in_a_caller)(rng):
                record.finding(what)
        number += 1


def _injector(rng: random.Random) -> Injector:
    by_line = rng.random() < 0.5
    n = rng.randint(1, rng.choice([60, 900])) * (3 if by_line else 1)
    return Injector(rng.choice(_EXCEPTIONS), n, by_line=by_line)


def _plan(rng: random.Random, llm: LLM) -> list[tuple[list[int], SamplingParams]]:
    found = []
    for _ in range(rng.randint(2, 4)):
        prompt = [rng.randrange(256) for _ in range(rng.randint(1, 20))]
        found.append((prompt, random_params(rng, llm).replace(logits_processors=())))
    return found


def _in_a_caller(rng: random.Random) -> list[str]:
    """The exception hits a thread that generates, while a neighbour does."""
    llm, alone = fake_llm(n_blocks=40), fake_llm()
    (prompt, params), *others = _plan(rng, llm)
    outcomes: dict[int, Any] = {}
    thread = threading.Thread(target=_neighbour, args=(llm, others, outcomes), daemon=True)
    inject = _injector(rng)
    thread.start()
    sys.settrace(inject)
    try:
        outcome: Any = _ask(llm, prompt, params, streams=rng.random() < 0.5)
    except BaseException as error:  # noqa: BLE001 - judged below
        outcome = error
    finally:
        sys.settrace(None)
    thread.join(_MAX_WAIT_S)
    if thread.is_alive():
        return [f"a neighbour waits for ever after {inject.error.__name__} at {inject.where}"]
    outcomes[-1] = outcome
    plan = {-1: (prompt, params), **dict(enumerate(others))}
    return _judged(llm, alone, plan, outcomes, inject)


def _neighbour(llm: LLM, plan: list[Any], outcomes: dict[int, Any]) -> None:
    for i, (prompt, params) in enumerate(plan):
        try:
            outcomes[i] = shown(llm.generate(prompt, params))
        except BaseException as error:  # noqa: BLE001 - judged later
            outcomes[i] = error


def _ask(llm: LLM, prompt: list[int], params: SamplingParams, *, streams: bool) -> Any:
    if not streams:
        return shown(llm.generate(prompt, params))
    with llm.stream(prompt, params) as stream:
        for _ in stream:
            pass
        return shown(stream.completions)


def _in_a_pump(rng: random.Random) -> list[str]:
    """The exception hits the thread that runs the steps of coroutines."""
    llm, alone = fake_llm(n_blocks=40), fake_llm()
    plan = dict(enumerate(_plan(rng, llm)))
    outcomes: dict[int, Any] = {}
    inject = _injector(rng)

    async def one(model: AsyncLLM, i: int) -> None:
        try:
            outcomes[i] = shown(await model.generate(*plan[i]))
        except Exception as error:  # noqa: BLE001 - judged later
            outcomes[i] = error

    async def work() -> None:
        model = AsyncLLM.of(llm)
        async with asyncio.timeout(_MAX_WAIT_S):
            await asyncio.gather(*[one(model, i) for i in plan])

    threading.settrace(inject)
    try:
        asyncio.run(work())
    except TimeoutError:
        return [f"coroutines wait for ever after {inject.error.__name__} at {inject.where}"]
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    return _judged(llm, alone, plan, outcomes, inject)


def _judged(
    llm: LLM, alone: LLM, plan: dict[int, Any], outcomes: dict[int, Any], inject: Injector
) -> list[str]:
    after = f"after {inject.error.__name__} at {inject.where}"
    found = []
    for i, (prompt, params) in plan.items():
        outcome = outcomes.get(i)
        if isinstance(outcome, inject.error | PyroclastError):
            continue
        expected = _alone(alone, prompt, params)
        if not same(outcome, expected, 1e-4):
            found.append(f"{after}: {outcome!r} instead of {expected!r}")
    gc.collect()
    prompt, params = plan[0]
    try:
        again = _alone(llm, prompt, params)
    except BaseException as error:  # noqa: BLE001 - what must not be
        return [*found, f"{after} the model is not usable: {error!r}"]
    if not same(again, _alone(alone, prompt, params), 1e-4):
        found.append(f"{after} the model answers {again!r}")
    n_lost = llm.model.n_blocks - free_blocks(llm)
    if n_lost or llm._loop.stepper.scheduler:
        found.append(f"{after} {n_lost} blocks are lost")
    return found


def _alone(llm: LLM, prompt: list[int], params: SamplingParams) -> Any:
    try:
        return shown(llm.generate(prompt, params))
    except PyroclastError as error:
        return error


EXCEPTIONS = Kind("exceptions", run, memory_bytes=None)
