"""Installing: a native wheel, an editable install, and both without a compiler.

Nothing is downloaded: the builds use the build requirements of the running environment, and the
installs go into bare environments that borrow its dependencies.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pyroclast_kernels.registry import PARTIAL_LEVELS

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SUFFIX = ".abi3.so"  # of modules for every CPython from 3.11 on
BASELINE_ONLY = {"CMAKE_ARGS": "-DPYROCLAST_LEVELS=baseline"}  # a third of the compile time
NO_NATIVE = {"PYROCLAST_NO_NATIVE": "1"}
X86 = os.uname().machine == "x86_64"


def environment(changes: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any setting of ours, and with the changes.  cmake and
    ninja are those beside this Python, where the machine itself may have none."""
    dropped = ("PYROCLAST_", "CMAKE_ARGS", "CXX", "PYTHONPATH", "LD_PRELOAD", "PYTHONWARNINGS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return kept | (changes or {})


def run(command: list[str], changes: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Standard output and error of a command that must succeed."""
    done = subprocess.run(
        command,
        env=environment(changes),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@dataclass
class Installed:
    """A bare environment with Pyroclast in it, and what the install printed."""

    folder: Path
    log: str

    def __post_init__(self) -> None:
        (self.site,) = self.folder.glob("lib/python*/site-packages")
        (self.dist_info,) = self.site.glob("pyroclast_lm-*.dist-info")

    def python(self, code: str, changes: dict[str, str] | None = None) -> str:
        """What a program prints in this environment, run from a neutral folder."""
        return run([str(self.folder / "bin/python"), "-c", code], changes, self.folder)

    def cli(self, *arguments: str, changes: dict[str, str] | None = None) -> str:
        return run([str(self.folder / "bin/pyroclast"), *arguments], changes, self.folder)

    def files(self) -> set[str]:
        """Every installed file, relative to site-packages, compiled Python left out."""
        lines = (self.dist_info / "RECORD").read_text().splitlines()
        names = {line.rsplit(",", maxsplit=2)[0] for line in lines}
        return {name for name in names if "__pycache__" not in name}

    def build_info(self) -> dict[str, object]:
        code = "import pyroclast_kernels as k; print(k.__path__[0])"
        path = Path(self.python(code).strip()) / "_build_info.json"
        info: dict[str, object] = json.loads(path.read_text())
        return info

    def chosen(self, changes: dict[str, str] | None = None) -> set[str]:
        """The variants that would run, over all ops."""
        code = (
            "import pyroclast_kernels as k\n"
            "print({r['variant'] for r in k.report() if r['status'] == 'chosen'})"
        )
        return set(self.python(code, changes).strip(" {}\n").replace("'", "").split(", "))


def unmet_build_requirements() -> list[str]:
    unmet = []
    for text in PYPROJECT["build-system"]["requires"]:
        requirement = Requirement(text)
        try:
            good = requirement.specifier.contains(metadata.version(requirement.name))
        except metadata.PackageNotFoundError:
            good = False
        if not good:
            unmet.append(text)
    return unmet


@pytest.fixture(scope="module")
def build_tools() -> None:
    """The build requirements are here; CI may not do without."""
    unmet = unmet_build_requirements()
    if unmet:
        reason = f"building needs {', '.join(unmet)} in this environment; `make dev` installs them"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def compiler(build_tools: None) -> str:
    """A C++ compiler; CI may not do without."""
    found = shutil.which("c++")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs a C++ compiler (c++)")
    assert found is not None
    return found


def copy_of_the_source(folder: Path) -> Path:
    """What a clean checkout holds, as far as the build reads it."""
    ignore = shutil.ignore_patterns(
        "*.so", "__pycache__", "_build_info.json", "*.egg-info", "node_modules"
    )
    for name in ("engine", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def install(
    folder: Path, *what: str | Path, changes: dict[str, str] | None = None, again: bool = False
) -> Installed:
    """`pip install <what>` into a bare environment that borrows our site-packages."""
    if not again:
        venv.create(folder, symlinks=True)
        (site,) = folder.glob("lib/python*/site-packages")
        borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in sorted(borrowed)))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install"]
    options = ["-v", "--no-deps", "--no-build-isolation", "--force-reinstall"]
    log = run([*pip, *options, *map(str, what)], changes)
    return Installed(folder, log)


@pytest.fixture(scope="module")
def native(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A wheel of this checkout, built upon the objects of `make native`, and installed."""
    wheels = tmp_path_factory.mktemp("wheels")
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)])
    return install(tmp_path_factory.mktemp("native"), *wheels.iterdir())


