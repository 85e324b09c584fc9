"""kill -9 at any moment of any writer: its file is the old or the new one, whole, and the next
writer leaves nothing else behind."""

from __future__ import annotations

import random
import signal
import time

from torture.campaign import Kind
from torture.nursery import Nursery
from torture.writers import WRITERS, Desk, runs

_CODE = """
from pathlib import Path
from torture.writers import WRITERS
print("begun", flush=True)
for i in range(10**6):
    WRITERS[argv[0]].write(Path(argv[1]), i % 2)
"""


def _case(rng: random.Random, nursery: Nursery, desk: Desk) -> list[str]:
    name = rng.choice(sorted(WRITERS))
    nursery.start(_CODE, name, desk.path(name))
    nursery.said("begun")
    time.sleep(rng.random() * max(0.05, 2 * desk.seconds[name]))
    nursery.send(signal.SIGKILL)
    ended = nursery.end()
    if ended.code != -signal.SIGKILL:
        return [f"{name} ended before it was killed: {ended}"]
    found = [] if desk.versions(name) else [f"{name} left half a file"]
    if rng.random() < 0.3:
        found += filter(None, [desk.write(name, 0)])
        if desk.versions(name) != [0] or desk.litter(name):
            found.append(f"{name}: {desk.litter(name)} lie there after the next writer")
    return found


KILLS = Kind("kill", runs(_case), memory_bytes=None)
