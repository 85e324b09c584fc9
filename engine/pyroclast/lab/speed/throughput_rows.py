"""Compares the speed of each workload with the limits of the machine, measured in the same run.

The limits (streaming reads, multiply-adds on registers) are measured in the same process with the
same number of threads, before and after each repetition; the better of the two counts.
"""

from __future__ import annotations

import math
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pyroclast import __version__
from pyroclast.errors import RequestError
from pyroclast.families.config import ModelConfig
from pyroclast.families.tensors import is_matrix, template_of, tensor_shapes
from pyroclast.lab.speed.throughput import Runner, Workload
from pyroclast.model.kv_cache import BLOCK_SIZE, layer_block_bytes
from pyroclast_kernels import ceiling as machine
from pyroclast_kernels import features
from pyroclast_kernels.matmul import BLOCK_FORMATS, MATRIX_VARIANT, MATRIX_VARIANT_FEW
from pyroclast_kernels.program import make_executor

# One streaming pass over a small model is over before the clock has seen much of it.
_READ_BYTES = 1 << 30
_READ_REPEATS = (3, 12)  # at least, at most


@dataclass(frozen=True)
class MachineLimit:
    """The most that this machine was seen to do: "read" in GB/s, or "vnni", "int8" (bytes without
    VNNI), "bf16", "amxbf16" or "fma" in Gop/s, a multiply-add being two operations."""

    kind: str
    value: float
    unit: str
    how: str


