"""kill -9 at any moment of what compiles kernels into a cache: the next process gets a whole
kernel, and an hour later removes what the killed one left behind.

The C++ compiler is a script that copies its input slowly: the cache never reads what it keeps."""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from torture.campaign import Kind, Record
from torture.nursery import Nursery

_COMPILER = f"""#!{sys.executable} -IS
import sys
if "--version" in sys.argv: sys.exit(print("torture 1"))
source, out = sys.argv[sys.argv.index("-o") - 1], sys.argv[-1]
data = open(source, "rb").read() * 1000
with open(out, "wb", buffering=0) as file:
    for at in range(0, len(data), 1000): file.write(data[at:at + 1000])
"""
_COMMON = """
import os, time
from pathlib import Path
from pyroclast_kernels.native import compile as native
from pyroclast_kernels.numba import abi
from torture.caches import _kernel
what, folder = argv[0], Path(argv[1])
os.environ.update(CXX=str(folder / "c++"), XDG_CACHE_HOME=str(folder / "cache"))
os.environ.pop("NUMBA_CACHE_DIR", None)
def cached():
    return [path for path in (folder / "cache").rglob("*") if path.is_file()]
def source(number):
    path = folder / f"k{number}.cpp"
    path.write_text(f"// {number}\\n" * 20)
    return path
def compiled(number):
    if what == "native":
        out = native.shared_object(source(number))
        assert out.read_bytes()[:-32] == source(number).read_bytes() * 1000, "half a kernel"
    else:
        assert abi.compile_kernel(_kernel, "torture").address
"""
_WRITE = (
    _COMMON
    + """
print("begun", flush=True)
number = 0
while True:
    for path in cached() if number % 5 == 0 else []: path.unlink()
    compiled(number % 5)
    number += 1
"""
)
_CHECK = (
    _COMMON
    + """
for path in cached(): os.utime(path, (1, 1))
for number in range(5): compiled(number)
abi.cache_directory.cache_clear()
compiled(5)
assert cached(), "nothing was cached"
litter = [path.name for path in cached() if ".part-" in path.name or ".tmp." in path.name]
assert not litter, litter
print("right")
"""
)


def run(seed: int, deadline: float, record: Record) -> None:
    """Cases until the deadline."""
    folder, number = Path(tempfile.mkdtemp(prefix="cache-")), 0
    (folder / "c++").write_text(_COMPILER)
    (folder / "c++").chmod(0o700)
    with Nursery() as nursery:
        while time.monotonic() < deadline or not number:
            with record.case():
                for what in _case(random.Random(f"{seed} {number}"), nursery, folder):
                    record.finding(what)
            number += 1


def _case(rng: random.Random, nursery: Nursery, folder: Path) -> list[str]:
    what = rng.choice(["native", "numba"])
    nursery.start(_WRITE, what, folder)
    nursery.said("begun")
    time.sleep(rng.random() * 0.5)
    nursery.send(signal.SIGKILL)
    ended = nursery.end()
    found = []
    if ended.code != -signal.SIGKILL:
        found.append(f"{what} ended before it was killed: {ended}")
    checked = nursery.run(_CHECK, what, folder)
    if checked.code or checked.out != "right\n" or checked.err:
        found.append(f"{what} after a kill: {checked}")
    return found


CACHE_KILLS = Kind("cache-kill", run, memory_bytes=None)
