"""What a grammar costs: free text and JSON of a schema in turn, and the time inside the matcher.

Both runs decode as many tokens.  The schema never completes, and has strings, numbers and names, so
that some tokens are forced: these cost no step of their own, unless --no-jumps asks for one.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from pyroclast import LLM, SamplingParams
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.sampling.grammar import Matcher

SCHEMA = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 1000,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "age": {"type": "integer"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["name", "age", "tags"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}
PROMPT = "A list of people as JSON: "
CALLS = ("write_mask", "accept", "forced")


@contextlib.contextmanager
def timed(seconds: dict[str, list[float]]) -> Iterator[None]:
    """Notes how long each call of a matcher takes."""

    def wrapped(call: Callable[..., Any], found: list[float]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            begin = perf_counter()
            result = call(*args)
            found.append(perf_counter() - begin)
            return result

        return run

    real = {name: getattr(Matcher, name) for name in CALLS}
    for name, call in real.items():
        setattr(Matcher, name, wrapped(call, seconds[name]))
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(Matcher, name, call)


def decode_s(llm: LLM, batch: int, params: SamplingParams) -> float:
    """Seconds between the first token and the last."""
    answers = llm.generate([f"{i}. {PROMPT}" for i in range(batch)], params)
    return max(answer.timings.decode_s for answer in answers)


def measure(llm: LLM, batch: int, n_tokens: int, repeat: int, *, jumps: bool) -> dict[str, Any]:
    """A row: milliseconds a token of both, and the matcher's share of the structured time."""
    base = SamplingParams(max_tokens=n_tokens, seed=1, ignore_eos=True)
    held = base.replace(structured={"json": SCHEMA}, logprobs=None if jumps else 0)
    free = base if jumps else base.replace(logprobs=0)
    decode_s(llm, batch, held)  # compiles the grammar
    seconds: dict[str, list[float]] = {name: [] for name in CALLS}
    shares, free_ms, held_ms, ratios = [], [], [], []
    for _ in range(repeat):
        free_s = decode_s(llm, batch, free)
        before = sum(map(sum, seconds.values()))
        with timed(seconds):
            held_s = decode_s(llm, batch, held)
        shares.append((sum(map(sum, seconds.values())) - before) / held_s)
        free_ms.append(1e3 * free_s / (n_tokens - 1))
        held_ms.append(1e3 * held_s / (n_tokens - 1))
        ratios.append(held_s / free_s)
    return {
        "test": "structured output",
        "batch": batch,
        "n_tokens": n_tokens,
        "jumps": jumps,
        **_spread("free_ms_per_token", free_ms),
        **_spread("structured_ms_per_token", held_ms),
        **_spread("ratio", ratios),
        **_spread("mask_share", shares),
        **{f"{name}_median_us": 1e6 * statistics.median(seconds[name] or [0]) for name in CALLS},
        "model": llm.name,
        "threads": llm.n_threads,
        "kernels": llm.kernels,
    }


def _spread(name: str, values: list[float]) -> dict[str, Any]:
    quartiles = statistics.quantiles(values, n=4)[::2] if len(values) > 1 else values * 2
    return {name: statistics.median(values), f"{name}_quartiles": quartiles}


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("-b", "--batch", type=int, action="append", help="default: 1 and 8; repeat")
    parser.add_argument("-n", "--tokens", type=int, default=128)
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--repeat", type=int, default=7, help="pairs of runs (7)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    rows = []
    with LLM(args.model, threads=args.threads, speculation="off") as llm:
        for batch in args.batch or [1, 8]:
            for jumps in (False, True):
                row = measure(llm, batch, args.tokens, args.repeat, jumps=jumps)
                rows.append(row)
                print(
                    f"batch {batch}, {'jumps' if jumps else 'every token computed'}: the matcher "
                    f"takes {100 * row['mask_share']:.2f}% of a step; "
                    f"{row['structured_ms_per_token']:.2f} ms a token, free text "
                    f"{row['free_ms_per_token']:.2f} ({row['ratio']:.3f} times)"
                )
    if args.json:
        write_result(args.json, {"made_with": environment(), "rows": rows})
