"""Builds the native half of pyroclast_kernels through CMake; everything else is in pyproject.toml.

One command of ours, `build_native`, runs as part of `build` (wheel) and of an editable install
(then the modules land in kernels/pyroclast_kernels/).  By hand: `python setup.py build_native -i`.
Another, `build_page`, bundles the drawings of the page `look` where there is npm.

Environment:
  PYROCLAST_NO_NATIVE=1  no native code: a pure wheel, which runs on Numba and NumPy
  PYROCLAST_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer; build folder of its own
  CMAKE_ARGS             e.g. -DPYROCLAST_LEVELS=baseline for a quick build
  CXX, CXXFLAGS, CMAKE_BUILD_PARALLEL_LEVEL   as everywhere
  _PYTHON_HOST_PLATFORM  as CPython's own builds use it: what CXX compiles for, e.g. linux-aarch64

Without a working C++ compiler the install still succeeds, as with PYROCLAST_NO_NATIVE=1: it warns
and writes the reason into pyroclast_kernels/_build_info.json, for `pyroclast doctor` to tell.
An error in our own code is never hidden like that: where a compiler works, a failed build fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
PACKAGE_DIR = {
    "pyroclast": "engine/pyroclast",
    "pyroclast_kernels": "kernels/pyroclast_kernels",
}
PAGE = ROOT / "engine/pyroclast/lens/page"
# Files that the package copies or reads: the first kernels of `pyroclast kernels new`.
TEMPLATES = ["*.py", "*.h", "*.pxi", "*/*.py", "*/*.pyx", "*/*.cc"]
STABLE_ABI = "cp311"  # the oldest CPython that the modules run on; CMakeLists.txt sets the same
PROBE = """#define Py_LIMITED_API 0x030B0000
#include <vector>
#include <Python.h>
int main() { return 0; }
"""


def packages() -> list[str]:
    """Every folder with an __init__.py below the two source roots, by its import name."""
    found = []
    for name, folder in PACKAGE_DIR.items():
        for marker in sorted((ROOT / folder).rglob("__init__.py")):
            parts = marker.parent.relative_to(ROOT / folder).parts
            found.append(".".join((name, *parts)))
    return found


def flag(name: str) -> bool:
    """Is the switch on?  Unset, empty and 0 mean off."""
    return os.environ.get(name, "0") not in ("", "0")


def compiler() -> list[str] | None:
    """The C++ compiler CMake would take, as a command, or None."""
    if "CXX" in os.environ:
        command = shlex.split(os.environ["CXX"])
        return command if command and shutil.which(command[0]) else None
    found = (shutil.which(name) for name in ("c++", "g++", "clang++"))
    return next(([path] for path in found if path), None)


@cache
def why_not_native() -> str:
    """The reason why no native code can be built here, or "" if it can."""
    if flag("PYROCLAST_NO_NATIVE"):
        return "PYROCLAST_NO_NATIVE is set"
    command = compiler()
    if command is None:
        wanted = os.environ.get("CXX", "c++, g++ or clang++")
        return f"no C++ compiler found ({wanted}); install GCC 11+ or Clang 12+ (Debian: g++)"
    include = sysconfig.get_path("include")
    if not (Path(include) / "Python.h").is_file():
        return f"no Python.h in {include}; install Python's headers (Debian: python3-dev)"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(PROBE)
        call = [*command, "-std=c++17", f"-I{include}", "-c", str(source), "-o", f"{source}.o"]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or "no message").splitlines()[0]
        return f"{command[0]} cannot compile an empty C++17 program: {said}"
    return ""


def tool(name: str) -> str:
    """Path of cmake or ninja: the wheel's own script, beside this Python, or on PATH."""
    beside = Path(sys.executable).parent
    # Beside this Python first: pip changes PATH, and another cmake compiles everything again.
    path = shutil.which(name, path=str(beside)) or shutil.which(name)
    if path is None:
        raise SystemExit(
            f"{name} not found; `pip install .` fetches it, and with --no-build-isolation "
            f"`pip install {name}` does (or set PYROCLAST_NO_NATIVE=1)"
        )
    return path


