"""Ceilings that earlier runs measured on this machine, in the user's cache: `kernels check` needs
them for its shares, and measuring them takes half a minute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pyroclast.lab.check.inputs import cache_bytes
from pyroclast.lab.speed.machine import read_size
from pyroclast.lab.speed.rows import MeasuredCeiling
from pyroclast_kernels import cache_folder, table_files, tables
from pyroclast_kernels.errors import KernelError

_KIND, _SCHEMA = "ceilings", 3  # 2: products of bytes on every CPU; 3: matrix registers


def known(n_threads: int, sizes: Iterable[int]) -> list[MeasuredCeiling]:
    """The ceilings of so many threads; [] if one is missing for calls of these sizes in bytes."""
    found = [ceiling for ceiling in _read() if ceiling.n_threads == n_threads]
    wanted = {read_size(size) for size in (*sizes, 4 * cache_bytes())}
    return found if wanted <= {each.n_bytes for each in found if each.kind == "read"} else []


def keep(measured: Sequence[MeasuredCeiling]) -> None:
    """Adds ceilings to those that are kept, of each the best.  Where nothing can be written, they
    are measured again next time."""
    best: dict[tuple[str, int, int], MeasuredCeiling] = {}
    for each in sorted([*_read(), *measured], key=lambda ceiling: ceiling.value):
        best[each.kind, each.n_threads, each.n_bytes] = each
    raw = {"kind": _KIND, "schema": _SCHEMA, "machine": tables.fingerprint()}
    try:
        table_files.write_file(_path(), {**raw, "ceilings": list(map(asdict, best.values()))})
    except KernelError:
        return


def _read() -> list[MeasuredCeiling]:
    """What is kept; [] if that is nothing, or of another machine."""
    try:
        raw = table_files.read_file(_path(), _KIND, _SCHEMA, machine=tables.fingerprint())
        return [MeasuredCeiling(**each) for each in raw["ceilings"]]
    except (KernelError, KeyError, TypeError):
        return []


def _path() -> Path:
    return cache_folder.path_of("ceilings") / f"{tables.fingerprint()}.json"
