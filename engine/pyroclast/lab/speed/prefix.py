"""What the prefix cache saves, and what it costs where it finds nothing.

Each repetition takes a new random prompt and times its first token three times, in turn: with the
cache off, with it on and nothing to find, and again with all but its last token cached.  A
conversation of ten turns follows.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyroclast import LLM, SamplingParams
from pyroclast.lab.speed import conversation, disk_prefix
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.progress import progress_bar

_ONE = SamplingParams(temperature=0, max_tokens=1)


def first_token_s(llm: LLM, prompt: list[int]) -> tuple[float, int]:
    """Seconds from the call to its first token, and how many tokens of the prompt were cached."""
    [completion] = llm.generate(prompt, _ONE, progress=False)
    timings = completion.timings
    assert timings.first_token_s is not None, "one token was generated"
    return timings.first_token_s, timings.n_cached_tokens


def measure(plain: LLM, caching: LLM, n_prompt: int, repeat: int) -> dict[str, Any]:
    """A row: medians and quartiles.  miss_ratio and hit_ratio are medians of the ratios of single
    repetitions: cache on and nothing found over cache off, and found over nothing found."""
    times: dict[str, list[float]] = {"off_s": [], "miss_s": [], "hit_s": []}
    n_cached = 0
    with progress_bar(repeat, "prompt") as show:
        for i in range(repeat):
            ids = np.random.default_rng(i).integers(caching.vocab_size // 2, size=n_prompt)
            prompt = ids.tolist()
            runs = [("off_s", plain), ("miss_s", caching)]
            for name, llm in runs if i % 2 else reversed(runs):
                seconds, n_found = first_token_s(llm, prompt)
                assert n_found == 0, "a new prompt was found in the cache"
                times[name].append(seconds)
            seconds, n_cached = first_token_s(caching, prompt)
            times["hit_s"].append(seconds)
            show(i + 1)
    row: dict[str, Any] = {"test": "cached prompt", "n_prompt": n_prompt, "n_cached": n_cached}
    for name, found in times.items():
        row[name] = statistics.median(found)
        row[name.replace("_s", "_quartiles_s")] = statistics.quantiles(found, n=4)[::2]
    for name, over, under in (("miss", "miss_s", "off_s"), ("hit", "hit_s", "miss_s")):
        ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
        row[f"{name}_ratio"] = statistics.median(ratios)
        row[f"{name}_ratio_quartiles"] = statistics.quantiles(ratios, n=4)[::2]
    return row | {
        "model": caching.name,
        "threads": caching.n_threads,
        "kv_dtype": getattr(caching.model, "kv_dtype", None),
        "kernels": caching.kernels,
    }


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help="default: smollm2-135m-instruct; repeat")
    parser.add_argument("-p", "--prompt", type=int, default=2032, help="its tokens (2032)")
    parser.add_argument(
        "--disk", type=int, action="append", default=[], metavar="TOKENS",
        help="time prompts of so many tokens from disk instead; repeat",
    )  # fmt: skip
    parser.add_argument("-n", "--gen", type=int, default=48, help="tokens of a turn's answer (48)")
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    rows = []
    for model in args.model or ["smollm2-135m-instruct"]:
        for n_prompt in args.disk:
            rows.append(disk_prefix.measure(model, args.threads, n_prompt, args.repeat))
            print(disk_prefix.line(rows[-1]))
        if args.disk:
            continue
        with (
            LLM(model, threads=args.threads, prefix_cache=False) as plain,
            LLM(model, threads=args.threads) as caching,
        ):
            for llm in (plain, caching):  # the first prompt touches memory
                first_token_s(llm, [1] * args.prompt)
            row = measure(plain, caching, args.prompt, args.repeat)
            rows += [row, conversation.measure(plain, caching, args.gen, args.repeat)]
        print(
            f"{row['model']}: the first token of {args.prompt} comes after {row['miss_s']:.3f} s, "
            f"with {row['n_cached']} of them cached after {row['hit_s']:.4f} s "
            f"({1 / row['hit_ratio']:.0f} times as fast); a prompt that is not cached takes "
            f"{row['miss_ratio']:.3f} times as long as without a cache"
        )
        print(conversation.line(rows[-1]))
    if args.json:
        write_result(args.json, {"made_with": environment(), "rows": rows})
