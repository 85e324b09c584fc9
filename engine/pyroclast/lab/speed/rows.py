"""Result rows of `pyroclast bench kernels`: what one of them says.

One row is one case under one variant, one number of threads and one state of the caches.  Units are
in the names.  How rows are kept on disk is in kernel_file.py.  Only the standard library is
imported here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pyroclast.errors import PyroclastError

CACHES = ("cold", "warm")
# Not a variant that can be chosen: x @ w.T by NumPy's BLAS, with w converted to float32 beforehand.
# It is what a NumPy user has who spends 4 bytes on each weight.
BLAS = "numpy-blas"
REFERENCE = "numpy"
# What became of a row.  Only "ok" and "drifted" have times.
STATUSES = (
    "ok",  # right, and timed
    "drifted",  # right and timed, but the machine was slower than at its best; see anchor_drift
    "checked",  # right, and not timed: error_message says why
    "wrong",  # checked against the reference and outside its tolerance; not timed
    "crashed",  # the process died of it, or it raised
    "hung",  # stopped after the time limit
    "unsupported",  # this machine or build cannot run it: error_message says why
)
BROKEN = ("wrong", "crashed", "hung")
DRIFT = 0.15  # the anchor may take this much longer than at its best


class ResultFileError(PyroclastError):
    """A result file is cut, damaged, or of another schema or version; the message says which."""


@dataclass(frozen=True)
class MeasuredCeiling:
    """The most that `n_threads` threads of this machine were seen to do in this run.

    kind "read": streaming reads of `n_bytes` in GB/s (small ones come from a cache); "fma", "vnni",
    "int8" (bytes without VNNI), "bf16" or "amxbf16" (matrix registers): multiply-adds on registers
    in Gop/s, a multiply-add being two operations.  Of a GPU, with n_threads 0: "copy", bytes read
    and written in GB/s, and "matmul", a large BF16 product.
    """

    kind: str
    n_threads: int
    value: float
    unit: str  # "GB/s" or "Gop/s"
    n_bytes: int = 0
    how: str = ""


@dataclass(frozen=True)
class Row:
    """One measurement.  A number that does not exist (no time, no ceiling) is None."""

    op: str
    format: str
    case: str
    variant: str
    n_threads: int
    cache: str  # one of CACHES
    status: str  # one of STATUSES
    error_message: str = ""
    device: str = ""  # the GPU that timed it; empty for the CPU
    # ---- the work of one call ----
    n_flops: int = 0
    n_bytes: int = 0  # what it must read and write
    # ---- is it right ----
    reason: str = ""  # where the case's tolerance comes from
    max_abs_error: float | None = None  # over all float outputs, against the NumPy reference
    nmse: float | None = None  # sum of squared errors over the sum of squares
    tolerance: float | None = None  # the largest error that the case allows anywhere
    error_share: float | None = None  # the largest error / allowed error; above 1 is wrong
    # ---- how fast ----
    median_us: float | None = None
    iqr_us: float | None = None  # upper quartile less lower quartile
    n_runs: int = 0
    anchor_us: float | None = None  # a fixed piece of work, timed beside this row
    roofline_share: float | None = None  # 1: as fast as the measured ceiling allows
    roofline_limit: str = ""  # the ceiling that binds, a kind of MeasuredCeiling
    # ---- against other rows of the run ----
    ratio_to_numpy: float | None = None  # the reference's median over this one's: above 1 is faster
    ratio_to_blas: float | None = None  # the same against the rows of BLAS; matmul only
    anchor_drift: float | None = None  # anchor_us over the best of the run, less 1

    def __post_init__(self) -> None:
        for name, allowed in (("cache", CACHES), ("status", STATUSES)):
            if getattr(self, name) not in allowed:
                words = ", ".join(allowed)
                raise ResultFileError(f"{name} is {getattr(self, name)!r}, must be one of {words}")

    @property
    def is_timed(self) -> bool:
        return self.median_us is not None

    @property
    def passed(self) -> bool:
        """Whether it agreed with the reference."""
        return self.status in ("ok", "drifted", "checked")

    @property
    def gb_s(self) -> float | None:
        return self.n_bytes / self.median_us / 1e3 if self.median_us and self.n_bytes else None

    @property
    def gflop_s(self) -> float | None:
        return self.n_flops / self.median_us / 1e3 if self.median_us and self.n_flops else None

    @property
    def key(self) -> tuple[str, str, str, str, int, str]:
        """What tells a row from every other of its file."""
        return (self.op, self.format, self.case, self.variant, self.n_threads, self.cache)


@dataclass(frozen=True)
class Results:
    """What one run measured.  environment: date, commit, CPU, versions (free-form, for people);
    settings: how the run was asked for (free-form)."""

    rows: tuple[Row, ...]
    ceilings: tuple[MeasuredCeiling, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def as_dict(row: Row, environment: Mapping[str, Any]) -> dict[str, Any]:
    """A row for the reader of `--json`: JSON types only, no NaN and no infinity.  To our own fields
    come those of llama.cpp's test-backend-ops, under its names and in its units."""
    theirs = {
        "test_time": environment.get("date", ""),
        "build_commit": environment.get("commit", ""),
        "backend_name": "CUDA" if row.device else "CPU",
        "backend_reg_name": "pyroclast",
        "device_description": row.device or environment.get("cpu", ""),
        "op_name": row.op,
        "op_params": f"format={row.format},case={row.case}",
        "test_mode": "perf",
        "supported": row.status != "unsupported",
        "passed": row.passed,
        "time_us": row.median_us,
        "flops": None if row.gflop_s is None else row.gflop_s * 1e9,
        "bandwidth_gb_s": row.gb_s,
        "memory_kb": -(-row.n_bytes // 1024),
    }
    ours = asdict(row) | {"gb_s": row.gb_s, "gflop_s": row.gflop_s}
    return {name: _plain(value) for name, value in (theirs | ours).items()}


def _plain(value: Any) -> Any:
    """JSON has no word for NaN and infinity; what they mean stands in error_message."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def threads(n: int | str) -> str:
    """A number of threads in words: 1 thread, 2 threads."""
    return f"{n} thread{'' if str(n) == '1' else 's'}"


# ---- arithmetic on the rows of a run -----------------------------------------------------------


def by_case(rows: Iterable[Row]) -> dict[tuple[str, str, str, int, str], list[Row]]:
    """Rows that may be compared: (op, format, case, n_threads, cache) -> variants."""
    found: dict[tuple[str, str, str, int, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.op, row.format, row.case, row.n_threads, row.cache), []).append(row)
    return found


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows of whole cases with their ratios to NumPy."""
    times = {
        key: {row.variant: row.median_us for row in group} for key, group in by_case(rows).items()
    }
    done = []
    for row in rows:
        found = times[(row.op, row.format, row.case, row.n_threads, row.cache)]
        numpy, blas, mine = found.get(REFERENCE), found.get(BLAS), row.median_us
        ratios = [other / mine if other and mine else None for other in (numpy, blas)]
        done.append(replace(row, ratio_to_numpy=ratios[0], ratio_to_blas=ratios[1]))
    return done


def with_drift(rows: Sequence[Row]) -> list[Row]:
    """Rows with how much slower than at its best the machine was beside each: the best is that of
    all rows with as many threads."""
    best: dict[int, float] = {}
    for row in rows:
        if row.anchor_us:
            best[row.n_threads] = min(row.anchor_us, best.get(row.n_threads, math.inf))
    return [_drifted(row, best.get(row.n_threads, 0.0)) for row in rows]


def _drifted(row: Row, best_anchor_us: float) -> Row:
    if not row.anchor_us or row.status not in ("ok", "drifted"):
        return row
    drift = row.anchor_us / best_anchor_us - 1
    return replace(row, anchor_drift=drift, status="drifted" if drift > DRIFT else "ok")