class MachineLimits:
    """Measures the limits of the machine for a runner.  Decoding is compared with reading as many
    bytes as the weights have, prompts with the arithmetic that products with the weights use."""

    def __init__(self, runner: Runner) -> None:
        self._runner, n_bytes = runner, runner.model.weight_bytes
        self._repeats = min(max(_READ_REPEATS[0], _READ_BYTES // n_bytes), _READ_REPEATS[1])
        executor = make_executor(runner.model.n_threads)
        available = executor is not None and bool(machine.kernels())
        self._machine = machine.CeilingMeter(executor, n_bytes) if available else None

    def measure(self, workload: Workload) -> MachineLimit | None:
        """None where it cannot be measured: no native build, or no such instruction."""
        if self._machine is None:
            return None
        if workload.n_gen:
            value, how = self._machine.read_gbs(self._repeats)
            return MachineLimit("read", value, "GB/s", how)
        format = self._runner.format
        variants = self._runner.model.kernels.get(f"matmul.{format}", "")
        kind = arithmetic_of(format, variants, workload.n_timed)
        if kind == "vnni" and kind not in machine.kernels():
            kind = "int8"
        value = self._machine.arithmetic_gops(kind)
        return MachineLimit(kind, value, "Gop/s", "registers only") if value else None


def arithmetic_of(format: str, variants: str, n_tokens: int) -> str:
    """The kind of multiply-adds that products of n_tokens with weights of this format come down to.

    variants: that of `matmul`, or all of them joined by "+".  Matrix registers have a ceiling of
    their own, several times that of dot products; few tokens do not use them.  Dot products count
    where they are faster than multiply-adds: on Intel's CPUs they are not, and do not run."""
    if format in BLOCK_FORMATS:
        return "vnni"
    if MATRIX_VARIANT in variants.split("+") and n_tokens > MATRIX_VARIANT_FEW:
        return "amxbf16"
    has_dot = "bf16" in machine.kernels() and features.has_fast_bf16_dot()
    return "bf16" if format == "bf16" and has_dot else "fma"


def layer_multiply_adds(config: ModelConfig) -> int:
    """Multiply-adds of one token with the weights of all layers; of experts, with those that are
    active."""
    total = 0
    for name, shape in tensor_shapes(config).items():
        _, layer = template_of(name)
        if layer is None or not is_matrix(name):
            continue
        experts = config.layers[layer].experts
        n_active = experts.n_active if experts is not None and len(shape) == 3 else 1
        total += n_active * math.prod(shape[-2:])
    return total


def giga_work(runner: Runner, workload: Workload) -> float:
    """What a repetition cannot do without, in the ceiling's unit times seconds.

    Decoding: gigabytes of weights and of keys and values that it reads.  Prompts: 1e9 operations
    of the products with the weights; attention is not counted, though it takes time."""
    config = runner.model.config
    if workload.n_prompt:
        head = config.vocab_size * config.d_model * workload.n_batch
        return 2 * (layer_multiply_adds(config) * workload.n_timed + head) / 1e9
    kv_bytes = 0.0
    for attention in config.attentions.values():
        window = attention.window or workload.n_end
        seen = sum(min(n, window) for n in range(workload.n_depth + 1, workload.n_end + 1))
        kv_bytes += seen * layer_block_bytes(attention, runner.model.kv_dtype) / BLOCK_SIZE
    return (workload.n_gen * runner.model.weight_bytes + workload.n_batch * kv_bytes) / 1e9


# ---- rows ----------------------------------------------------------------------------------


def measure(
    runner: Runner,
    workloads: Sequence[Workload],
    repetitions: int,
    on_done: Callable[[int], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """A row for each workload, as soon as it is measured: a run to warm up, then the repetitions.
    on_done is called with the number of runs that are done, warm-up runs included."""
    if repetitions < 1:
        raise RequestError(f"repetitions must be at least 1, got {repetitions}")
    limits, n_done = MachineLimits(runner), count(1)
    for workload in workloads:
        runner.run(workload)
        on_done(next(n_done))
        seen, seconds = [limits.measure(workload)], []
        for _ in range(repetitions):
            seconds.append(runner.run(workload))
            on_done(next(n_done))
            seen.append(limits.measure(workload))
        yield summarize(runner, workload, seconds, seen)


def summarize(
    runner: Runner,
    workload: Workload,
    seconds: Sequence[float],
    seen: Sequence[MachineLimit | None],
) -> dict[str, Any]:
    """One row, fit for JSON: the speeds, their share of the machine's limit, how they were made.

    seen: the limit before the first repetition and after each.  The memory of a shared machine may
    slow down by half within seconds, so each repetition is compared with the better of the two
    limits beside it.  The share is the median over repetitions, and `ceiling` the median limit."""
    speeds = [workload.n_timed / each for each in seconds]
    known = [each for each in seen if each is not None]
    ceiling = None
    shares: list[float] = []
    if len(known) == len(seconds) + 1:
        beside = [max(pair) for pair in pairwise(each.value for each in known)]
        work = giga_work(runner, workload)
        shares = [work / s / value for s, value in zip(seconds, beside, strict=True)]
        ceiling = replace(known[-1], value=statistics.median(beside))
    return {
        "test": workload.name,
        **asdict(workload),
        "n_threads": runner.model.n_threads,
        **spread(speeds),
        "avg_ns": statistics.fmean(seconds) * 1e9,
        "roofline_share": statistics.median(shares) if shares else None,
        "ceiling": asdict(ceiling) if ceiling else None,
        "model": runner.name,
        "weight_bytes": runner.model.weight_bytes,
        "kernels": runner.model.kernels,
        "table": runner.model.table,
        "kv_dtype": runner.model.kv_dtype,
        "compute": runner.model.compute,
        **environment(),
    }


def spread(speeds: Sequence[float]) -> dict[str, Any]:
    """Tokens per second: mean, standard deviation (0 for one sample), median, quartiles, how many
    samples there are, and the samples, which result files leave out."""
    low, median, high = quartiles(speeds)
    return {
        "avg_ts": statistics.fmean(speeds),
        "stddev_ts": statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
        "median_ts": median,
        "low_ts": low,
        "high_ts": high,
        "n_samples": len(speeds),
        "samples_ts": list(speeds),
    }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(lower quartile, median, upper quartile), between the values; a single one is all three."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def environment() -> dict[str, Any]:
    """Where and when: CPU, commit (the version where there is no checkout), date, versions."""
    return {
        "cpu": features.cpu_name(),
        "commit": commit() or __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


@cache
def commit() -> str | None:
    """The commit of the checkout that this file is part of, with "-dirty" if it was changed."""
    root, git = Path(__file__).parents[4], shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(
        [*command, "--exclude=*"], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip() or None