class NativeDistribution(Distribution):
    """Makes the wheel a platform wheel exactly when it carries native code."""

    def has_ext_modules(self) -> bool:
        """As setuptools asks it: are there compiled modules?"""
        return not why_not_native()


class build_native(Command):  # noqa: N801  (setuptools names commands so)
    """Configure, build and install the CMake project; setuptools' SubCommand protocol."""

    description = "build the native kernels and the executor"
    user_options = [  # noqa: RUF012
        ("inplace", "i", "put the modules into the source tree"),
        ("build-lib=", "b", "the folder for the modules, if not into the source tree"),
    ]
    boolean_options = ["inplace"]  # noqa: RUF012

    def initialize_options(self) -> None:
        """Defaults, as the protocol wants them."""
        self.inplace = False
        self.editable_mode = False  # set by an editable install
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        """Take build_lib from the `build` command."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def prefix(self) -> Path:
        """The folder that gets pyroclast_kernels/_cpp_*.so and the rest."""
        if self.inplace or self.editable_mode:
            return ROOT / "kernels"
        assert self.build_lib is not None
        return Path(self.build_lib).resolve()

    def run(self) -> None:
        """Build natively, or say why not; either way _build_info.json tells."""
        reason = why_not_native()
        if reason:
            self.write_pure(reason)
        else:
            self.build(self.prefix())

    def write_pure(self, reason: str) -> None:
        """The marker of a build without native code, and the warning."""
        folder = self.prefix() / "pyroclast_kernels"
        folder.mkdir(parents=True, exist_ok=True)
        self.remove_modules(folder, keep=set())
        info = {"status": "pure", "reason": reason, "compiler": "", "levels": []}
        info |= {"cython_ops": [], "sanitized": False}
        (folder / "_build_info.json").write_text(json.dumps(info, indent=2) + "\n")
        self.warn(f"Pyroclast is built WITHOUT native kernels: {reason}.")
        self.warn("It runs on Numba and NumPy, much slower; `pyroclast doctor` says so too.")

    def remove_modules(self, folder: Path, keep: set[Path]) -> None:
        """Remove the modules of earlier builds: what this build did not make must not be loaded."""
        for path in self.modules(folder):
            if path not in keep:
                path.unlink()

    def modules(self, folder: Path) -> list[Path]:
        """The compiled modules below a folder, with those of builds for one Python version only."""
        return sorted(folder.rglob("*.so"))

    def build(self, prefix: Path) -> None:
        """Run CMake; a second run compiles only what changed."""
        sanitize = flag("PYROCLAST_SANITIZE")
        kind = "sanitize" if sanitize else "native"
        host = os.environ.get("_PYTHON_HOST_PLATFORM", "")  # set for cross-compiling
        name = f"{kind}-{host or sys.implementation.cache_tag}"
        folder = ROOT / "build" / name
        settings = {
            "CMAKE_MAKE_PROGRAM": tool("ninja"),
            "Python_EXECUTABLE": sys.executable,
            "Python_INCLUDE_DIR": sysconfig.get_path("include"),  # not found for another machine
            "PYROCLAST_SANITIZE": "ON" if sanitize else "OFF",
            "PYROCLAST_TESTS": "ON" if sanitize else "OFF",
        }
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        cmake = tool("cmake")
        configure = [cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"]
        configure += [f"-D{name}={value}" for name, value in settings.items()]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        build = [cmake, "--build", str(folder), "--parallel", jobs]
        install = [cmake, "--install", str(folder), "--prefix", str(prefix)]
        install += [] if sanitize or self.inplace else ["--strip"]
        for step in (configure, build, install):
            if subprocess.run(step, check=False).returncode:
                raise SystemExit(
                    f"`{shlex.join(step)}` failed (its output is above); "
                    "PYROCLAST_NO_NATIVE=1 installs without native kernels"
                )
        installed = (folder / "install_manifest.txt").read_text().splitlines()
        self.remove_modules(prefix / "pyroclast_kernels", keep={Path(line) for line in installed})

    def get_source_files(self) -> list[str]:
        """What an sdist needs beside the Python files: MANIFEST.in lists it."""
        return []

    def get_outputs(self) -> list[str]:
        """The files under build_lib that this command made."""
        return [str(path) for path in self.modules(self.prefix() / "pyroclast_kernels")]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing to link back: an editable build writes into the source tree itself."""
        return {}


