"""What a step costs that verifies drafts: one sequence with 1 to 16 rows.

Each round runs a step of each number of rows, so that a busy moment of the machine meets all of
them.  The drafts are wrong, so each step adds one token whatever it has computed.
"""

from __future__ import annotations

import statistics
from time import perf_counter
from typing import Any

from pyroclast import LLM, SamplingParams
from pyroclast.progress import progress_bar

MAX_ROWS = 16


def measure(llm: LLM, depth: int, repeat: int, max_rows: int = MAX_ROWS) -> dict[str, Any]:
    """A row: the median seconds of a step by its rows, and these relative to one row's; what runs
    outside of the kernels counts as well.  depth: tokens before the first step."""
    times = step_times(llm, depth, repeat, max_rows)
    medians = [statistics.median(each) for each in times]
    ratios = [[some / one for some, one in zip(each, times[0], strict=True)] for each in times]
    return {
        "test": "verify",
        "n_depth": depth,
        "step_s": medians,
        "costs": [statistics.median(each) for each in ratios],
        "costs_quartiles": [statistics.quantiles(each, n=4)[::2] for each in ratios],
        "model": llm.name,
        "threads": llm.n_threads,
        "kernels": llm.kernels,
    }


def step_times(llm: LLM, depth: int, repeat: int, max_rows: int) -> list[list[float]]:
    """Seconds of `repeat` steps of each number of rows."""
    prompt = [i * 7919 % (llm.vocab_size // 2) + 20 for i in range(depth)]
    n_steps = (repeat + 1) * (max_rows + 1)
    wrong = 0
    params = SamplingParams(
        seed=1, max_tokens=n_steps + max_rows + 2, ignore_eos=True, logit_bias={wrong: -100.0}
    )
    times: list[list[float]] = [[] for _ in range(max_rows)]
    stepper = llm._loop.stepper  # noqa: SLF001 - drafts of our own are no part of the public face
    with llm.stream(prompt, params) as stream, progress_bar(repeat, "round") as show:
        [request] = stream._requests  # noqa: SLF001
        next(stream)
        for i in range(repeat + 1):  # the first round warms up
            next(stream)  # so that the step of one row is like the one before it
            for n_rows in range(1, max_rows + 1):
                stepper.propose(request, [wrong] * (n_rows - 1))
                begin = perf_counter()
                next(stream)
                if i:
                    times[n_rows - 1].append(perf_counter() - begin)
            show(i)
    return times
