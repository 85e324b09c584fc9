"""What running streams notice of a long prompt: the time between their tokens, quiet and beside it.

Streams run for a while, a prompt of 4,000 tokens arrives, and they run on.  The quiet time is that
of the windows before and after, so that a machine that slows down meanwhile counts for both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyroclast import LLM, AsyncLLM, SamplingParams
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment

Gap = tuple[float, float]  # when a token came (perf_counter), and seconds since the one before


async def read(model: AsyncLLM, i: int, gaps: list[Gap], stop: asyncio.Event) -> None:
    """One stream, until `stop`: notes the time between its tokens."""
    params = SamplingParams(seed=i, ignore_eos=True)
    last: float | None = None
    async for _ in model.stream(f"Chapter {i}. Once upon a time", params):
        now = time.perf_counter()
        if last is not None:
            gaps.append((now, now - last))
        last = now
        if stop.is_set():
            return


async def beside(
    model: AsyncLLM, prompt: list[int], n_streams: int, quiet_s: float
) -> tuple[list[float], list[float], float]:
    """(Quiet gaps, gaps beside the prompt, seconds to the prompt's first token)."""
    stop = asyncio.Event()
    gaps: list[Gap] = []
    tasks = [asyncio.create_task(read(model, i, gaps, stop)) for i in range(n_streams)]
    await asyncio.sleep(1.5 * quiet_s)
    begin = time.perf_counter()
    await model.generate(prompt, SamplingParams(max_tokens=1))
    end = time.perf_counter()
    await asyncio.sleep(quiet_s)
    stop.set()
    await asyncio.gather(*tasks)
    quiet = [gap for at, gap in gaps if begin - quiet_s < at < begin or at > end + gap]
    return quiet, [gap for at, gap in gaps if begin + gap < at < end], end - begin


def measure(llm: LLM, n_streams: int, n_prompt: int, quiet_s: float, repeat: int) -> dict[str, Any]:
    """A row: medians, and what the slowest tokens took, in quiet medians."""
    prompt = [i * 7919 % (llm.vocab_size // 2) + 20 for i in range(n_prompt)]
    quiet: list[float] = []
    mixed: list[float] = []
    prompt_s: list[float] = []
    alone_s: list[float] = []
    for _ in range(repeat):
        begin = time.perf_counter()
        llm.generate(prompt, SamplingParams(max_tokens=1))
        alone_s.append(time.perf_counter() - begin)
        found = asyncio.run(beside(AsyncLLM.of(llm), prompt, n_streams, quiet_s))
        quiet += found[0]
        mixed += found[1]
        prompt_s.append(found[2])
    median = statistics.median(quiet)
    percent = statistics.quantiles(mixed, n=100)
    return {
        "test": "streams beside a prompt",
        "n_streams": n_streams,
        "n_prompt": n_prompt,
        "quiet_median_ms": median * 1e3,
        "quiet_quartiles_ms": [each * 1e3 for each in statistics.quantiles(quiet, n=4)[::2]],
        "beside_median_ms": statistics.median(mixed) * 1e3,
        "beside_median_ratio": statistics.median(mixed) / median,
        "beside_p95_ratio": percent[94] / median,
        "beside_p99_ratio": percent[98] / median,
        "prompt_alone_s": statistics.median(alone_s),
        "prompt_beside_s": statistics.median(prompt_s),
        "n_gaps": len(mixed),
        "model": llm.name,
        "threads": llm.n_threads,
        "kernels": llm.kernels,
    }


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("-p", "--prompt", type=int, default=4000, help="its tokens (4000)")
    parser.add_argument("-s", "--streams", type=int, action="append", help="default: 1; repeat")
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--quiet", type=float, default=3.0, help="seconds of a window (3)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    rows = []
    with LLM(args.model, threads=args.threads, prefix_cache=False, speculation="off") as llm:
        for n_streams in args.streams or [1]:
            row = measure(llm, n_streams, args.prompt, args.quiet, args.repeat)
            rows.append(row)
            print(
                f"{n_streams:>3} streams: {row['quiet_median_ms']:.2f} ms a token; beside a prompt "
                f"{row['beside_median_ratio']:.2f} times that (95% within "
                f"{row['beside_p95_ratio']:.2f}); the prompt took {row['prompt_beside_s']:.2f} s, "
                f"alone {row['prompt_alone_s']:.2f} s"
            )
    if args.json:
        write_result(args.json, {"made_with": environment(), "rows": rows})
