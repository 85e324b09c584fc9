"""What Python costs: wall time per generated token, less the time inside the native step.

    python bench/overhead.py --model smollm2-135m-instruct -n 256 --repeat 5 --json out.json

Everything outside the model's forward() counts: planning the step, filling the batch and sampler
arrays, stop checks, detokenizing, streaming.  Budget: 50 microseconds per token at batch 1.
"""

import argparse
import gc
import json
import platform
import statistics
import time
from pathlib import Path

from pyroclast import LLM, SamplingParams

CASES = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "stop strings": {"temperature": 0.8, "stop": ("\n\n\n\n", "<end>", "zzz")},
    "penalties": {"temperature": 0.8, "repetition_penalty": 1.1, "frequency_penalty": 0.1},
    "logprobs": {"temperature": 0.8, "logprobs": 5},
}
PROMPT = "The history of the volcano begins with"


def steps_us(llm, params, batch):
    """(Python, wall) microseconds per token, for each step after the first (the prompt's)."""
    streams = [llm.stream(PROMPT, params) for _ in range(batch)]
    for stream in streams:
        next(stream)
    found = []
    native, now = llm.model.native_seconds, time.perf_counter()
    for _ in zip(*streams, strict=True):
        native_before, before = native, now
        native, now = llm.model.native_seconds, time.perf_counter()
        wall = now - before
        found.append(((wall - (native - native_before)) / batch * 1e6, wall / batch * 1e6))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("-b", "--batch", type=int, action="append")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    with LLM(args.model, threads=args.threads) as llm:
        for batch in args.batch or [1]:
            for name, options in CASES.items():
                params = SamplingParams(max_tokens=args.n, ignore_eos=True, seed=1, **options)
                steps_us(llm, params, batch)  # warm up
                gc.collect()
                found = [each for _ in range(args.repeat) for each in steps_us(llm, params, batch)]
                python = sorted(each[0] for each in found)
                low, median, high = statistics.quantiles(python, n=4)
                row = {
                    "test": f"overhead {name}",
                    "n_batch": batch,
                    "n_gen": args.n,
                    # The median: a neighbour that takes the core for a slice is not our cost.
                    "python_us_per_token": median,
                    "quartiles_us": [low, high],
                    "mean_us": statistics.fmean(python),
                    "wall_us_per_token": statistics.median(each[1] for each in found),
                    "model": llm.name,
                    "threads": llm.n_threads,
                    "kernels": llm.kernels,
                    "python": platform.python_version(),
                }
                rows.append(row)
                print(
                    f"{name:<14} batch {batch:<3} python {median:6.1f} us/token "
                    f"(quartiles {low:.1f}, {high:.1f}; mean {row['mean_us']:.1f}), "
                    f"wall {row['wall_us_per_token']:.0f} us/token"
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
