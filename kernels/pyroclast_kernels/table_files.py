"""Files of tuned tables: a JSON object of a kind and a schema, written whole or not at all."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyroclast_kernels import cache_folder, whole_file
from pyroclast_kernels.errors import KernelError

_MAX_BYTES = 4 << 20  # far more than a table of every op, format and class has


class TableError(KernelError):
    """A file that is no table for this machine and build; the message says why."""


def read_file(path: Path, kind: str, schema: int, **wanted: str) -> dict[str, Any]:
    """The JSON object in a file of that kind and schema, with these values; TableError if it is
    another one, or if others may have written it."""
    reason = cache_folder.why_refused(path)
    if reason:
        raise TableError(f"it is not trusted: {reason}")
    try:
        status = path.stat()  # before it is opened: opening a pipe would wait
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise TableError(f"it is no file of at most {_MAX_BYTES} bytes")
        with path.open("rb") as file:
            raw = json.loads(file.read(_MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise TableError(f"it cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TableError(f"it is cut or no JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("kind") != kind:
        raise TableError(f'it has no "kind": "{kind}"')
    if raw.get("schema") != schema:
        raise TableError(f"its schema is {raw.get('schema')!r}, this version reads {schema}")
    for name, value in wanted.items():
        if raw.get(name) != value:
            raise TableError(f"its {name} is {raw.get(name)!r}, this one's is {value!r}")
    return raw


def write_file(path: Path, raw: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all; KernelError if that fails."""
    try:
        cache_folder.make(path.parent)
        with whole_file.replacing(path, 0o600) as file:
            file.write(json.dumps(raw, indent=1).encode())
    except (OSError, cache_folder.CacheError) as error:
        raise KernelError(
            f"the table cannot be written to {path}: {getattr(error, 'strerror', error)}; "
            "set XDG_CACHE_HOME to a directory that can be written"
        ) from error
