"""Result rows of `pyroclast bench kernels`: their schema, and how they are kept on disk.

A file is one JSON object:
    schema       "pyroclast.kernels"
    version      VERSION; a file of another version is refused, never guessed at
    environment  what all rows share: date, commit, CPU, versions (free-form, for people)
    settings     how the run was asked for (free-form)
    ceilings     what the machine can do, see Ceiling; one list for every number of threads
    n_rows       how many rows follow: a file that was cut is refused
    rows         see Row

One row is one case under one variant, one number of threads and one state of the caches.  Units are
in the names, with the exceptions of the fields that llama.cpp's test-backend-ops prints, which keep
their names and units.  Only the standard library is imported here.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from pyroclast.errors import PyroclastError

T = TypeVar("T", "Ceiling", "Row")
SCHEMA = "pyroclast.kernels"
VERSION = 1
CACHES = ("cold", "warm")
# No variant that could be chosen: what a user of NumPy has who gave the weights 4 bytes a value.
BLAS = "numpy-blas"
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


class ResultFileError(PyroclastError):
    """A result file is cut, damaged, or of another schema or version; the message says which."""


@dataclass(frozen=True)
class Ceiling:
    """The most that `n_threads` threads of this machine were seen to do in this run.

    kind "read": streaming reads of `n_bytes` in GB/s (small ones come from a cache); "fma", "vnni"
    or "bf16": multiply-adds on registers in Gop/s, a multiply-add being two operations.  Of a GPU,
    with n_threads 0: "copy", bytes read and written in GB/s, and "matmul", a large BF16 product.
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

    # ---- as in llama.cpp's test-backend-ops ----
    test_time: str  # UTC, ISO 8601
    build_commit: str  # of Pyroclast, "-dirty" if changed; the version without a checkout
    backend_name: str  # "CPU", or "CUDA" for what was timed on a GPU
    backend_reg_name: str  # "pyroclast"
    device_description: str  # the CPU's or the GPU's name
    op_name: str
    op_params: str  # "format=f32,case=8x2048x2048"
    test_mode: str  # "perf"
    supported: bool
    passed: bool  # agreed with the reference
    error_message: str
    time_us: float | None  # of one call: the same as median_us
    flops: float | None  # operations per second
    bandwidth_gb_s: float | None  # the same as gb_s
    memory_kb: int  # what one call must read and write
    n_runs: int
    # ---- what ran ----
    op: str
    format: str
    case: str
    variant: str
    isa: str  # the instruction set that the variant is compiled for, as far as it is known
    bit_group: str  # variants of one group give identical bits
    n_threads: int
    cache: str  # one of CACHES
    cache_how: str  # how that was brought about
    table: str  # the tuned table that was in force; "defaults" where there is none
    cpu_fingerprint: str
    # ---- is it right ----
    status: str  # one of STATUSES
    max_abs_error: float | None  # over all float outputs, against the NumPy reference
    nmse: float | None  # sum of squared errors over the sum of squares
    tolerance: float | None  # the largest error that the case allows anywhere
    error_share: float | None  # the largest error / allowed error of an element; above 1 is wrong
    reason: str  # where the tolerance comes from
    # ---- how fast ----
    median_us: float | None = None
    iqr_us: float | None = None  # the distance of the quartiles
    min_us: float | None = None
    n_flops: int = 0  # operations of one call
    n_bytes: int = 0  # bytes that one call must move
    gb_s: float | None = None
    gflop_s: float | None = None
    roofline_share: float | None = None  # 1: as fast as the measured ceiling allows
    roofline_limit: str = (
        ""  # the ceiling that binds: "read", "fma", "vnni", "bf16"; "copy", "matmul"
    )
    ratio_to_numpy: float | None = None  # the reference's median over this one's: above 1 is faster
    # matmul: the median of x @ w.T by NumPy's BLAS, with w converted to float32 beforehand (rows
    # with variant BLAS), over this one's
    ratio_to_blas: float | None = None
    anchor_us: float | None = None  # a fixed piece of work, timed beside this row
    anchor_drift: float | None = None  # anchor_us over the best of the run, less 1
    n_attempts: int = 1  # how often it was timed until the anchor held still
    samples_us: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name, allowed in (("cache", CACHES), ("status", STATUSES)):
            if getattr(self, name) not in allowed:
                words = ", ".join(allowed)
                raise ResultFileError(f"{name} is {getattr(self, name)!r}, must be one of {words}")

    @property
    def is_timed(self) -> bool:
        return self.median_us is not None

    @property
    def key(self) -> tuple[str, str, str, str, int, str]:
        """What tells a row from every other of its file."""
        return (self.op, self.format, self.case, self.variant, self.n_threads, self.cache)


