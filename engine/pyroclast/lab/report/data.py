"""Reads what a report is made from: the result files of a folder, checked before anything is drawn.

    kernels.json     from `pyroclast bench kernels` (or the only kernels*.json there)
    engine_*.json    from bench/engine.py, single runs or suites; there may be none

A file that is cut, damaged or of another version is refused with the reason, never drawn in part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pyroclast.errors import reason_of
from pyroclast.lab.report.git import Commit
from pyroclast.lab.speed.kernel_file import parse
from pyroclast.lab.speed.rows import MeasuredCeiling, ResultFileError, Results, Row
from pyroclast.lab.speed.throughput_rows import quartiles

_MAX_BYTES = 256 << 20
_MAX_NUMBER = 1e30  # of any unit: beyond it no axis can be drawn
_SIGNED = ("anchor_drift",)
_POSITIVE = ("median_us", "ratio_to_numpy", "roofline_share", "value")


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one engine in one test.  ratio: (lower quartile, median, upper quartile)
    of Pyroclast's speed over its."""

    engine: str
    setting: str
    tokens_s: float
    ratio: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class EngineRow:
    """The speeds on one model and test: Pyroclast first, then the peers."""

    file: str
    label: str
    test: str
    n_threads: str
    machine: str
    spread: float  # the distance of the quartiles over the median
    roofline_share: float | None
    speeds: tuple[Speed, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.label, self.test, self.n_threads)


@dataclass(frozen=True)
class EngineFile:
    """The content of one engine_*.json; made_with is free-form."""

    name: str
    made_with: Mapping[str, Any]
    rows: tuple[EngineRow, ...]


@dataclass(frozen=True)
class Inputs:
    """Everything that was read from a folder or a commit."""

    name: str  # the folder, or commit:folder
    kernels_file: str
    kernels: Results
    engines: tuple[EngineFile, ...]


def read_folder(path: Path) -> Inputs:
    """Reads the results in a folder; `path` may also be the kernels file in it."""
    if not path.exists():
        raise ResultFileError(
            f"{path} does not exist; `pyroclast bench kernels --out` makes results"
        )
    folder, chosen = (path, None) if path.is_dir() else (path.parent, path.name)
    names = sorted(each.name for each in folder.iterdir() if each.is_file())
    return _read(names, chosen, lambda name: _bytes_of(folder / name), str(folder))


def read_commit(path: Path, commit: Commit, kernels_file: str) -> Inputs:
    """Reads the same files as they were at a commit."""
    where = f"{commit.revision}:{path if path.is_dir() else path.parent}"
    return _read(commit.files(), kernels_file, commit.read, where)


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ResultFileError(f"{path} has more than {_MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise ResultFileError(f"{path} cannot be read: {reason_of(error)}") from error


def _read(
    names: Sequence[str], chosen: str | None, read: Callable[[str], bytes], where: str
) -> Inputs:
    kernels_file = chosen or _kernels_file(names, where)
    if kernels_file not in names:
        raise ResultFileError(f"{where} has no {kernels_file}, so there is nothing to compare")
    content = _json(read(kernels_file), f"{where}/{kernels_file}")
    try:
        kernels = parse(content)
        for row in kernels.rows:
            _check_numbers(row)
        for ceiling in kernels.ceilings:
            _check_numbers(ceiling)
    except ResultFileError as error:
        raise ResultFileError(f"{where}/{kernels_file}: {error}") from error
    engines = [n for n in names if n.startswith("engine_") and n.endswith(".json")]
    found = [_engine_file(name, _json(read(name), f"{where}/{name}"), where) for name in engines]
    return Inputs(where, kernels_file, kernels, tuple(found))


def _kernels_file(names: Sequence[str], where: str) -> str:
    found = [n for n in names if n.startswith("kernels") and n.endswith(".json")]
    if "kernels.json" in found:
        return "kernels.json"
    if len(found) == 1:
        return found[0]
    if found:
        raise ResultFileError(f"{where} has {', '.join(found)}: give one of them as --results")
    raise ResultFileError(
        f"{where} has no kernels.json; `pyroclast bench kernels --out {where}/kernels.json` "
        "measures one"
    )


def _json(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ResultFileError(f"{where} is cut or damaged: {error}") from error


def _check_numbers(each: Row | MeasuredCeiling) -> None:
    """Refuses numbers that cannot be drawn: infinite, too large, or of the wrong sign."""
    for field in fields(each):
        value = getattr(each, field.name)
        if isinstance(value, int | float):
            _check_number(value, field.name)


def _check_number(number: float, name: str) -> None:
    fits = abs(number) < _MAX_NUMBER and (number >= 0 or name in _SIGNED)
    if not fits or (number == 0 and name in _POSITIVE):  # a NaN fits nothing
        raise ResultFileError(f"is damaged: {name} is {number!r:.40}")


# ---- engine rows -------------------------------------------------------------------------------


def _engine_file(name: str, content: Any, where: str) -> EngineFile:
    """The rows of a run, or of all runs of a suite.  Every value that is used is checked."""
    try:
        made_with = _part(content, "made_with", dict)
        if "parts" in content:
            parts = [_part(p, "result", dict) for p in content["parts"].values() if "result" in p]
            rows = [row for part in parts for row in part.get("rows", []) if "label" in row]
        else:
            rows = _part(content, "rows", list)
        found = tuple(_engine_row(name, row) for row in rows)
    except (ResultFileError, AttributeError, KeyError, TypeError, OverflowError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ResultFileError(
            f"{where}/{name} is not a result of bench/engine.py: {why}"
        ) from error
    return EngineFile(name, made_with, found)


def _part(content: Any, name: str, kind: type) -> Any:
    if not isinstance(content, dict) or not isinstance(content.get(name), kind):
        raise ResultFileError(f"it has no {name}")
    return content[name]


def _engine_row(file: str, row: dict[str, Any]) -> EngineRow:
    speeds = [Speed("Pyroclast", "", _positive(row["median_ts"]))]
    for engine, peer in row["peers"].items():
        best = str(peer["best"])
        found = peer["variants"][best]
        low, ratio, high = (_positive(found[key]) for key in ("ratio_low", "ratio", "ratio_high"))
        speeds.append(Speed(engine, best, _positive(found["median_ts"]), (low, ratio, high)))
    share = row["roofline_share"]
    return EngineRow(
        file=file,
        label=str(row["label"]),
        test=str(row["test"]),
        n_threads=str(row["n_threads"]),
        machine=str(row["cpu"]),
        spread=_spread(row),
        roofline_share=None if share is None else _positive(share),
        speeds=tuple(speeds),
    )


def _spread(row: dict[str, Any]) -> float:
    """The distance of the quartiles over the median; in older files that of the single runs.  One
    run says nothing about the noise, so then any difference may be noise: 1."""
    samples = [_positive(each) for each in row.get("samples_ts", ())]
    n_samples = len(samples) if "samples_ts" in row else _positive(row["n_samples"])
    if n_samples < 2:
        return 1.0
    keys = ("low_ts", "median_ts", "high_ts")
    low, median, high = quartiles(samples) if samples else (_positive(row[key]) for key in keys)
    return (high - low) / median


def _positive(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ResultFileError(f"must be a number above 0, got {value!r:.40}")
    return float(value)
