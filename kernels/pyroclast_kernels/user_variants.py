"""Variants that are one file each, found by name: what `pyroclast kernels new` writes.

    numba_<name>.py    Python functions <op>_<format>(args, part, n_parts), compiled by Numba
    cython_<name>.pyx  a Cython module whose kernels() returns {"op.format": address}
    cpp_<name>.cc      extern "C" void <op>_<format>(const void *args, int part, int n_parts)
    triton_<name>.py   Python functions <op>_<format>(*the reference's parameters) on NumPy arrays

They are looked for in the op's own folder and in the folders of PYROCLAST_KERNEL_PATH (separated as
in PATH) and there in a subfolder of the op's name.  Two lines near the top of such a file say what
it is; in C++ and Cython they are comments:

    OP = "softmax"
    FORMATS = ("f32",)

A file without both is none of ours (a variant's helper, say) and is left alone.  In a subfolder of
the op's name it is listed as a variant that cannot run, with the reason.  The variant is called
<technology>-<name>.  Nothing is imported or compiled before it is bound.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.registry import folder_of, get_op

ENDINGS = {"numba": ".py", "cython": ".pyx", "cpp": ".cc", "triton": ".py"}
PATH_VARIABLE = "PYROCLAST_KERNEL_PATH"
_PACKAGE = Path(__file__).parent
_HEAD_LINES = 60  # OP and FORMATS stand among these
_NO_HEAD = '{path} lacks the lines OP = "{op}" and FORMATS = ("f32",) near its top'
_loaded: dict[Path, str] = {}  # file -> variant
_heads: dict[Path, tuple[tuple[int, int], tuple[str, tuple[str, ...]]]] = {}  # with time and size
_kept: list[Any] = []  # machine code that must not go away


def variant_name(path: Path) -> str:
    """numba-rows of .../numba_rows.py."""
    technology, _, name = path.stem.partition("_")
    return f"{technology}-{name.replace('_', '-')}"


def file_name(technology: str, name: str) -> str:
    """numba_rows.py of numba and rows."""
    return f"{technology}_{name.replace('-', '_')}{ENDINGS[technology]}"


def add_folder(folder: str) -> None:
    """Puts a folder before those of PYROCLAST_KERNEL_PATH, for this process and its children.
    KernelError, in the words of the command line, for one that does not exist."""
    if not os.path.isdir(os.path.expanduser(folder)):
        raise KernelError(f"--dir names {folder!r}, which is not a folder")
    given = os.environ.get(PATH_VARIABLE)
    os.environ[PATH_VARIABLE] = os.pathsep.join(filter(None, (folder, given)))


def search_path() -> list[Path]:
    """The user's own folders; KernelError for one that does not exist."""
    found = []
    for word in filter(None, os.environ.get(PATH_VARIABLE, "").split(os.pathsep)):
        folder = Path(os.path.expanduser(word)).resolve()
        if not folder.is_dir():
            raise KernelError(f"{PATH_VARIABLE} names {word}, which is not a folder")
        found.append(folder)
    return found


def load(op_name: str) -> None:
    """Registers every such file of an op, and forgets those that are no longer there."""
    files = list(dict.fromkeys(_files(op_name)))
    own = [folder / op_name for folder in search_path()]
    for path, known in list(_loaded.items()):
        if known.startswith(f"{op_name}=") and path not in files:
            del get_op(op_name).variants[known.partition("=")[2]], _loaded[path]
    for path in files:
        if path in _loaded:
            continue
        op, formats = _package_head(path) if path.is_relative_to(_PACKAGE) else _head(path)
        is_meant = not op and path.parent in own
        if op != op_name and not is_meant:
            continue
        op = op_name
        name = variant_name(path)
        twin = [other for other, known in _loaded.items() if known == f"{op}={name}"]
        if twin or name in get_op(op).variants:
            where = f"{twin[0]} is one" if twin else "the package has one"
            raise KernelError(f"{path}: {op} has a variant {name} already ({where}); rename it")
        _loaded[path] = f"{op}={name}"
        why_not = _NO_HEAD.format(path=path, op=op) if is_meant else _why_not(path, op, formats)
        bind = partial(_bind, path, op)
        get_op(op).variant(name, formats=formats or get_op(op).formats, unavailable=why_not)(bind)


def path_of(op_name: str, variant: str) -> Path | None:
    """The file behind a variant, or None where it is one of the package's own."""
    load(op_name)
    wanted = f"{op_name}={variant}"
    return next((path for path, known in _loaded.items() if known == wanted), None)


