"""Times `sample` and `softmax` with a vocabulary of 128,256 against NumPy and others, in turn.

Every round runs each contender once (A B C A B C ...), so that a change in the machine's speed
affects all of them.  Each variant's result is compared with the reference first.  Contenders:
  numpy, numpy choice, torch, llama.cpp   see `pyroclast.lab.speed.sampling_peers`
  reference   the op's own definition (float64, every stage; not written for speed)
  variants    all that run on this machine: one call of the C ABI through ctypes (about 1 us),
              on one thread
Ratios are of medians.  `iqr_us` is the spread: the distance between the quartiles.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyroclast.errors import KernelError
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.sample_call import SampleCall, usable_variants
from pyroclast.lab.speed.sampling_peers import (
    LlamaSampler,
    Run,
    llama_version,
    numpy_choice,
    numpy_sampler,
    numpy_softmax,
    torch_sampler,
    torch_softmax,
    torch_version,
)
from pyroclast.lab.speed.softmax_call import SoftmaxCall
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast_kernels import features, sample
from pyroclast_kernels.program import PARTS_PER_THREAD, OpCall, Program, make_executor
from pyroclast_kernels.sample import cases
from pyroclast_kernels.softmax import cases as softmax_cases

TABLE: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_k 50 + top_p 0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "min_p 0.05": {"temperature": 0.8, "min_p": 0.05},
}
PEERS = ("numpy", "numpy choice", "torch", "llama.cpp")


@dataclass(frozen=True)
class SamplingOptions:
    """seconds: for each row.  llama: llama_cpp can be imported, and takes part."""

    variants: tuple[str, ...]
    seconds: float = 3.0
    llama: bool = False


def in_turn(contenders: dict[str, Run], resets: dict[str, Run], seconds: float) -> dict[str, Any]:
    """{name: {"median_us", "iqr_us", "n"}}.  Every contender runs once a round, after its reset or,
    where it has none, a run that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 10:
        for name, run in contenders.items():
            if name in resets:
                resets[name]()
            else:
                run()  # brings its own data back into the caches
            start = time.perf_counter_ns()
            run()
            times[name].append((time.perf_counter_ns() - start) / 1000)
    summary = {}
    for name, t in times.items():
        low, median, high = np.percentile(t, [25, 50, 75])
        summary[name] = {
            "median_us": round(float(median), 2),
            "iqr_us": round(float(high - low), 2),
            "n": len(t),
        }
    return summary


def sample_call(
    variant: str, logits: Any, params: dict[str, Any], n_threads: int = 1
) -> tuple[SampleCall, Run]:
    """A prepared call, and a run that takes the next position each time."""
    rows = sample.new_rows(len(logits))
    for name, value in params.items():
        rows[name] = value
    rows["seed"] = np.arange(len(logits))
    n_parts = 1 if n_threads == 1 else n_threads * PARTS_PER_THREAD
    call = SampleCall(variant, logits, rows, n_parts=n_parts)
    positions, once = rows["position"].data, call.prepared()

    def run() -> None:
        positions[0] += 1
        once()

    return call, run


def check(variant: str, logits: Any, params: dict[str, Any]) -> None:
    """KernelError if the variant picks another token than the reference."""
    got = sample_call(variant, logits, params)[0].run().out[0]
    want = sample_call("numpy", logits, params)[0].run().out[0]
    if (got["token_id"], got["status"]) != (want["token_id"], want["status"]):
        raise KernelError(f"{variant} disagrees with the reference on {params}: {got}, not {want}")


def sampling_row(kind: str, params: dict[str, Any], options: SamplingOptions) -> dict[str, Any]:
    """One token under these parameters, by every variant and every other implementation."""
    logits = cases.RowCase(kind, cases.VOCAB_SIZE, params).logits()
    contenders: dict[str, Run] = {
        "numpy": numpy_sampler(logits, params, np.random.default_rng(1)),
        "reference": sample_call("numpy", logits[None], params)[1],
    }
    if set(params) == {"temperature"} and params["temperature"] > 0:
        contenders["numpy choice"] = numpy_choice(logits, params["temperature"])
    resets: dict[str, Run] = {}
    for variant in options.variants:
        check(variant, logits[None], params)
        contenders[variant] = sample_call(variant, logits[None], params)[1]
    if torch_version():
        contenders["torch"] = torch_sampler(logits, params)
    if options.llama:
        llama = LlamaSampler(logits, params)
        contenders["llama.cpp"], resets["llama.cpp"] = llama.run, llama.reset
    return in_turn(contenders, resets, options.seconds)