@dataclass(frozen=True)
class Results:
    """What one file holds."""

    rows: tuple[Row, ...]
    ceilings: tuple[Ceiling, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def as_dict(row: Row) -> dict[str, Any]:
    """A row as it is written: JSON types only, no NaN and no infinity."""
    return {name: _plain(value) for name, value in asdict(row).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it; what it means stands in error_message
    return list(value) if isinstance(value, tuple) else value


def save(path: str | Path, results: Results) -> None:
    """Writes the file in whole or not at all: a write that fails leaves the old one as it was."""
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "environment": dict(results.environment),
        "settings": dict(results.settings),
        "ceilings": [asdict(ceiling) for ceiling in results.ceilings],
        "n_rows": len(results.rows),
        "rows": [as_dict(row) for row in results.rows],
    }
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ResultFileError(f"{path} cannot be written: {error}") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise ResultFileError(f"{path} cannot be written, the old one stays: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def load(path: str | Path) -> Results:
    """Reads a file that `save` wrote.  ResultFileError says why another one is refused."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultFileError(f"{path} cannot be read: {error}") from error
    except ValueError as error:  # JSON, or UTF-8
        raise ResultFileError(f"{path} is cut or damaged: {error}") from error
    try:
        return parse(content)
    except ResultFileError as error:
        raise ResultFileError(f"{path}: {error}") from error


def parse(content: Any) -> Results:
    """Results of the JSON object that a file holds."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise ResultFileError(f"no result of `pyroclast bench kernels`: schema is {found!r}")
    if content.get("version") != VERSION:
        raise ResultFileError(
            f"has version {content.get('version')!r} of the schema, this Pyroclast reads "
            f"{VERSION}; measure again, or read it with the version that wrote it"
        )
    rows, n_rows = content.get("rows"), content.get("n_rows")
    if not isinstance(rows, list) or len(rows) != n_rows:
        n = len(rows) if isinstance(rows, list) else "no"
        raise ResultFileError(f"is cut: it promises {n_rows!r} rows and has {n}")
    ceilings = content.get("ceilings")
    if not isinstance(ceilings, list):
        raise ResultFileError("has no list of ceilings")
    for part in ("environment", "settings"):
        if not isinstance(content.get(part), dict):
            raise ResultFileError(f"has no {part}")
    return Results(
        rows=tuple(from_dict(Row, row, f"row {i}") for i, row in enumerate(rows)),
        ceilings=tuple(from_dict(Ceiling, c, f"ceiling {i}") for i, c in enumerate(ceilings)),
        environment=content["environment"],
        settings=content["settings"],
    )


def from_dict(kind: type[T], values: Any, name: str) -> T:
    """A Row or a Ceiling of its JSON object; every field must be there, with its own type."""
    hints = get_type_hints(kind)
    wanted = [field.name for field in fields(kind)]
    if not isinstance(values, dict) or set(values) != set(wanted):
        have = set(values) if isinstance(values, dict) else set()
        lacks, extra = sorted(set(wanted) - have), sorted(have - set(wanted))
        raise ResultFileError(f"{name} is damaged: it lacks {lacks}, and has beside {extra}")
    checked = {key: _typed(values[key], hints[key], f"{name}.{key}") for key in wanted}
    return kind(**checked)


def _typed(value: Any, hint: Any, name: str) -> Any:
    kinds = set(get_args(hint) or (hint,))
    if isinstance(value, list):
        if all(isinstance(each, int | float) for each in value) and float in kinds:
            return tuple(map(float, value))
    elif value is None and NoneType in kinds:
        return None
    elif isinstance(value, int | float) and not isinstance(value, bool) and float in kinds:
        return float(value)
    elif type(value) in kinds:
        return value
    raise ResultFileError(f"{name} is {value!r}, which is no {hint}")


def by_case(rows: Iterable[Row]) -> dict[tuple[str, str, str, int, str], list[Row]]:
    """Rows to be held against each other: (op, format, case, n_threads, cache) -> variants."""
    found: dict[tuple[str, str, str, int, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.op, row.format, row.case, row.n_threads, row.cache), []).append(row)
    return found
