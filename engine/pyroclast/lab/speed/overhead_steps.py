"""Times the steps of streams for overhead.py; as a program, for overhead_pair.py.

It runs with the Pyroclast of any checkout, so it imports nothing of the lab.  As a program it takes
a line of JSON for each order: {"open": parameters, "n_batch": ...} begins streams, {"steps": n}
runs some steps of theirs.  Each answer is a line as well; before them come `origin()` and, once
the model is loaded, an empty list.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

PROMPT = "The history of the volcano begins with"


def open_streams(llm: Any, params: Any, n_batch: int) -> list[Any]:
    """Streams that have read the prompt, and decode side by side from now on."""
    streams = [llm.stream(PROMPT, params) for _ in range(n_batch)]
    for stream in streams:
        next(stream)
    return streams


def steps_us(model: Any, streams: Sequence[Any]) -> Iterator[tuple[float, float]]:
    """(Python, wall) microseconds a token, step by step.

    What is done between two steps, here and by who asks, does not count: with cold caches it took
    15 to 20 us a step."""
    n_batch = len(streams)
    native, before = model.native_seconds, time.perf_counter()
    for _ in zip(*streams, strict=True):
        wall = time.perf_counter() - before
        native_before, native = native, model.native_seconds
        yield (wall - (native - native_before)) / n_batch * 1e6, wall / n_batch * 1e6
        before = time.perf_counter()


def origin() -> dict[str, Any]:
    """The files that the two packages were imported from, and whether the executor was built."""
    import pyroclast
    import pyroclast_kernels

    return {
        "files": [pyroclast.__file__, pyroclast_kernels.__file__],
        "has_executor": importlib.util.find_spec("pyroclast_kernels._executor") is not None,
    }


def main(model: str, n_threads: int | None) -> None:
    """Answers the orders on standard input."""
    from pyroclast import LLM, SamplingParams

    streams: list[Any] = []
    _answer(origin())
    with LLM(model, threads=n_threads, prefix_cache=False, speculation="off") as llm:
        _answer([])  # it is loaded
        for line in sys.stdin:
            order = json.loads(line)
            found: list[float] = []
            if "open" in order:
                for stream in streams:
                    stream.close()
                streams = open_streams(llm, SamplingParams(**order["open"]), order["n_batch"])
                gc.collect()
            else:
                steps = steps_us(llm.model, streams)
                found = [next(steps)[0] for _ in range(order["steps"])]
            _answer(found)


def _answer(found: object) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) or None)