@pytest.fixture(scope="module")
def sdist(build_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    run([sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(folder)], NO_NATIVE)
    (archive,) = folder.glob("pyroclast_lm-*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def pure(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """PYROCLAST_NO_NATIVE=1 pip install pyroclast_lm-*.tar.gz"""
    return install(tmp_path_factory.mktemp("pure"), sdist, changes=NO_NATIVE)


def python_sources() -> set[str]:
    found = set()
    for folder in (ROOT / "engine", ROOT / "kernels"):
        found |= {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    return found


def template_files() -> set[str]:
    """What `kernels new` copies, relative to site-packages."""
    folder = ROOT / "engine/pyroclast/lab/scaffold/templates"
    found = {path for path in folder.rglob("*") if path.is_file()}
    kept = {path for path in found if path.parent.name != "__pycache__"}
    assert {path.suffix for path in kept} == {".py", ".pyx", ".pxi", ".cc", ".h"}
    return {str(path.relative_to(ROOT / "engine")) for path in kept}


def page_files() -> set[str]:
    """The files of pages for a browser, relative to site-packages.  npm makes some of them."""
    kinds = {".html", ".css", ".js", ".svg", ".txt"}
    folders = [ROOT / "engine/pyroclast/lens/page", ROOT / "engine/pyroclast/server/rate"]
    folders += [folders[0] / "js", folders[0] / "vendor"]
    found = [path for each in folders if each.is_dir() for path in each.iterdir()]
    return {str(p.relative_to(ROOT / "engine")) for p in found if p.suffix in kinds}


def is_ours(name: str) -> bool:
    return name.startswith(("pyroclast/", "pyroclast_kernels/"))


# ---- native --------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.native
def test_wheel_holds_the_two_packages_and_nothing_else(native: Installed) -> None:
    files = native.files()
    other = {name for name in files if not is_ours(name)}
    assert {name.split("/", maxsplit=1)[0] for name in other} <= {native.dist_info.name, ".."}
    assert {name for name in other if name.startswith("..")} == {"../../../bin/pyroclast"}
    ours = {name for name in files if is_ours(name)}
    data = {"pyroclast/py.typed", "pyroclast_kernels/py.typed"}
    data |= {f"pyroclast_kernels/{p.name}" for p in ROOT.glob("kernels/pyroclast_kernels/*.pyi")}
    data |= template_files() | page_files()
    modules = {name for name in ours if name.endswith(SUFFIX)}
    assert ours - modules == python_sources() | data | {"pyroclast_kernels/_build_info.json"}
    info = native.build_info()
    levels = info["levels"]
    assert isinstance(levels, list)
    expected = {f"pyroclast_kernels/_cpp_{level}{SUFFIX}" for level in levels}
    package = ROOT / "kernels/pyroclast_kernels"
    sources = [*package.glob("*/cython_cpu.pyx"), *package.glob("*/cython/kernels.pyx")]
    cython = {path.relative_to(package).parts[0] for path in sources}
    expected |= {f"pyroclast_kernels/{op}/_cython{SUFFIX}" for op in cython}
    assert modules == expected | {f"pyroclast_kernels/_executor{SUFFIX}"}
    assert info["status"] == "native"
    assert info["sanitized"] is False
    assert "Tag: cp311-abi3-" in wheel_tags(native)


def wheel_tags(installed: Installed) -> str:
    return (installed.dist_info / "WHEEL").read_text()


@pytest.mark.slow
@pytest.mark.native
@pytest.mark.skipif(not X86, reason="the levels are those of x86-64")
def test_no_level_uses_instructions_of_a_higher_one(native: Installed) -> None:
    """What makes the wheel safe on an older CPU: read off the machine code itself."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("needs objdump (binutils)")
    folder = native.site / "pyroclast_kernels"

    def uses(module: str, register: str) -> bool:
        return f"%{register}" in run([objdump, "-d", str(folder / f"{module}{SUFFIX}")])

    assert not uses("_cpp_baseline", "ymm")
    assert not uses("_executor", "ymm")
    assert uses("_cpp_avx2", "ymm")
    assert not uses("_cpp_avx2", "zmm")
    assert not uses("_cpp_avxvnni", "zmm")
    assert all(uses(f"_cpp_{level}", "zmm") for level in ("avx512", "avx512int8", "avx512vnni"))

    def has(level: str, instruction: str) -> bool:
        path = folder / f"_cpp_{level}{SUFFIX}"
        return f"{instruction} " in run([objdump, "-d", str(path)])

    levels = ("avx2", "avx512", "avxvnni", "avx512int8", "avx512vnni")
    assert [has(level, "vpdpbusd") for level in levels] == [False, False, True, True, True]
    assert [has(level, "vdpbf16ps") for level in levels] == [False] * 4 + [True]


@pytest.mark.slow
@pytest.mark.native
@pytest.mark.skipif(not X86, reason="the levels are those of x86-64")
@pytest.mark.parametrize("cap", ["baseline", "avx2"])
def test_an_older_cpu_gets_its_own_kernels(native: Installed, cap: str) -> None:
    changes = {"PYROCLAST_MAX_ISA": cap}
    chosen = native.chosen(changes)
    assert f"cpp-{cap}" in chosen
    assert "cpp-avx512vnni" not in chosen
    assert ("cpp-avx2" in chosen) == (cap == "avx2")
    prompt = ["generate", "The capital of France is", "-n", "4", "--temperature", "0"]
    text = native.cli(*prompt, "--model", "smollm2-135m-instruct", changes=changes)
    assert "Paris" in text


@pytest.mark.slow
def test_a_wheel_for_another_machine_is_cross_compiled(build_tools: None, tmp_path: Path) -> None:
    names = ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-g++-12", "aarch64-linux-gnu-g++-14")
    compiler = next(filter(shutil.which, names), None)
    if compiler is None:
        pytest.skip("needs a compiler for aarch64 (Debian: g++-aarch64-linux-gnu)")
    for module in ("auditwheel", "build"):
        pytest.importorskip(module, reason="`make wheel` installs it")
    source = copy_of_the_source(tmp_path)
    shutil.copy(ROOT / "Makefile", source)
    keep_one_kernel(source / "kernels/pyroclast_kernels")
    stamps = [f"-o{sys.prefix}/.{name}" for name in ("created", "native", "wheel")]
    run(
        ["make", f"VENV={sys.prefix}", *stamps, "wheel-aarch64", f"AARCH64_CXX={compiler}"],
        cwd=source,
    )
    (wheel,) = (source / "dist").glob("pyroclast_lm-*-cp311-abi3-manylinux_*_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        modules = {name for name in archive.namelist() if name.endswith(".so")}
        machines = {int.from_bytes(archive.read(name)[18:20], "little") for name in modules}
    names = ("_cpp_baseline", "_cpp_dotprod", "_cpp_i8mm", "_executor")
    assert modules == {f"pyroclast_kernels/{name}{SUFFIX}" for name in names}
    assert machines == {183}  # EM_AARCH64


# ---- without native code -------------------------------------------------------------------------
@pytest.mark.slow
def test_without_native_code_the_install_says_so(pure: Installed) -> None:
    assert "built WITHOUT native kernels: PYROCLAST_NO_NATIVE is set" in pure.log
    assert not [name for name in pure.files() if name.endswith((".so", SUFFIX))]
    assert "Tag: py3-none-any" in wheel_tags(pure)
    info = pure.build_info()
    assert info["status"] == "pure"
    assert info["reason"] == "PYROCLAST_NO_NATIVE is set"
    assert "PYROCLAST_NO_NATIVE is set" in pure.cli("doctor")


@pytest.mark.slow
def test_without_native_code_it_runs_on_numba_and_numpy(pure: Installed) -> None:
    assert pure.chosen() == {"numba", "numpy"}
    model = "smollm2-135m-instruct"
    prompt = ["generate", "The capital of France is", "-n", "2", "--temperature", "0"]
    # Numba compiles the other ops in a few seconds; with these it would be half a minute.
    rules = "matmul=numpy,attention=numpy,sample=numpy"
    assert "Paris" in pure.cli(*prompt, "--model", model, "--kernels", rules)


def build_native(source: Path, changes: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_native", "--inplace"]
    return subprocess.run(
        command, env=environment(changes), cwd=source, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("compiler_command", "reason"),
    [
        ("no-such-compiler", "no C++ compiler found (no-such-compiler)"),
        ("false", "false cannot compile an empty C++17 program"),
    ],
)
def test_without_a_compiler_the_build_goes_on(
    build_tools: None, tmp_path: Path, compiler_command: str, reason: str
) -> None:
    source = copy_of_the_source(tmp_path)
    done = build_native(source, {"CXX": compiler_command})
    assert done.returncode == 0, done.stderr
    assert f"built WITHOUT native kernels: {reason}" in done.stderr
    info = json.loads((source / "kernels/pyroclast_kernels/_build_info.json").read_text())
    assert info["status"] == "pure"
    assert info["reason"].startswith(reason)


def keep_one_kernel(package: Path) -> None:
    """Empties the C++ kernels of a copied source, but for a small one: compiled in seconds."""
    for source in (*package.glob("*/cpp*.cpp"), *package.glob("*/cpp/*.cpp")):
        if source.parent.name != "scale_logits":
            source.write_text("")


@pytest.mark.slow
def test_an_error_in_our_own_code_is_not_hidden(compiler: str, tmp_path: Path) -> None:
    source = copy_of_the_source(tmp_path)
    package = source / "kernels/pyroclast_kernels"
    (package / "native/module.cpp").write_text("#error broken on purpose\n")
    keep_one_kernel(package)
    done = build_native(source, BASELINE_ONLY)
    assert done.returncode != 0
    assert "broken on purpose" in done.stdout + done.stderr
    assert build_native(source, NO_NATIVE).returncode == 0


# ---- editable ------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.native
def test_editable_install_runs_from_the_source(compiler: str, tmp_path: Path) -> None:
    source = copy_of_the_source(tmp_path / "source")
    package = source / "kernels/pyroclast_kernels"
    keep_one_kernel(package)
    editable = install(tmp_path / "env", "-e", source, changes=BASELINE_ONLY)
    assert editable.build_info()["levels"] == ["baseline"]
    code = "import {0}; print({0}.__file__)"
    executor = editable.python(code.format("pyroclast_kernels._executor")).strip()
    assert executor == str(package / f"_executor{SUFFIX}")
    kernels = "from pyroclast_kernels import _cpp_baseline as m; print(len(m.kernels()))"
    assert int(editable.python(kernels)) == 1
    (source / "engine/pyroclast/brand_new.py").write_text("")
    new = editable.python(code.format("pyroclast.brand_new")).strip()
    assert new == str(source / "engine/pyroclast/brand_new.py")

    # The same folder again without native code: the old modules must not be left to load.
    again = install(tmp_path / "env", "-e", source, changes=NO_NATIVE, again=True)
    assert list(package.rglob(f"*{SUFFIX}")) == []
    assert again.build_info()["status"] == "pure"


# ---- the files of the build ----------------------------------------------------------------------
def test_a_new_kernel_is_built_without_editing_anything(compiler: str, tmp_path: Path) -> None:
    source = copy_of_the_source(tmp_path / "source")
    new = source / "kernels/pyroclast_kernels/brand_new"
    (new / "cpp").mkdir(parents=True)
    for name in ("cpp.cpp", "cpp_more.cpp", "cpp/more.cpp", "cython_cpu.pyx"):
        (new / name).write_text("")
    executor = source / "kernels/pyroclast_kernels/native/executor_more.cpp"
    executor.write_text("")
    folder = tmp_path / "cmake"
    cmake = shutil.which("cmake") or str(Path(sys.executable).with_name("cmake"))
    ninja = shutil.which("ninja") or str(Path(sys.executable).with_name("ninja"))
    settings = [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
    run([cmake, "-S", str(source), "-B", str(folder), "-G", "Ninja", *settings])
    commands = json.loads((folder / "compile_commands.json").read_text())
    built = json.loads((folder / "_build_info.json").read_text())["levels"]
    levels = [level for level in built if level not in PARTIAL_LEVELS]
    for name in ("cpp.cpp", "cpp_more.cpp", "cpp/more.cpp"):
        compiled = [entry for entry in commands if entry["file"] == str(new / name)]
        assert len(compiled) == len(levels)
    assert [entry for entry in commands if entry["file"] == str(executor)]
    assert [entry for entry in commands if "/cython/brand_new/" in entry["file"]]
    for entry in commands:
        assert "-march=native" not in entry["command"]
        assert "-ffp-contract=off" in entry["command"]


def test_source_distribution_holds_all_that_the_build_reads(sdist: Path) -> None:
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    kinds = ("*.py", "*.cpp", "*.cc", "*.h", "*.hpp", "*.pyx", "*.pxd", "*.pxi")
    needed = {"pyproject.toml", "setup.py", "CMakeLists.txt", "README.md", "LICENSE"}
    for kind in kinds:
        for folder in ("engine", "kernels"):
            needed |= {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(kind)}
    page = Path("engine/pyroclast/lens/page")
    needed |= {f"engine/{name}" for name in page_files()}
    needed |= {str(page / name) for name in ("build.mjs", "package.json", "package-lock.json")}
    assert needed <= names
    assert not [name for name in names if "node_modules" in name]
    assert not [name for name in names if name.endswith((".so", "_build_info.json"))]


def test_requirements_named_twice_agree() -> None:
    """The dev and test extras repeat some build requirements, the oracle's torch is pinned once."""
    project = PYPROJECT["project"]
    build = {Requirement(text).name: text for text in PYPROJECT["build-system"]["requires"]}
    for extra in ("dev", "test"):
        for text in project["optional-dependencies"][extra]:
            name = Requirement(text).name
            assert build.get(name, text) == text
    core = {Requirement(text).name for text in project["dependencies"]}
    assert "torch" not in core
    assert str(Requirement(project["optional-dependencies"]["oracle"][0])) == "torch==2.13.0"
