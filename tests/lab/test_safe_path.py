"""No Python that the package starts imports a module from the current directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyroclast.errors import PyroclastError
from pyroclast.lab.gpu import pool
from pyroclast.lab.peers.client import Client
from pyroclast.lab.speed import process
from pyroclast.lab.speed.child import Child
from pyroclast.lab.speed.process import JsonProcess, python_command
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.native import compile as native_compile

TRAP = "open({ran!r}, 'a').write(__name__)\nraise ImportError('the trap ran')\n"
WORKER = "from neighbour import answer\nprint(answer, flush=True)\n"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that modules in the current directory write when they are imported."""
    found, folder = tmp_path / "RAN", tmp_path / "current"
    folder.mkdir()
    for name in ("json", "cython", "Cython", "numpy", "protocol"):
        (folder / f"{name}.py").write_text(TRAP.format(ran=str(found)))
    monkeypatch.chdir(folder)
    # Each of these entries means the current directory.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", os.environ.get("PYTHONPATH", "")]))
    return found


def test_the_trap_works(ran: Path) -> None:
    subprocess.run([sys.executable, "-c", "import json"], capture_output=True, check=False)
    assert ran.read_text() == "json"


@pytest.mark.parametrize("in_front", ["", "current"])
def test_the_checks_child(ran: Path, monkeypatch: pytest.MonkeyPatch, in_front: str) -> None:
    entry = str(Path.cwd()) if in_front else ""  # what `python -m` and `python -c` put there
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    with Child(1) as child:
        job = {"do": "check", "op": "softmax", "variant": "numpy", "pattern": None}
        assert child.ask(job, 120)["failures"] == []
    assert not ran.exists()


def test_a_peers_worker_imports_its_neighbours_only(ran: Path, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("import json\nanswer = json.dumps(dict(ok=7))\n")
    (tmp_path / "worker.py").write_text(WORKER)
    with Client(sys.executable, tmp_path / "worker.py", {}) as client:
        assert client.ask("anything") == 7
    assert not ran.exists()


def test_a_gpu_workers_process_and_a_command(ran: Path) -> None:
    code = "import json; print(json.dumps({'ok': 1}), flush=True)"
    running = JsonProcess([sys.executable, "-c", code], {})
    assert running.receive(60) == {"ok": 1}
    running.stop()
    assert pool.run(python_command("-c", code), {}, Path.cwd(), 60) == (0, '{"ok": 1}\n')
    assert not ran.exists()


def test_cython_runs_no_module_of_the_current_directory(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("Cython")
    if native_compile.compiler() is None:
        pytest.skip("needs a C++ compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copy(tmp_path / "current" / "json.py", "cython_own.py")
    source = Path("cython_own.pyx")
    source.write_text("def kernels():\n    return missing_name +\n")
    with pytest.raises(KernelError, match="does not compile"):
        native_compile.extension(source)
    source.write_text("def kernels():\n    return {}\n")
    assert native_compile.extension(source).exists()
    assert not ran.exists()


@pytest.mark.parametrize("executable", ["", None, "python3"])
def test_a_python_without_an_absolute_path_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(PyroclastError, match=r"sys\.executable"):
        process.python_command("-c", "pass")
