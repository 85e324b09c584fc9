"""Random requests on every face at once, with cancels: each answer is what it is alone, and nothing
is left behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fake_model import FakeModel, fake_llm, free_blocks
from pyroclast import LLM, AsyncLLM, PyroclastError, SamplingParams
from torture.campaign import Kind, Record
from torture.jobs import Job, random_job, same
from torture.tiny_model import tiny_llm

_MAX_WAIT_S = 60
ROOMY = {"n_blocks": 256, "max_batch_tokens": 64}


@dataclass
class Shared:
    """What the threads of one case have in common.  `outcomes` has an entry for each job that was
    not cancelled, `wrong` what should not have been."""

    llm: LLM
    model: AsyncLLM
    outcomes: dict[int, Any]
    wrong: list[str]
    threads: list[threading.Thread]


def run(seed: int, deadline: float, record: Record) -> None:
    """Cases until the deadline; every second one on a real network."""
    number = 0
    while time.monotonic() < deadline or not number:
        with record.case():
            for what in _case(random.Random(f"{seed} {number}"), number % 2 == 1):
                record.finding(what)
        number += 1


def _case(rng: random.Random, is_real: bool) -> list[str]:
    """What was wrong."""
    n_threads = threading.active_count()
    make: Callable[..., LLM] = tiny_llm if is_real else fake_llm
    alone = make(**ROOMY)
    llm = make(
        n_blocks=rng.choice([40, 64]) if not is_real else rng.choice([6, 12]),
        max_batch_tokens=rng.choice([4, 9, 16, 33]),
        max_seqs=rng.choice([1, 3, 8]),
    )
    jobs = [random_job(rng, alone) for _ in range(rng.randint(3, 16))]
    shared = Shared(llm, AsyncLLM.of(llm), {}, [], [])
    closes = rng.random() < 0.15
    _start(rng, shared, jobs)
    if closes:
        time.sleep(rng.random() * 0.05)
        llm.close()
    found = _joined(shared)
    if not found:
        found = shared.wrong + _compared(shared, alone, jobs, closes) + _left(shared)
    llm.close()
    alone.close()
    return found + ([] if found else _threads_left(n_threads))


def _start(rng: random.Random, shared: Shared, jobs: list[Job]) -> None:
    """Deals the jobs to threads with sync calls, and to event loops."""
    hands: list[list[tuple[int, Job]]] = [[] for _ in range(rng.randint(1, 4))]
    for i, job in enumerate(jobs):
        hands[rng.randrange(len(hands))].append((i, job))
    for hand in hands:
        work = _coroutines if rng.random() < 0.5 else _calls
        args = (shared, hand, rng.randrange(2**32))
        shared.threads.append(threading.Thread(target=work, args=args, daemon=True))
    for thread in shared.threads:
        thread.start()


def _calls(shared: Shared, hand: list[tuple[int, Job]], seed: int) -> None:
    rng = random.Random(seed)
    for i, job in hand:
        try:
            outcome = job.call(shared.llm, rng)
        except Exception as error:  # noqa: BLE001 - compared with that of the job alone
            outcome = error
        if outcome is not None:
            shared.outcomes[i] = outcome


def _coroutines(shared: Shared, hand: list[tuple[int, Job]], seed: int) -> None:
    async def one(i: int, job: Job, each_seed: int) -> None:
        try:
            outcome = await job.await_call(shared.model, random.Random(each_seed))
        except Exception as error:  # noqa: BLE001 - compared with that of the job alone
            outcome = error
        if outcome is not None:
            shared.outcomes[i] = outcome

    async def work() -> None:
        rng = random.Random(seed)
        await asyncio.gather(*[one(i, job, rng.randrange(2**32)) for i, job in hand])

    try:
        asyncio.run(work())
    except BaseException as error:  # noqa: BLE001 - told below
        shared.wrong.append(f"an event loop ended with {error!r}")


def _joined(shared: Shared) -> list[str]:
    end = time.monotonic() + _MAX_WAIT_S
    for thread in shared.threads:
        thread.join(max(0.0, end - time.monotonic()))
    hanging = sum(thread.is_alive() for thread in shared.threads)
    return [f"{hanging} threads still wait after {_MAX_WAIT_S} s"] if hanging else []


def _compared(shared: Shared, alone: LLM, jobs: list[Job], closes: bool) -> list[str]:
    found = []
    for i, outcome in sorted(shared.outcomes.items()):
        job = jobs[i]
        if closes and isinstance(outcome, PyroclastError) and "was closed" in str(outcome):
            continue
        expected = job.alone(alone)
        # NumPy, which samples for the made-up model, sums a row in an order that depends on its
        # place in memory.
        tolerance = 1e-4 if isinstance(alone.model, FakeModel) else 0.0
        if not same(outcome, expected, tolerance):
            found.append(f"{job} gave {outcome!r}, alone {expected!r}")
    return found


def _left(shared: Shared) -> list[str]:
    llm, scheduler = shared.llm, shared.llm._loop.stepper.scheduler
    end = time.monotonic() + 30
    while time.monotonic() < end and (
        llm._loop.has_work() or free_blocks(llm) < llm.model.n_blocks
    ):
        time.sleep(0.001)
    left = {
        "blocks": llm.model.n_blocks - free_blocks(llm),
        "waiting": len(scheduler.waiting),
        "running": len(scheduler.running),
        "parked": len(scheduler.parked),
        "named calls": len(shared.model._calls._calls),
    }
    if any(left.values()) or llm._loop.has_work():
        return [f"left behind: {left}, has_work {llm._loop.has_work()}"]
    if not llm._loop.closed:
        params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
        if len(llm.generate([1, 2], params)[0].token_ids) != 4:
            return ["the model does not answer any more"]
    return []


def _threads_left(n_before: int) -> list[str]:
    end = time.monotonic() + 30
    while time.monotonic() < end and threading.active_count() > n_before:
        time.sleep(0.001)
    names = [thread.name for thread in threading.enumerate()]
    return [f"threads are left, of {names}"] if len(names) > n_before else []


REQUESTS = Kind("requests", run, memory_bytes=None)
