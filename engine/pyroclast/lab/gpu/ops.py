"""Times single kernels on the GPU: attention at a long context, sampling from a large vocabulary,
and the cases of `pyroclast bench kernels`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyroclast.lab.speed.rows import Row
from pyroclast.lab.speed.run import Run, Settings, plan
from pyroclast_kernels.attention import SPLIT, cache
from pyroclast_kernels.rope.cases import Shape, paged
from pyroclast_kernels.sample import cases as sample_cases
from pyroclast_kernels.sample import new_rows
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.softmax import cases as softmax_cases
from pyroclast_kernels.triton.device import INTERPRETED

_SECONDS = 0.3  # for one figure
_MAX_SPLIT_TOKENS = 4  # as the engine's

SAMPLERS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top-k top-p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "top-p": {"temperature": 0.8, "top_p": 0.95},
}


def timed(op: str, format: str, arguments: dict[str, Any], n_bytes: int) -> list[dict[str, Any]]:
    """A row: the time in a replayed graph, as the engine runs it, and that with a cold cache."""
    launch = Selection("", on_gpu=True).kernel(op, format).launch
    assert launch is not None, "a selection for the GPU has launches"
    from pyroclast_kernels.gpu import timing as triton_timing
    from pyroclast_kernels.triton.ceiling import elapsed_s

    call = triton_timing.call_of(launch, arguments)
    if INTERPRETED:
        us = 1e6 * elapsed_s(call)
        return [
            {"value": us, "unit": "us", "how": "Triton's interpreter, which says nothing of a GPU"}
        ]
    cold = triton_timing.cold(call, _SECONDS)
    cold_us = statistics.median(cold.samples_us)
    replayed = triton_timing.replayed(call, cold_us, _SECONDS)
    return [
        {
            "value": statistics.median(replayed.samples_us),
            "unit": "us",
            "how": replayed.how,
            "cold_us": cold_us,
            "cold_how": cold.how,
            "n_bytes": n_bytes,
            "gb_s": n_bytes / cold_us / 1e3,
        }
    ]


def attention(heads: list[int], n_cached: int, n_batch: int, format: str) -> Any:
    """One new token of each of n_batch sequences that hold n_cached.  Its rate is the cold one."""
    n_heads, n_kv_heads, head_dim = heads
    shape = Shape(n_heads, n_kv_heads, head_dim, ((n_cached - 1, 1),) * n_batch)
    arguments = paged(shape, format, np.random.default_rng(1))
    max_splits = -(-n_cached // SPLIT)
    cells = (_MAX_SPLIT_TOKENS * shape.n_heads, max_splits, shape.value_stride + 2)
    arguments |= {
        "out": np.zeros((n_batch, shape.n_heads * shape.head_dim), np.float32),
        "out_q8": None,
        "scratch": np.zeros(cells, np.float32),
        "counters": np.zeros(cells[0], np.int32),
        "window": 0,
        "scale": head_dim**-0.5,
        "softcap": 0.0,
        "sinks": None,
        "max_splits": max_splits,
        "max_split_tokens": _MAX_SPLIT_TOKENS,
    }
    del arguments["seq_index"]  # rope's
    cell = np.dtype(cache.DTYPES[format]).itemsize
    block_bytes = sum(int(np.prod(s)) * cell for s in cache.block_shapes(format, shape.head_dim))
    n_bytes = n_batch * n_cached * shape.n_kv_heads * block_bytes // cache.BLOCK_SIZE
    return timed("attention", format, arguments, n_bytes)


def sample(vocab_size: int, n_batch: int, sampler: str) -> Any:
    """The op `sample`: softmax with temperature, cuts and a draw."""
    rows = new_rows(n_batch)
    for name, value in SAMPLERS[sampler].items():
        rows[name] = value
    rows["seed"], rows["position"] = np.arange(n_batch), 100
    logits = _logits(vocab_size, n_batch)
    arguments = sample_cases.arguments_of(logits, rows)
    return timed("sample", "f32", arguments, logits.nbytes)


def softmax(vocab_size: int, n_batch: int) -> Any:
    """The op `softmax`: temperature alone, and all probabilities are written."""
    logits = _logits(vocab_size, n_batch)
    arguments = softmax_cases.arguments_of(logits, temperatures=[0.8] * n_batch)
    return timed("softmax", "f32", arguments, 2 * logits.nbytes)


def _logits(vocab_size: int, n_batch: int) -> Any:
    return softmax_cases.logits_of("wide", vocab_size, n_batch)


class Suite:
    """The lab's own cases of all ops on the GPU, a few at a time."""

    def __init__(self) -> None:
        self._cases: Iterator[list[Row]] | None = None

    def suite(self, seconds: float, ops: list[str] | None, cases: list[str] | None) -> Any:
        """The rows of the next case; [] after the last case."""
        if self._cases is None:
            settings = Settings(ops=ops, variants=["triton"], cases=cases, seconds=seconds)
            self._cases = Run(settings, plan(settings)).measure()
        return suite_rows(next(self._cases, []))


def suite_rows(rows: list[Row]) -> list[dict[str, Any]]:
    """One row for each variant, of its cold and its warm one."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        record = found.setdefault(row.variant, {"unit": "us", "value": None})
        record["test"] = f"{row.op}.{row.format} {row.case}"
        if row.status not in ("ok", "drifted"):
            record["reason"] = f"{row.status}: {row.error_message}"
        elif row.cache == "warm":
            record["value"] = row.median_us
        else:
            record |= {"cold_us": row.median_us, "gb_s": row.gb_s, "gop_s": row.gflop_s}
    return list(found.values())
