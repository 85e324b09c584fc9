"""How the rows of `pyroclast bench kernels` are kept: small files, whose changes can be read.

A file is one JSON object:
    schema       "pyroclast.kernels"
    version      VERSION; a file of another version is refused
    environment  see Results
    settings     see Results
    ceilings     what the machine can do, see MeasuredCeiling
    n_rows       how many lines of rows follow: a file that was cut is refused
    columns      the names of the values in a line of `rows`: COLUMNS
    cases        {op, format, case, n_flops, n_bytes, reason, rows}

A line of `rows` is one variant with one number of threads, timed with cold and with warm caches:
two objects Row.  Nulls at its end are left out.  Numbers have SIGNIFICANT digits.  Rates, ratios to
NumPy and drift follow from other values and are computed again.  Samples are not kept: their median
and the distance of their quartiles are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from pyroclast.errors import reason_of
from pyroclast.lab.speed.rows import (
    CACHES,
    MeasuredCeiling,
    ResultFileError,
    Results,
    Row,
    with_drift,
    with_ratios,
)
from pyroclast_kernels.whole_file import replacing

SCHEMA = "pyroclast.kernels"
VERSION = 2
_EXACT = 1 << 53  # up to here a float holds every integer
_TOO_LARGE = 1e300  # an integer of JSON may have more digits than a float can hold
SIGNIFICANT = 4  # digits; the noise of a timing is in the second or third
_CASE = ("op", "format", "case", "n_flops", "n_bytes", "reason")
_RUN = ("variant", "n_threads", "status", "error_message", "device")
_ACCURACY = ("max_abs_error", "nmse", "tolerance", "error_share")
_TIMES = ("median_us", "iqr_us", "n_runs", "anchor_us", "roofline_share", "roofline_limit")
COLUMNS = (*_RUN, *_ACCURACY, *(f"{cache}_{name}" for cache in CACHES for name in _TIMES))
_NOT_TIMED: dict[str, Any] = dict.fromkeys(_TIMES) | {"n_runs": 0, "roofline_limit": ""}


def save(path: str | Path, results: Results) -> None:
    """Writes the file in whole or not at all: a write that fails leaves the old one as it was."""
    path, text = Path(path), "\n".join(_lines(results)) + "\n"
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise ResultFileError(f"{path} cannot be written: {error.strerror}") from error


def _lines(results: Results) -> Iterator[str]:
    """The JSON object, a line for each ceiling, case and row."""
    cases: dict[tuple[Any, ...], dict[tuple[Any, ...], dict[str, Row]]] = {}
    for row in results.rows:
        runs = cases.setdefault(_values(row, _CASE), {})
        # A variant that drifted in one state of the caches was timed in the other, too.
        status = "ok" if row.status == "drifted" else row.status
        run = (row.variant, row.n_threads, status, row.error_message, row.device)
        runs.setdefault((*run, *_values(row, _ACCURACY)), {})[row.cache] = row
    yield f'{{\n "schema": "{SCHEMA}", "version": {VERSION},'
    for name in ("environment", "settings"):
        yield f' "{name}": {_json(dict(getattr(results, name)))},'
    yield ' "ceilings": ['
    ceilings = [{k: _rounded(v) for k, v in asdict(each).items()} for each in results.ceilings]
    yield from _separated([_json(ceiling) for ceiling in ceilings])
    yield f' ], "n_rows": {sum(map(len, cases.values()))},'
    yield f' "columns": {_json(COLUMNS)},'
    yield ' "cases": ['
    for i, (case, runs) in enumerate(cases.items()):
        about = _json(dict(zip(_CASE, case, strict=True)))
        yield f'  {about[:-1]}, "rows": ['
        yield from _separated([_json(_run_line(run, times)) for run, times in runs.items()])
        yield "  ]}" + "," * (i + 1 < len(cases))
    yield " ]\n}"


def _values(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(_rounded(getattr(row, name)) for name in names)


def _rounded(value: Any) -> Any:
    """A number with as many digits as are kept; None for what JSON has no word for."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{SIGNIFICANT}g}")
    return int(rounded) if rounded.is_integer() and rounded < _EXACT else rounded  # 12, not 12.0


def _run_line(run: tuple[Any, ...], times: dict[str, Row]) -> list[Any]:
    line = list(run)
    for cache in CACHES:
        row = times.get(cache)
        known = row is not None and row.is_timed
        line += _values(row, _TIMES) if row is not None and known else [None] * len(_TIMES)
    while line[-1] is None:
        line.pop()
    return line