def _files(op_name: str) -> Iterator[Path]:
    folders = [_PACKAGE / folder_of(op_name)]
    for folder in search_path():
        folders += [folder, folder / op_name]
    for folder in folders:
        # Listed once: every selection of a kernel comes here, and four globs take 0.2 ms.
        try:
            names = sorted(os.listdir(folder))
        except OSError:  # not there, no folder, or nothing that this user may read
            names = []
        for technology, ending in ENDINGS.items():
            start = f"{technology}_"
            yield from (folder / n for n in names if n.startswith(start) and n.endswith(ending))


def _package_head(path: Path) -> tuple[str, tuple[str, ...]]:
    """_head of a file beside the package's own variants, most of which state none: read once."""
    try:
        stat = path.stat()
    except OSError:
        return _head(path)  # which says so
    state = stat.st_mtime_ns, stat.st_size
    if path not in _heads or _heads[path][0] != state:
        _heads[path] = state, _head(path)
    return _heads[path][1]


def _head(path: Path) -> tuple[str, tuple[str, ...]]:
    """(op, formats) as the file states them; ("", ()) of a file that states none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:_HEAD_LINES]
    except (OSError, UnicodeDecodeError) as error:
        raise KernelError(f"{path} cannot be read: {error}") from error
    said = {}
    for line in lines:
        found = re.match(r"(?:# |// )?(OP|FORMATS) = (.*)$", line)
        if found:
            said[found[1]] = re.findall(r"\w+", found[2].partition("#")[0])
    if set(said) != {"OP", "FORMATS"} or len(said["OP"]) != 1:
        return "", ()
    return said["OP"][0], tuple(said["FORMATS"])


def _why_not(path: Path, op: str, formats: tuple[str, ...]) -> str:
    """Why a file cannot run here, as far as can be told without importing it; or empty."""
    if not formats:
        return f"its FORMATS line names none yet: write the kernel in {path}"
    unknown = [format for format in formats if format not in get_op(op).formats]
    if unknown:
        known = ", ".join(get_op(op).formats)
        return f"{path} claims the format {unknown[0]}; {op} has {known}"
    technology = path.stem.partition("_")[0]
    if technology in ("numba", "triton") and importlib.util.find_spec(technology) is None:
        return f"{technology} is not installed: pip install {technology}"
    if technology in ("cpp", "cython"):
        from pyroclast_kernels.native import compile as native_compile  # late: few have any

        return native_compile.why_not(technology)
    return ""


def _bind(path: Path, op: str, format: str) -> int | Callable[..., None]:
    """The address of a kernel, compiled if need be; for Triton, the function that launches it."""
    technology, function = path.stem.partition("_")[0], f"{op}_{format}"
    if technology == "cpp":
        from pyroclast_kernels.native import compile as native_compile

        library = ctypes.CDLL(str(native_compile.shared_object(path)))
        _kept.append(library)
        if not hasattr(library, function):
            raise KernelError(f"{path} exports no function {function}")
        return ctypes.cast(getattr(library, function), ctypes.c_void_p).value or 0
    module = _import(path)
    if technology == "cython":
        kernels = module.kernels()
        if f"{op}.{format}" not in kernels:
            raise KernelError(f"kernels() of {path} has no {op}.{format}, only {list(kernels)}")
        return int(kernels[f"{op}.{format}"])
    kernel: Callable[..., None] | None = getattr(module, function, None)
    if kernel is None:
        raise KernelError(f"{path} defines no function {function}")
    if technology == "triton":
        return kernel
    from pyroclast_kernels.numba.abi import compile_kernel

    try:
        compiled = compile_kernel(kernel, str(path))
    except KernelError:
        raise
    except Exception as error:  # Numba's own kinds, and whatever a decorator in the file raises
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise KernelError(f"{path}: Numba cannot compile {function}: {text}") from error
    _kept.append(compiled)
    return int(compiled.address)


def _import(path: Path) -> ModuleType:
    """The file as a module; whatever its import raises becomes a KernelError that names it."""
    from pyroclast_kernels.native import compile as native_compile

    cython = path.suffix == ".pyx"
    # A compiled module knows its own name; a Python file gets one that no package has, the same in
    # every process: Numba's cache on disk refers to it.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = path.stem if cython else f"pyroclast_own_{digest}_{path.stem}"
    if not cython and name in sys.modules:
        return sys.modules[name]
    source = native_compile.extension(path) if cython else path
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None, "a path with an ending of a module has a spec"
    assert spec.loader is not None, "and a loader"
    module = importlib.util.module_from_spec(spec)
    if not cython:
        sys.modules[name] = module  # Numba looks a function's module up when it caches
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise KernelError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
