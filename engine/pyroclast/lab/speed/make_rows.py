"""Rows of what a child process answered, and their shares of the ceilings.

Everything here is arithmetic; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyroclast.lab.speed import gpu
from pyroclast.lab.speed.machine import roofline
from pyroclast.lab.speed.rows import BLAS, CACHES, MeasuredCeiling, Row
from pyroclast.lab.speed.throughput_rows import arithmetic_of
from pyroclast_kernels.cases import Case
from pyroclast_kernels.matmul import MATRIX_VARIANT
from pyroclast_kernels.selection import all_variants

# Ops whose format says what they multiply with.
_PRODUCTS = ("matmul", "gate_up", "attention")


@dataclass(frozen=True)
class KernelJob:
    """One variant on one case, to be measured."""

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


def rows_of(job: KernelJob, status: str, error: str, answer: dict[str, Any]) -> list[Row]:
    """The rows of one job, a cold and a warm one.  answer: what KernelBench.measure gave, or {}."""
    case, times, gpu_name = job.case, answer.get("times", {}), ""
    if times and "gpu" in answer:
        gpu_name = f"{answer['gpu']['name']}, {answer['gpu']['isa']}"
    row = Row(
        op=case.op,
        format=case.format,
        case=case.name,
        variant=job.variant,
        n_threads=job.n_threads,
        cache=CACHES[0],
        status=status,
        error_message=error,
        device=gpu_name,
        n_flops=case.flops,
        n_bytes=case.bytes,
        reason=case.reason,
        **answer.get("accuracy", {}),
    )
    return [replace(row, cache=cache, **times.get(cache, {})) for cache in CACHES]


def _arithmetic(row: Row) -> str:
    """The kind of multiply-adds of a row; the case of a product begins with its tokens."""
    if row.op not in _PRODUCTS:
        return "fma"
    n_tokens = int(row.case.partition("x")[0]) if row.variant == MATRIX_VARIANT else 1
    return arithmetic_of(row.format, row.variant, n_tokens)


def with_roofline(row: Row, ceilings: Sequence[MeasuredCeiling]) -> Row:
    """The row with its share of the ceilings."""
    if row.median_us is None:
        return row
    seconds, work = row.median_us / 1e6, (row.n_flops, row.n_bytes)
    if row.device:
        share, limit = gpu.roofline(seconds, *work, ceilings, row.cache)
    else:
        share, limit = roofline(
            seconds,
            *work,
            _arithmetic(row),
            [ceiling for ceiling in ceilings if ceiling.n_threads == row.n_threads],
            row.cache,
        )
    return replace(row, roofline_share=share, roofline_limit=limit)
