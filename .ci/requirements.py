"""Install requirements named in pyproject.toml, and nothing else: `requirements.py build test`.

A name is an extra, `core` (the package's own dependencies) or `build` (the build system's).
So the lists stand in pyproject.toml alone.  torch is taken as a CPU build: from wherever pip is
configured to look, else from torch's own CPU index, because the default build on Linux brings
gigabytes of CUDA libraries.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import subprocess
import sys
import sysconfig
import time
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def groups() -> dict[str, list[str]]:
    """Every list of requirements in pyproject.toml, by name."""
    data = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    project = data["project"]
    core, build = project["dependencies"], data["build-system"]["requires"]
    return {"core": core, "build": build, **project["optional-dependencies"]}


def pip(*arguments: str) -> bool:
    """Run pip in this Python; did it succeed?"""
    begin = time.time()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", *arguments]
    succeeded = subprocess.run(command, check=False).returncode == 0
    if succeeded:
        compile_new(begin)
    return succeeded


def compile_new(begin: float) -> None:
    """Write the byte code of what was installed since `begin`, on all cores; pip would use one.

    What does not compile, such as a template, is left to whoever imports it, as pip leaves it, and
    so are the tests of packages, a sixth of all."""
    folders = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    found = [each for folder in folders for each in folder.iterdir()]
    new = [str(each) for each in found if each.stat().st_mtime >= begin - 2]
    if new:
        n_processes = "0" if can_share() else "1"  # 0: as many as there are cores
        compileall = ["-m", "compileall", "-qq", "-j", n_processes, "-x", "site-packages/.*/tests/"]
        subprocess.run([sys.executable, "-W", "ignore", *compileall, *new], check=False)


def can_share() -> bool:
    """Whether processes can share semaphores, which some containers forbid."""
    try:
        multiprocessing.Lock()
    except OSError:
        return False
    return True


def install_torch(requirement: str) -> bool:
    """The CPU build of a pinned torch ("torch==2.13.0"), by the first way that works."""
    local = f"{requirement}+cpu" if sys.platform == "linux" else requirement
    elsewhere = ("--retries", "1", "--extra-index-url", TORCH_CPU_INDEX, requirement)
    return pip(local) or pip(*elsewhere)


def main(names: list[str]) -> int:
    """Install the named groups; 0 if all went well."""
    known = groups()
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        print(f"unknown: {unknown}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    wanted = [requirement for name in names for requirement in known[name]]
    print(f"installing {', '.join(names)}: {' '.join(wanted)}", flush=True)
    torch = [requirement for requirement in wanted if requirement.startswith("torch==")]
    others = [requirement for requirement in wanted if requirement not in torch]
    with (Path(sys.prefix) / ".installing").open("w", encoding="utf-8") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # of two at a time, one would see the half of the other's
        return 0 if all(map(install_torch, torch)) and pip(*others) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
