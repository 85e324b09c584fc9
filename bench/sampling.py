"""Times `sample` and `softmax` at a vocabulary of 128,256 against NumPy and llama.cpp, in turn.

    python bench/sampling.py --out bench/results/sampling.json
    python bench/sampling.py --llama-site PEER/lib/python3.11/site-packages   (has llama_cpp)

Every round runs each contender once (A B C A B C ...), so that a change in the machine's mood
meets all of them.  Checked first: each variant's result against the reference.  What is timed:
  numpy       the best one would write: float32, vectorised, argsort or argpartition for the cuts
  numpy choice  what one usually writes to draw: Generator.choice(p=...), which wants float64
  reference   the op's own definition (float64, every stage; not written for speed)
  llama.cpp   llama_sampler_apply of a chain; filling its array of candidates is not counted
  variants    one call of the C ABI through ctypes (about 1 us), one thread
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
from collections.abc import Callable
from functools import partial
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
    pack_arguments,
)
from pyroclast_kernels.program import Call as ProgramCall  # noqa: E402
from pyroclast_kernels.registry import Selection  # noqa: E402
from pyroclast_kernels.sample import cases  # noqa: E402
from pyroclast_kernels.softmax import cases as softmax_cases  # noqa: E402
from run_sample import C_KERNEL, Call, usable_variants  # noqa: E402

TABLE: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_k 50 + top_p 0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "min_p 0.05": {"temperature": 0.8, "min_p": 0.05},
}
PEERS = ("numpy", "numpy choice", "llama.cpp")
Run = Callable[[], Any]


# ---- what one would write in NumPy ----------------------------------------------------------


def numpy_softmax(x: Any, temperature: float) -> Any:
    e = np.exp((x - x.max()) * np.float32(1 / temperature))
    e /= e.sum()
    return e


def numpy_draw(p: Any, u: float) -> int:
    c = np.cumsum(p)
    return int(np.searchsorted(c, np.float32(u) * c[-1], side="right"))


def numpy_sampler(x: Any, p: dict[str, Any], rng: np.random.Generator) -> Run:
    temperature = p["temperature"]

    def top_p_cut(ids: Any, probs: Any) -> int:
        n_kept = 1 + int(np.searchsorted(np.cumsum(probs), np.float32(p["top_p"])))
        return int(ids[numpy_draw(probs[:n_kept], rng.random())])

    def top_k_top_p() -> int:
        ids = np.argpartition(x, -p["top_k"])[-p["top_k"] :]
        ids = ids[np.argsort(-x[ids])]
        return top_p_cut(ids, numpy_softmax(x[ids], temperature))

    def top_p() -> int:
        ids = np.argsort(-x)
        return top_p_cut(ids, numpy_softmax(x, temperature)[ids])

    def min_p() -> int:
        probs = numpy_softmax(x, temperature)
        ids = np.flatnonzero(probs >= np.float32(p["min_p"]) * probs.max())
        return int(ids[numpy_draw(probs[ids], rng.random())])

    if temperature == 0:
        return lambda: int(np.argmax(x))
    if "top_k" in p:
        return top_k_top_p
    if "top_p" in p:
        return top_p
    if "min_p" in p:
        return min_p
    return lambda: numpy_draw(numpy_softmax(x, temperature), rng.random())


def numpy_choice(x: Any, temperature: float) -> Run:
    rng = np.random.default_rng(1)

    def draw() -> int:
        p = numpy_softmax(x, temperature).astype(np.float64)
        return int(rng.choice(len(p), p=p / p.sum()))

    return draw


# ---- llama.cpp ------------------------------------------------------------------------------


class LlamaSampler:
    """A chain in llama.cpp's default order: top-k, top-p, min-p, temperature, draw."""

    def __init__(self, logits: Any, p: dict[str, Any]) -> None:
        import ctypes

        import llama_cpp as lib

        self.lib, self.ctypes, n = lib, ctypes, len(logits)
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if p["temperature"] == 0:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
        else:
            if "top_k" in p:
                lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_k(p["top_k"]))
            for name in ("top_p", "min_p"):
                if name in p:
                    init = getattr(lib, f"llama_sampler_init_{name}")
                    lib.llama_sampler_chain_add(chain, init(p[name], 1))
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(p["temperature"]))
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(7))
        self.chain = chain
        fields = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        self.fresh = np.zeros(n, fields)
        self.fresh["id"], self.fresh["logit"] = np.arange(n), logits
        self.data = self.fresh.copy()
        self.array = lib.llama_token_data_array()

    def reset(self) -> None:
        """Fills the candidates in; not timed."""
        self.data[:] = self.fresh
        self.array.data = self.data.ctypes.data_as(self.ctypes.POINTER(self.lib.llama_token_data))
        self.array.size, self.array.selected, self.array.sorted = len(self.data), -1, False
        self.pointer = self.ctypes.byref(self.array)

    def run(self) -> int:
        self.lib.llama_sampler_apply(self.chain, self.pointer)
        return int(self.data[self.array.selected]["id"])


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
    positions = rows["position"]

    def run() -> None:
        positions[0] += 1
        call.run()

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
    if args.llama_site:
        llama = LlamaSampler(logits, params)
        contenders["llama.cpp"], resets["llama.cpp"] = llama.run, llama.reset
    return in_turn(contenders, resets, args.seconds)


def threads_row(args: argparse.Namespace) -> dict[str, Any]:
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
        call, _ = sample_call(args.variants[0], logits, TABLE["top_p 0.95"], n_threads)
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
        if variant == "numpy":
            continue
        kernel = Selection(f"softmax={variant}").kernel("softmax")
        arguments = softmax_cases.arguments_of(logits, temperatures=[0.8])
        slots = pack_arguments(kernel, arguments)
        contenders[variant] = partial(run_softmax, kernel.address, slots, arguments)
    return in_turn(contenders, {}, args.seconds)


def run_softmax(address: int, slots: Any, arguments: dict[str, Any]) -> None:
    """One call; `arguments` keeps the arrays alive."""
    assert arguments
    C_KERNEL(address)(slots.ctypes.data, 0, 1)


def show(title: str, row: dict[str, Any]) -> None:
    """One line per contender: the median, the spread, and how many times faster ours is."""
    print(f"\n{title}")
    for name, t in row.items():
        ratios = ", ".join(
            f"{other} / it = {row[other]['median_us'] / t['median_us']:.2f}"
            for other in ("one pass", *PEERS)
            if other in row and name not in ("one pass", "reference", *PEERS)
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
    result: dict[str, Any] = {"machine": machine(args), "rows": {}}
    rows = result["rows"]
    for kind in args.kinds:
        for title, params in TABLE.items():
            rows[f"{title}, {kind}"] = sampling_row(kind, params, args)
    for kind in cases.LOGITS:
        if kind not in args.kinds:
            rows[f"top_p 0.95, {kind}"] = sampling_row(kind, TABLE["top_p 0.95"], args)
    rows["softmax, wide"] = softmax_row(args)
    rows["32 rows"] = threads_row(args)
    for title, row in rows.items():
        show(title, row)
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