def has_current_bundle() -> bool:
    """As pyroclast.lens.page.is_current(), which cannot be imported here."""
    bundle, made = PAGE / "vendor" / "page.js", hashlib.sha256()
    for path in sorted(PAGE.glob("js/*.js")):
        made.update(b"%s\0%s\0" % (path.name.encode(), path.read_bytes()))
    last_line = f"// made of {made.hexdigest()}".encode()
    return bundle.is_file() and bundle.read_bytes().rstrip().endswith(last_line)


class build_page(Command):  # noqa: N801
    """Bundle scripts and drawings of the page `look` with npm, where there is npm and the bundle is
    missing or was made of other scripts."""

    description = "bundle the drawings of the page `look`"
    user_options = []  # noqa: RUF012
    editable_mode = False

    def initialize_options(self) -> None:
        """Nothing to set, as the protocol wants it said."""

    def finalize_options(self) -> None:
        """Likewise."""

    def run(self) -> None:
        """Build them, or say what the page lacks."""
        if self.editable_mode or has_current_bundle():
            return
        npm = shutil.which("npm")
        calls = [["ci", "--no-audit", "--no-fund", "--loglevel=error"], ["run", "build"]]
        if npm is None or any(
            subprocess.run([npm, *call], cwd=PAGE, check=False).returncode for call in calls
        ):
            if (PAGE / "vendor" / "page.js").is_file():
                self.warn(
                    "The page of `pyroclast look` exports OLD scripts: npm failed or is missing."
                )
                return
            self.warn("The page of `pyroclast look` is built WITHOUT drawings: npm is missing or")
            self.warn("failed.  It shows its tables, and cannot export.")

    def get_source_files(self) -> list[str]:
        """What an sdist needs: MANIFEST.in lists it."""
        return []

    def get_outputs(self) -> list[str]:
        """None of its own: build_py copies what it made, as package data."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing to link back."""
        return {}


class build_all(build):  # noqa: N801  (setuptools names commands so)
    """`build` with our steps before and after, into a clean build_lib."""

    sub_commands = [  # noqa: RUF012
        ("build_page", None),
        *build.sub_commands,
        ("build_native", None),
    ]

    def run(self) -> None:
        """Build; files that left the source tree since the last build must not ship."""
        for name in PACKAGE_DIR:
            shutil.rmtree(Path(self.build_lib) / name, ignore_errors=True)
        super().run()


setup(
    packages=packages(),
    package_dir=PACKAGE_DIR,
    include_package_data=False,
    package_data={
        "pyroclast": ["py.typed"],
        "pyroclast.lens.page": ["*.html", "*.css", "*.svg", "js/*.js", "vendor/*"],
        "pyroclast.lab.scaffold": [f"templates/{name}" for name in TEMPLATES],
        "pyroclast_kernels": ["py.typed", "*.pyi"],
        "pyroclast.server.rate": ["*.html", "*.css", "*.js"],
    },
    cmdclass={"build": build_all, "build_page": build_page, "build_native": build_native},
    distclass=NativeDistribution,
    options={"bdist_wheel": {"py_limited_api": STABLE_ABI}},  # of a native wheel
)
