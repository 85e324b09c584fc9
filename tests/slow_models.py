"""Fake models whose steps take a while, and waiting for what they do."""

import asyncio
import time

from fake_model import fake_llm, free_blocks
from pyroclast import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
LONG = GREEDY.replace(max_tokens=100)


def slow_llm(seconds=0.002, **options):
    """A model whose steps take a while."""
    llm = fake_llm(**options)
    llm.model.before_step = lambda: time.sleep(seconds)
    return llm


def tiring_llm():
    """A model whose steps take a while, and longer after the 20th: a test that ends its work early
    has seconds to do so before the 60th, however busy the machine is."""
    llm = fake_llm()
    llm.model.before_step = lambda: time.sleep(0.002 if len(llm.model.steps) < 20 else 0.1)
    return llm


async def until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.002)


def idle(llm):
    return not llm._loop.has_work() and free_blocks(llm) == llm.model.n_blocks
