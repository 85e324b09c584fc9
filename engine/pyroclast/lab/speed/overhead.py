"""What Python costs: the wall time of a generated token, less the time inside the native step.

Everything outside the model's forward() counts: planning the step, filling the batch and sampler
arrays, stop checks, detokenizing, streaming.  Goal at batch 1: 40
microseconds a token for greedy text, 60 with log-probabilities.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyroclast import LLM, SamplingParams
from pyroclast.lab.speed import overhead_steps
from pyroclast.lab.speed.overhead_pair import WorkerError, compare
from pyroclast.lab.speed.overhead_steps import open_streams
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment

CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "stop strings": {"temperature": 0.8, "stop": ("\n\n\n\n", "<end>", "zzz")},
    "penalties": {"temperature": 0.8, "repetition_penalty": 1.1, "frequency_penalty": 0.1},
    "logprobs": {"temperature": 0.8, "logprobs": 5},
}


def steps_us(llm: LLM, params: SamplingParams, batch: int) -> list[tuple[float, float]]:
    """(Python, wall) microseconds a token, for each step after the first, which reads the prompt.

    batch: sequences that decode side by side."""
    return list(overhead_steps.steps_us(llm.model, open_streams(llm, params, batch)))


def measure(llm: LLM, batches: Sequence[int], n_gen: int, repeat: int) -> Iterator[dict[str, Any]]:
    """A row for each batch size and case, as soon as it is measured."""
    for batch in batches:
        for name, options in CASES.items():
            params = SamplingParams(max_tokens=n_gen, ignore_eos=True, seed=1, **options)
            steps_us(llm, params, batch)  # warm up
            gc.collect()
            found = [each for _ in range(repeat) for each in steps_us(llm, params, batch)]
            python_us = [each[0] for each in found]
            low, median, high = statistics.quantiles(python_us, n=4)
            yield {
                "test": f"overhead {name}",
                "n_batch": batch,
                "n_gen": n_gen,
                # The median: a neighbour that takes the core for a slice is not our cost.
                "python_us_per_token": median,
                "quartiles_us": [low, high],
                "mean_us": statistics.fmean(python_us),
                "wall_us_per_token": statistics.median(each[1] for each in found),
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
    parser.add_argument("-n", type=int, default=256, help="tokens to generate (256)")
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("-b", "--batch", type=int, action="append", help="default: 1; repeat")
    parser.add_argument("--repeat", type=int, default=5, help="runs, or 20 turns of 10 steps (5)")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="time it in turn")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    batches, rows = args.batch or [1], []
    if args.against:
        turns = args.model, args.threads, CASES, batches, 20 * args.repeat
        try:
            for row in compare(args.against, *turns):
                rows.append(row)
                print(_in_words(row), flush=True)
        except WorkerError as error:
            raise SystemExit(f"--against: {error}") from error
        _write(args.json, rows)
        return
    with LLM(args.model, threads=args.threads, prefix_cache=False, speculation="off") as llm:
        for row in measure(llm, batches, args.n, args.repeat):
            rows.append(row)
            low, high = row["quartiles_us"]
            print(
                f"{row['test'].removeprefix('overhead '):<14} batch {row['n_batch']:<3} "
                f"python {row['python_us_per_token']:6.1f} us/token "
                f"(quartiles {low:.1f}, {high:.1f}; mean {row['mean_us']:.1f}), "
                f"wall {row['wall_us_per_token']:.0f} us/token"
            )
    _write(args.json, rows)


def _write(path: Path | None, rows: list[dict[str, Any]]) -> None:
    if path:
        write_result(path, {"made_with": environment(), "rows": rows})


def _in_words(row: dict[str, Any]) -> str:
    low, high = row["ratio_quartiles"]
    return (
        f"{row['test'].removeprefix('overhead '):<14} batch {row['n_batch']:<3} "
        f"before {row['before']['median_us']:6.1f} after {row['after']['median_us']:6.1f} "
        f"us/token, ratio {row['ratio']:.3f} ({low:.3f}, {high:.3f})"
    )
