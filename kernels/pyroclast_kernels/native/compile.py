"""Compiles a user's own C++ or Cython kernel on first use, for this machine's CPU.

What the package ships is built once per instruction-set level by CMake; a single file that somebody
is working on is compiled here, with -march=native, into the user's cache directory
(pyroclast/compiled).  The name of the result stands for the source, the headers of the package,
the compiler, its flags and the CPU, so nothing stale is ever loaded.  The file ends with a hash of
itself, so a damaged one is compiled again.  Without a cache that can be trusted, the result lies in
a temporary folder until the process ends.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

from pyroclast_kernels import cache_folder, features
from pyroclast_kernels.errors import KernelError

_PACKAGE = Path(__file__).parent.parent
# As CMakeLists.txt: a * b + c is contracted only where the source says so.
_FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-ffp-contract=off",
    "-fno-math-errno", "-w", f"-I{_PACKAGE}",
)  # fmt: skip
_COMPILE_S = 600.0  # a compiler that takes longer than this does not come back


def compiler() -> list[str] | None:
    """The C++ compiler as a command: CXX, or the first of c++, g++ and clang++; None without."""
    if "CXX" in os.environ:
        command = shlex.split(os.environ["CXX"])
        return command if command and shutil.which(command[0]) else None
    found = (shutil.which(name) for name in ("c++", "g++", "clang++"))
    return next(([path] for path in found if path), None)


def why_not(technology: str) -> str:
    """Why "cpp" or "cython" sources cannot be compiled here; empty if they can."""
    if compiler() is None:
        return "no C++ compiler found: install g++ or clang++, or set CXX"
    if technology == "cython" and importlib.util.find_spec("Cython") is None:
        return "cython is not installed: pip install cython"
    return ""


def shared_object(source: Path) -> Path:
    """The compiled form of a C++ file, from the cache if it is there.  KernelError with the
    compiler's first words if it does not compile."""
    out = _cached(source, ".so")
    if not _whole(out):
        _compile([str(source)], out, source)
    return out


def extension(source: Path) -> Path:
    """The Python module of a Cython file, likewise."""
    out = _cached(source, sysconfig.get_config_var("EXT_SUFFIX"))
    if not _whole(out):
        with tempfile.TemporaryDirectory() as made_in:
            generated = Path(made_in) / f"{source.stem}.cpp"
            # Before -o comes the name: the module must be called as its file, wherever that lies.
            # Neither Python (-P) nor Cython may take a module from the current directory.
            command = [sys.executable, "-P", "-m", "cython", "-3", "--cplus", "--fast-fail"]
            command += ["--module-name", source.stem, "-I", str(_PACKAGE.parent)]
            _run([*command, "-o", str(generated), str(source.resolve())], source, made_in)
            _compile([f"-I{sysconfig.get_path('include')}", str(generated)], out, source)
    return out


def _compile(arguments: list[str], out: Path, source: Path) -> None:
    """Into a temporary name first: another process may be compiling the same."""
    command = compiler()
    if command is None:
        raise KernelError(f"{source} cannot be compiled: {why_not('cpp')}")
    try:
        cache_folder.sweep(out.parent, ".part-*")
        handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=".part-", suffix=out.suffix)
        os.close(handle)
    except OSError as error:
        raise KernelError(f"{source} cannot be compiled into {out.parent}: {error}") from error
    try:
        _run([*command, *_FLAGS, *arguments, "-o", temporary], source)
        _seal(Path(temporary))
        Path(temporary).replace(out)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _run(command: list[str], source: Path, cwd: str | None = None) -> None:
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    absolute = os.pathsep.join(entry for entry in path if os.path.isabs(entry))
    import subprocess  # late: every start would pay for it

    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": absolute},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMPILE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{source} cannot be compiled: {error}") from error
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        first = next((i for i, line in enumerate(said) if "error" in line.lower()), 0)
        words = "\n".join(said[first : first + 6]) or f"exit code {done.returncode}"
        raise KernelError(f"{source} does not compile:\n{words}")


def _cached(source: Path, ending: str) -> Path:
    digest = hashlib.sha256(source.read_bytes())
    for header in sorted((*_PACKAGE.rglob("*.h"), *_PACKAGE.rglob("*.pxd"))):
        digest.update(header.read_bytes())
    what = (*_FLAGS, *(compiler() or ()), _compiler_version(), features.cpu_name(), sys.version)
    digest.update("\0".join([*what, *sorted(features.cpu_flags())]).encode())
    return folder()[0] / f"{source.stem}-{digest.hexdigest()[:16]}{ending}"


def folder() -> tuple[Path, str]:
    """(Where compiled kernels are kept, "") or (a folder of this process alone, why)."""
    path = cache_folder.path_of("compiled")
    try:
        cache_folder.make(path)
    except cache_folder.CacheError as error:
        return Path(_own_folder().name), str(error)
    if not os.access(path, os.W_OK):
        return Path(_own_folder().name), f"{path} cannot be written"
    return path, ""


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="pyroclast-")


def _seal(path: Path) -> None:
    """Appends the file's hash; what loads a library ignores bytes after its last section."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    with path.open("ab") as file:
        file.write(digest)


def _whole(path: Path) -> bool:
    """Whether a compiled file is there, trusted, and as it was written."""
    try:
        if not cache_folder.usable(path):
            return False
        content = path.read_bytes()
    except (OSError, cache_folder.CacheError) as error:
        raise KernelError(f"a compiled kernel cannot be used: {error}") from error
    n = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-n]).digest() == content[-n:]


@cache
def _compiler_version() -> str:
    command = [*(compiler() or ["c++"]), "--version"]
    import subprocess

    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
