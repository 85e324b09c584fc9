"""Rows of what a child process answered: environment, roofline, ratios, drift.

Everything here is arithmetic on rows; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pyroclast import __version__
from pyroclast.lab.speed import gpu
from pyroclast.lab.speed.machine import roofline
from pyroclast.lab.speed.measure import DRIFT
from pyroclast.lab.speed.rows import BLAS, CACHES, Ceiling, Row, by_case
from pyroclast.lab.speed.throughput_rows import arithmetic_of, commit
from pyroclast_kernels import features, tables
from pyroclast_kernels.cases import Case
from pyroclast_kernels.selection import Selection, all_variants

_NUMPY = "numpy"
# Ops whose format says what they multiply with.
_PRODUCTS = ("matmul", "gate_up", "attention")
_TIMES = (
    "median_us", "iqr_us", "min_us", "n_runs", "samples_us", "cache_how", "anchor_us", "n_attempts",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One variant on one case."""

    case: Case
    variant: str
    n_threads: int

    @property
    def why_unsupported(self) -> str:
        """Why this machine or build cannot run it; empty if it can."""
        if self.variant == BLAS:
            return ""
        variant = all_variants(self.case.op)[self.variant]
        if variant.unavailable or self.case.format in variant.formats:
            return variant.unavailable
        return f"does not take format {self.case.format}"


def isa(variant: str) -> str:
    """The instruction set that a variant is compiled for, as far as its name tells."""
    if variant.startswith("cpp-") and variant[4:] in features.LEVEL_FLAGS:
        return variant[4:]
    if variant == "cython":
        return "avx2"
    return "numpy" if variant in (_NUMPY, BLAS) else "native"


def rows_of(job: Job, status: str, error: str, answer: dict[str, Any]) -> list[Row]:
    """The rows of one job, a cold and a warm one.  answer: what Bench.measure gave, or {}."""
    case, times = job.case, answer.get("times", {})
    device = answer.get("gpu", {})
    accuracy: dict[str, Any] = dict.fromkeys(
        ("max_abs_error", "nmse", "tolerance", "error_share")
    ) | answer.get("accuracy", {})
    known = all_variants(case.op).get(job.variant)
    common: dict[str, Any] = {
        "test_time": datetime.now(UTC).isoformat(timespec="seconds"),
        "build_commit": commit() or __version__,
        "backend_name": gpu.BACKEND if device and times else "CPU",
        "backend_reg_name": "pyroclast",
        "device_description": device["name"] if device and times else features.cpu_name(),
        "op_name": case.op,
        "op_params": f"format={case.format},case={case.name}",
        "test_mode": "perf",
        "supported": status != "unsupported",
        "passed": status in ("ok", "checked"),
        "error_message": error,
        "memory_kb": -(-case.bytes // 1024),
        "op": case.op,
        "format": case.format,
        "case": case.name,
        "variant": job.variant,
        "isa": device.get("isa") or isa(job.variant),
        "bit_group": known.bit_group if known else "numpy",
        "n_threads": job.n_threads,
        "table": Selection("").table,
        "cpu_fingerprint": tables.fingerprint(),
        "status": status,
        "reason": case.reason,
        "n_flops": case.flops,
        "n_bytes": case.bytes,
        **accuracy,
    }
    return [Row(cache=cache, **common, **_speed(case, times.get(cache))) for cache in CACHES]


def _speed(case: Case, timed: dict[str, Any] | None) -> dict[str, Any]:
    if timed is None:
        nothing = {"time_us": None, "flops": None, "bandwidth_gb_s": None}
        return {**nothing, "n_runs": 0, "cache_how": ""}
    seconds = timed["median_us"] / 1e6
    gb_s = case.bytes / seconds / 1e9 if case.bytes else None
    flops = case.flops / seconds if case.flops else None
    return {
        **{name: timed[name] for name in _TIMES},
        "samples_us": tuple(timed["samples_us"]),
        "time_us": timed["median_us"],
        "flops": flops,
        "bandwidth_gb_s": gb_s,
        "gb_s": gb_s,
        "gflop_s": flops / 1e9 if flops else None,
    }


def with_roofline(row: Row, ceilings: Sequence[Ceiling]) -> Row:
    """The row with its share of the ceilings."""
    if row.median_us is None:
        return row
    seconds, work = row.median_us / 1e6, (row.n_flops, row.n_bytes)
    if row.backend_name == gpu.BACKEND:
        share, limit = gpu.roofline(seconds, *work, ceilings, row.cache)
        return replace(row, roofline_share=share, roofline_limit=limit)
    share, limit = roofline(
        seconds,
        *work,
        arithmetic_of(row.format) if row.op in _PRODUCTS else "fma",
        [ceiling for ceiling in ceilings if ceiling.n_threads == row.n_threads],
        row.cache,
    )
    return replace(row, roofline_share=share, roofline_limit=limit)


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows of whole cases with their ratios to NumPy."""
    times = {
        key: {row.variant: row.median_us for row in group} for key, group in by_case(rows).items()
    }
    done = []
    for row in rows:
        found = times[(row.op, row.format, row.case, row.n_threads, row.cache)]
        numpy, blas, mine = found.get(_NUMPY), found.get(BLAS), row.median_us
        ratios = [other / mine if other and mine else None for other in (numpy, blas)]
        done.append(replace(row, ratio_to_numpy=ratios[0], ratio_to_blas=ratios[1]))
    return done


def with_drift(row: Row, best_anchor_us: float) -> Row:
    """The row with how much slower than at its best the machine was beside it."""
    if row.anchor_us is None or row.status not in ("ok", "drifted"):
        return row
    drift = row.anchor_us / best_anchor_us - 1 if best_anchor_us else 0.0
    status = "drifted" if drift > DRIFT else "ok"
    return replace(row, anchor_drift=drift, status=status)
