"""The end of the interpreter while daemon threads generate: its exit code, and no signal."""

from __future__ import annotations

import random
import time

from torture.campaign import Kind, Record
from torture.nursery import Nursery
from torture.tiny_model import tiny_path

_CODE = """
import asyncio, atexit, random, sys, threading, time
from pyroclast import LLM, AsyncLLM, PyroclastError, SamplingParams
path, ending, seed = argv[0], argv[1], int(argv[2])
rng = random.Random(seed)
params = SamplingParams(max_tokens=60, ignore_eos=True, n=rng.randint(1, 3))
def generate():
    llm.generate([1, 2, 3], params)
def stream():
    for chunk in llm.stream([1, 2, 3], params): pass
def drop():
    next(llm.stream([1, 2, 3], params))
def read():
    async def work():
        model = AsyncLLM.of(llm)
        await asyncio.gather(*[model.generate([1, 2, 3], params) for _ in range(3)])
    asyncio.run(work())
def score():
    llm.score([list(range(200))])
def forever(work):
    try:
        while True: work()
    except PyroclastError:
        pass
def last():
    assert len(llm.generate([1], params.replace(max_tokens=3))[0].token_ids) == 3
if ending == "handler first": atexit.register(last)
llm = LLM(path, threads=rng.randint(1, 2))
if ending == "handler": atexit.register(last)
works = [rng.choice([generate, stream, drop, read, score]) for _ in range(rng.randint(1, 3))]
for work in works:
    threading.Thread(target=forever, args=(work,), daemon=True).start()
time.sleep(rng.random() * 0.1)
if ending == "close": llm.close()
if ending == "drop": del llm
if ending == "code": sys.exit(3)
if ending == "error": raise ValueError("planned")
if ending == "in a step":
    def leave(token_ids, logits): sys.exit(4)
    try:
        llm.generate([1, 2], params.replace(logits_processors=[leave]))
    except PyroclastError as error:  # the pump of a coroutine ran that step
        assert "SystemExit(4)" in str(error)
        sys.exit(4)
"""
_CODES = {"code": 3, "error": 1, "in a step": 4}
_ENDINGS = ("end", "close", "handler", "handler first", *_CODES)


def run(seed: int, deadline: float, record: Record) -> None:
    """Cases until the deadline."""
    path, number = tiny_path(), 0
    with Nursery() as nursery:
        while time.monotonic() < deadline or not number:
            rng = random.Random(f"{seed} {number}")
            ending = rng.choice(_ENDINGS)
            with record.case():
                ended = nursery.run(_CODE, path, ending, rng.randrange(2**32))
                is_silent = not ended.err or (ending == "error" and "planned" in ended.err)
                if ended.code != _CODES.get(ending, 0) or not is_silent:
                    record.finding(f"{ending}: {ended}")
            number += 1


EXITS = Kind("exit", run, memory_bytes=None)