def threads_row(variant: str, options: SamplingOptions) -> dict[str, Any]:
    """32 rows with temperature and top-p through the executor, on one thread and on two."""
    kind, n_rows = "wide", 32
    logits = np.stack(
        [cases.RowCase(kind, cases.VOCAB_SIZE).logits(seed) for seed in range(n_rows)]
    )
    contenders: dict[str, Run] = {}
    for n_threads in (1, 2):
        executor = make_executor(n_threads)
        if executor is None:
            return {}
        call, _ = sample_call(variant, logits, TABLE["top_p 0.95"], n_threads)
        recorded = OpCall(call.kernel, call.arguments, "sample", call.slots)
        contenders[f"{n_threads} threads"] = Program([recorded], executor).run
    return in_turn(contenders, {}, options.seconds)


def softmax_row(options: SamplingOptions) -> dict[str, Any]:
    """Softmax at temperature 0.8, and one pass over the same logits without exponentials."""
    logits = softmax_cases.logits_of("wide", cases.VOCAB_SIZE)
    contenders: dict[str, Run] = {
        "one pass": logits.max,
        "numpy": lambda: numpy_softmax(logits[0], 0.8),
    }
    for variant in usable_variants("softmax"):
        if variant != "numpy":
            contenders[variant] = SoftmaxCall(variant, logits, temperatures=[0.8]).run
    if torch_version():
        contenders["torch"] = torch_softmax(logits[0], 0.8)
    return in_turn(contenders, {}, options.seconds)


def show(title: str, row: dict[str, Any]) -> None:
    """A line for each contender: the median, the spread, and ratios of the others to it."""
    print(f"\n{title}")
    for name, t in row.items():
        ratios = ", ".join(
            f"{other} / it = {row[other]['median_us'] / t['median_us']:.2f}"
            for other in ("one pass", "1 threads", *PEERS)
            if other in row and name not in ("one pass", "reference", "1 threads", *PEERS)
        )
        print(f"  {name:16s} {t['median_us']:10.1f} us  +- {t['iqr_us']:8.1f}   {ratios}")


def machine(options: SamplingOptions) -> dict[str, Any]:
    """Where and with what the rows are made."""
    found = {
        **environment(),
        "n_cpus": features.n_cpus(),
        "vocab_size": cases.VOCAB_SIZE,
        "load_average": os.getloadavg(),
        "torch": torch_version() or "not installed",
    }
    return {**found, "llama_cpp": llama_version()} if options.llama else found


def measure(options: SamplingOptions, kinds: Sequence[str]) -> dict[str, Any]:
    """All rows, by title.  kinds: the kinds of logits that every setting is timed on."""
    rows = {
        f"{title}, {kind}": sampling_row(kind, params, options)
        for kind in kinds
        for title, params in TABLE.items()
    }
    for kind in cases.LOGITS:
        if kind not in kinds:
            rows[f"top_p 0.95, {kind}"] = sampling_row(kind, TABLE["top_p 0.95"], options)
    rows["softmax, wide"] = softmax_row(options)
    for variant in options.variants:
        rows[f"32 rows, {variant}"] = threads_row(variant, options)
    return {"machine": machine(options), "rows": rows}


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row (3)")
    parser.add_argument("--variants", nargs="*", help="default: all that run here")
    parser.add_argument("--kinds", nargs="*", default=["wide", "model"], help="of logits")
    parser.add_argument("--llama-site", help="site-packages that hold llama_cpp")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(words)
    variants = args.variants or [v for v in usable_variants("sample") if v != "numpy"]
    if args.llama_site:
        sys.path.append(args.llama_site)
    if not torch_version():
        print("torch is not installed: its rows are left out")
    options = SamplingOptions(tuple(variants), args.seconds, llama=bool(args.llama_site))
    result = measure(options, args.kinds)
    for title, row in result["rows"].items():
        show(title, row)
    if args.out:
        write_result(args.out, result)
