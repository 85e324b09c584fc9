"""Limits on memory, threads and open files: an error in words, never a signal or a hang, and the
model works where there is enough."""

from __future__ import annotations

import random
import time

from torture.campaign import Kind, Record
from torture.nursery import Ended, Nursery
from torture.tiny_model import tiny_path

# Root may have any number of threads: there large stacks fill the address space instead.
_CODE = """
import ctypes, os, resource
from pathlib import Path
from pyroclast import LLM, PyroclastError, SamplingParams
from pyroclast.model import host_memory
path, what, share = argv[0], argv[1], float(argv[2])
def used():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
def large_stacks(n_bytes):
    libc, attributes = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    assert libc.pthread_attr_init(attributes) == 0
    assert libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(n_bytes)) == 0
    assert libc.pthread_setattr_default_np(attributes) == 0
def limit(name, n):
    hard = resource.getrlimit(name)[1]
    resource.setrlimit(name, (n, hard))
if what == "memory":
    limit(resource.RLIMIT_AS, used() + int(share * (256 << 20)))
elif what == "threads" and os.geteuid() == 0:
    large_stacks(256 << 20)
    limit(resource.RLIMIT_AS, used() + (256 << 20) + int(share * (2 << 30)))
elif what == "threads":
    limit(resource.RLIMIT_NPROC, int(share * 12))
elif what == "files":
    limit(resource.RLIMIT_NOFILE, int(share * 24))
elif what == "available":
    host_memory._system_room = lambda: int(share * (8 << 20))
try:
    n_threads = 8 if what == "threads" else 2
    with LLM(path, threads=n_threads, kernels="frozen") as llm:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        said = f"{len(llm.generate([1, 2, 3], params)[0].token_ids)} tokens"
except PyroclastError as error:
    said = f"refused: {error}"
for name in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
    limit(name, resource.getrlimit(name)[1])
print(said)
"""
_LIMITS = ("memory", "threads", "files", "available")


def judge(case: str, ended: Ended, record: Record) -> None:
    """A finding, unless it was said in words."""
    is_said = ended.out == "8 tokens\n" or ended.out.startswith("refused: ")
    if ended.code != 0 or ended.err or not is_said:
        record.finding(f"{case}: {ended}")


def run(seed: int, deadline: float, record: Record) -> None:
    """Cases until the deadline."""
    path, number = tiny_path(), 0
    with Nursery() as nursery:
        while time.monotonic() < deadline or not number:
            rng = random.Random(f"{seed} {number}")
            what, share = rng.choice(_LIMITS), rng.random()
            with record.case():
                ended = nursery.run(_CODE, path, what, share)
                judge(f"{what} {share}", ended, record)
            number += 1


LIMITS = Kind("limits", run, memory_bytes=None)