def _separated(lines: Sequence[str]) -> Iterator[str]:
    for i, line in enumerate(lines):
        yield f"   {line}" + "," * (i + 1 < len(lines))


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


# ---- reading -----------------------------------------------------------------------------------


def load(path: str | Path) -> Results:
    """Reads a file that `save` wrote.  ResultFileError says why another one is refused."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultFileError(f"{path} cannot be read: {reason_of(error)}") from error
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
        raise ResultFileError(f"not a result of `pyroclast bench kernels`: its schema is {found!r}")
    if content.get("version") != VERSION:
        raise ResultFileError(
            f"has version {content.get('version')!r} of the schema, this Pyroclast reads "
            f"{VERSION}; measure again, or read it with the version that wrote it"
        )
    for name, kind in (("environment", dict), ("settings", dict), ("ceilings", list)):
        if not isinstance(content.get(name), kind):
            raise ResultFileError(f"has no {name}")
    ceilings = [
        _checked(MeasuredCeiling, ceiling, f"ceiling {i}")
        for i, ceiling in enumerate(content["ceilings"])
    ]
    return Results(
        rows=tuple(with_drift(with_ratios(_rows(content)))),
        ceilings=tuple(MeasuredCeiling(**ceiling) for ceiling in ceilings),
        environment=content["environment"],
        settings=content["settings"],
    )


def _rows(content: dict[str, Any]) -> list[Row]:
    cases, n_rows = content.get("cases"), content.get("n_rows")
    if content.get("columns") != list(COLUMNS):
        raise ResultFileError(f"has the columns {content.get('columns')!r:.60}, not those of rows")
    if not isinstance(cases, list):
        raise ResultFileError("has no list of cases")
    rows: list[Row] = []
    n_lines = 0
    for i, case in enumerate(cases):
        lines = case.pop("rows", None) if isinstance(case, dict) else None
        if not isinstance(lines, list):
            raise ResultFileError(f"case {i} has no list of rows")
        about = _checked(Row, case, f"case {i}", _CASE)
        for line in lines:
            rows += _rows_of(about, line, f"row {n_lines}")
            n_lines += 1
    if n_lines != n_rows:
        raise ResultFileError(f"is cut: it promises {n_rows!r} rows and has {n_lines}")
    return rows


def _rows_of(case: dict[str, Any], line: Any, name: str) -> list[Row]:
    """The rows of a line: those that were timed; of a variant that was not, all."""
    if not isinstance(line, list) or not len(_RUN) <= len(line) <= len(COLUMNS):
        raise ResultFileError(f"{name} is damaged: {line!r:.60}")
    line = line + [None] * (len(COLUMNS) - len(line))
    both = len(_RUN) + len(_ACCURACY)
    run = dict(zip((*_RUN, *_ACCURACY), line[:both], strict=True))
    found = []
    for i, cache in enumerate(CACHES):
        times = line[both + i * len(_TIMES) :][: len(_TIMES)]
        is_timed = any(value is not None for value in times)
        timed = dict(zip(_TIMES, times, strict=True)) if is_timed else _NOT_TIMED
        if is_timed or run["status"] != "ok":
            values = _checked(Row, run | timed, name, (*_RUN, *_ACCURACY, *_TIMES))
            found.append(Row(**case, **values, cache=cache))
    return found


def _checked(
    kind: type[Row | MeasuredCeiling], values: Any, name: str, wanted: Sequence[str] | None = None
) -> dict[str, Any]:
    """The values, if all that are wanted (or all fields) are there, each with its own type."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)] if wanted is None else wanted
    if not isinstance(values, dict) or set(values) != set(names):
        have = set(values) if isinstance(values, dict) else set()
        lacks, extra = sorted(set(names) - have), sorted(have - set(names))
        raise ResultFileError(f"{name} is damaged: it lacks {lacks}, and has beside {extra}")
    return {key: _typed(values[key], hints[key], f"{name}.{key}") for key in names}


def _typed(value: Any, hint: Any, name: str) -> Any:
    kinds = set(get_args(hint) or (hint,))
    if value is None and NoneType in kinds:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and float in kinds:
        return float(value) if abs(value) < _TOO_LARGE else math.inf
    if type(value) in kinds:
        return value
    raise ResultFileError(f"{name} is {value!r:.60}, must be {getattr(hint, '__name__', hint)}")
