"""Times `sample` and `softmax` at a vocabulary of 128,256 against NumPy and others, in turn.

    python bench/sampling.py --out bench/results/sampling.json
    python bench/sampling.py --llama-site PEER/lib/python3.11/site-packages   (has llama_cpp)

Every round runs each contender once (A B C A B C ...), so that a change in the machine's mood
meets all of them.  Checked first: each variant's result against the reference.  What is timed:
  numpy, numpy choice, torch, llama.cpp   bench/sampling_peers.py says what they do
  reference   the op's own definition (float64, every stage; not written for speed)
  variants    every one that the registry has for this machine, one call of the C ABI through
              ctypes (about 1 us), one thread
Ratios are of medians.  `iqr_us` is the spread: the distance of the quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels", "tests")]

from pyroclast_kernels import features, sample  # noqa: E402
from pyroclast_kernels.program import (  # noqa: E402
    PARTS_PER_THREAD,
    Program,
    make_executor,
)
from pyroclast_kernels.program import Call as ProgramCall  # noqa: E402
from pyroclast_kernels.sample import cases  # noqa: E402
from pyroclast_kernels.softmax import cases as softmax_cases  # noqa: E402
from run_sample import Call, usable_variants  # noqa: E402
from run_softmax import SoftmaxCall  # noqa: E402
from sampling_peers import (  # noqa: E402
    LlamaSampler,
    Run,
    numpy_choice,
    numpy_sampler,
    numpy_softmax,
    torch_sampler,
    torch_softmax,
    torch_version,
)

TABLE: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_k 50 + top_p 0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "min_p 0.05": {"temperature": 0.8, "min_p": 0.05},
}
PEERS = ("numpy", "numpy choice", "torch", "llama.cpp")


# ---- timing ---------------------------------------------------------------------------------


def in_turn(contenders: dict[str, Run], resets: dict[str, Run], seconds: float) -> dict[str, Any]:
    """{name: {"median_us", "iqr_us", "n"}}; every contender runs once a round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 10:
        for name, run in contenders.items():
            if name in resets:
                resets[name]()
            else:
                run()  # the first run finds its data in somebody else's cache
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
) -> tuple[Call, Run]:
    """A prepared call, and a run that takes the next position each time."""
    rows = sample.new_rows(len(logits))
    for name, value in params.items():
        rows[name] = value
    rows["seed"] = np.arange(len(logits))
    n_parts = 1 if n_threads == 1 else n_threads * PARTS_PER_THREAD
    call = Call(variant, logits, rows, n_parts=n_parts)
    positions, once = rows["position"].data, call.prepared()

    def run() -> None:
        positions[0] += 1
        once()

    return call, run


def check(variant: str, logits: Any, params: dict[str, Any]) -> None:
    got = sample_call(variant, logits, params)[0].run().out[0]
    want = sample_call("numpy", logits, params)[0].run().out[0]
    if (got["token_id"], got["status"]) != (want["token_id"], want["status"]):
        raise SystemExit(f"{variant} disagrees with the reference on {params}: {got} {want}")


def sampling_row(kind: str, params: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    logits = cases.RowCase(kind, cases.VOCAB_SIZE, params).logits()
    contenders: dict[str, Run] = {
        "numpy": numpy_sampler(logits, params, np.random.default_rng(1)),
        "reference": sample_call("numpy", logits[None], params)[1],
    }
    if set(params) == {"temperature"} and params["temperature"] > 0:
        contenders["numpy choice"] = numpy_choice(logits, params["temperature"])
    resets: dict[str, Run] = {}
    for variant in args.variants:
        check(variant, logits[None], params)
        contenders[variant] = sample_call(variant, logits[None], params)[1]
    if torch_version():
        contenders["torch"] = torch_sampler(logits, params)
    if args.llama_site:
        llama = LlamaSampler(logits, params)
        contenders["llama.cpp"], resets["llama.cpp"] = llama.run, llama.reset
    return in_turn(contenders, resets, args.seconds)


def threads_row(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """32 rows with temperature and top-p, on one thread and on two, by the executor."""
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
        recorded = ProgramCall(call.kernel, call.arguments, "sample", call.slots)
        contenders[f"{n_threads} threads"] = Program([recorded], executor).run
    return in_turn(contenders, {}, args.seconds)


def softmax_row(args: argparse.Namespace) -> dict[str, Any]:
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
    return in_turn(contenders, {}, args.seconds)


def show(title: str, row: dict[str, Any]) -> None:
    """One line per contender: the median, the spread, and how many times faster ours is."""
    print(f"\n{title}")
    for name, t in row.items():
        ratios = ", ".join(
            f"{other} / it = {row[other]['median_us'] / t['median_us']:.2f}"
            for other in ("one pass", "1 threads", *PEERS)
            if other in row and name not in ("one pass", "reference", "1 threads", *PEERS)
        )
        print(f"  {name:16s} {t['median_us']:10.1f} us  +- {t['iqr_us']:8.1f}   {ratios}")


def git_commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "none"


def machine(args: argparse.Namespace) -> dict[str, Any]:
    found = {
        "cpu": features.cpu_name(),
        "n_cpus": features.n_cpus(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": git_commit(),
        "vocab_size": cases.VOCAB_SIZE,
        "load_average": os.getloadavg(),
        "torch": torch_version() or "not installed",
    }
    if args.llama_site:
        import llama_cpp

        found["llama_cpp"] = llama_cpp.__version__
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="per row")
    parser.add_argument("--variants", nargs="*", help="default: all that run here")
    parser.add_argument("--kinds", nargs="*", default=["wide", "model"], help="of logits")
    parser.add_argument("--llama-site", help="site-packages that hold llama_cpp")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.variants = args.variants or [v for v in usable_variants("sample") if v != "numpy"]
    if args.llama_site:
        sys.path.append(args.llama_site)
    if not torch_version():
        print("torch is not installed: its rows are left out")
    result: dict[str, Any] = {"machine": machine(args), "rows": {}}
    rows = result["rows"]
    for kind in args.kinds:
        for title, params in TABLE.items():
            rows[f"{title}, {kind}"] = sampling_row(kind, params, args)
    for kind in cases.LOGITS:
        if kind not in args.kinds:
            rows[f"top_p 0.95, {kind}"] = sampling_row(kind, TABLE["top_p 0.95"], args)
    rows["softmax, wide"] = softmax_row(args)
    for variant in args.variants:
        rows[f"32 rows, {variant}"] = threads_row(variant, args)
    for title, row in rows.items():
        show(title, row)
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
