"""Numba as a technology: registers an op's kernels, compiles them when first bound, caches them.

An op's folder has numba_cpu.py, which calls `register` and is read without Numba, and
numba_kernels.py with the kernels themselves; with more files than two these are numba/__init__.py
and numba/kernels.py.  Kernels are Python functions `<op>_<format>(args, part, n_parts)` that become
C functions `void (const void *args, int part, int n_parts)`.  Importing Numba takes half a second
or more, so it waits until a Numba variant is bound.

Compiled code is kept on disk: in NUMBA_CACHE_DIR if that is set, else in pyroclast/numba of
the user's cache directory.  A directory that cannot be written, or that others can write to, costs
the compilation, nothing else; `cache_directory` says why it is not used.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import threading
from functools import cache
from pathlib import Path
from typing import Any

from pyroclast_kernels import cache_folder
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.registry import folder_of, get_op

_PACKAGE = Path(__file__).parent.parent
_SIGNATURE = "void(voidptr, int32, int32)"
_compiled: dict[tuple[str, str], Any] = {}  # keeps the machine code alive
_lock = threading.Lock()


def _why_not() -> str:
    """Why Numba cannot compile here, as far as can be told without importing it; or empty."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set: unset it"
    return ""


def register(op_name: str, formats: tuple[str, ...] | None = None) -> None:
    """Registers the variant `numba` of an op, in these formats or in every format of the op."""

    def bind(format: str) -> int:
        with _lock:
            if (op_name, format) not in _compiled:
                _compiled[op_name, format] = _compile(op_name, format)
            return int(_compiled[op_name, format].address)

    register_variant = get_op(op_name).variant(
        "numba", formats=formats, bit_group="numba", unavailable=_why_not()
    )
    register_variant(bind)


def _compile(op_name: str, format: str) -> Any:
    folder = folder_of(op_name)
    in_folder = (_PACKAGE / folder / "numba").is_dir()
    module = f"pyroclast_kernels.{folder}.{'numba.kernels' if in_folder else 'numba_kernels'}"
    _import_numba(f"{op_name}=numba")
    kernel = getattr(importlib.import_module(module), f"{op_name}_{format}")
    return compile_kernel(kernel, f"{op_name}=numba")


def _import_numba(name: str) -> Any:
    try:
        import numba
    except ImportError as error:  # it is there, but refuses this NumPy, for instance
        raise KernelError(f"{name} cannot run here: {error}") from error
    return numba


def compile_kernel(kernel: Any, name: str) -> Any:
    """A kernel (args, part, n_parts) as a C function, an object with .address; from the disk cache
    if it is there.  `name` is what an error calls it."""
    numba = _import_numba(name)
    directory, config = cache_directory()[0], numba.core.config
    if directory is None:
        return numba.cfunc(_SIGNATURE, error_model="numpy")(kernel)
    given = config.CACHE_DIR
    try:
        config.CACHE_DIR = str(directory)
        compiled = numba.cfunc(_SIGNATURE, cache=True, error_model="numpy")(kernel)
        cache_folder.close_below(directory)
    except Exception:  # noqa: BLE001 - a damaged pickle raises anything; a full disk an OSError
        # If the kernel itself is at fault, this raises the same.
        compiled = numba.cfunc(_SIGNATURE, error_model="numpy")(kernel)
        _forget(directory)
    finally:
        config.CACHE_DIR = given
    return compiled


def _forget(directory: Path) -> None:
    """Empties the cache, one of whose files is damaged: the next process makes them again."""
    for path in directory.iterdir():
        shutil.rmtree(path, ignore_errors=True)


@cache
def cache_directory() -> tuple[Path | None, str]:
    """(Where compiled kernels are kept, "") or (None, why none are).

    Numba checks the file of the kernel itself for changes, not the helpers it calls, so the
    directory's name stands for all sources."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    top = Path(given).absolute() if given else None
    directory = (top or cache_folder.path_of("numba")) / _sources_hash()
    try:
        cache_folder.make(directory, top)
        if not os.access(directory, os.W_OK):
            return None, f"{directory} cannot be written"
        cache_folder.sweep(directory, "**/*.tmp.*")
        cache_folder.usable_below(directory)
    except cache_folder.CacheError as error:
        return None, str(error)
    return directory, ""


def _sources_hash() -> str:
    """Changes with any Numba source of this package."""
    digest = hashlib.sha256()
    files = {*_PACKAGE.rglob("numba_*.py"), *_PACKAGE.rglob("numba/*.py")}
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
