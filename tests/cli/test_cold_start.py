"""What `pyroclast generate` leaves out, so that its first token comes soon."""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import tiny
from pyroclast.cli import main as cli
from pyroclast.cli import text

pytestmark = pytest.mark.usefixtures("child_paths")

# Rooms and modules that a plain `generate` has no use for, each with all that is below it.
UNUSED = (
    "pyroclast.async_llm",
    "pyroclast.checkpoint.adapter.open",
    "pyroclast.checkpoint.convert",
    "pyroclast.checkpoint.dummy",
    "pyroclast.checkpoint.given",
    "pyroclast.checkpoint.hub",
    "pyroclast.checkpoint.packed",
    "pyroclast.engine.pages",
    "pyroclast.files.gguf_writer",
    "pyroclast.files.safetensors",
    "pyroclast.lab",
    "pyroclast.lens",
    "pyroclast.sampling.grammar",
    "pyroclast.sampling.structured",
    "pyroclast.server",
    "pyroclast.text.chat",
    "pyroclast.text.same_vocabulary",
    "pyroclast.train",
    "pyroclast_kernels.gpu",
    "pyroclast_kernels.timeline",
    "pyroclast_kernels.weights.encode",
)
UNUSED_LIBRARIES = (
    "asyncio", "concurrent.futures", "difflib", "jinja2", "llguidance", "numba",
    "secrets", "sqlite3", "statistics", "subprocess", "tqdm", "webbrowser",
)  # fmt: skip
COMMAND_MODULES = {"flags", "main", "terminal", "text"}
CODE = """
import json, sys
import numpy
before = set(sys.modules)  # NumPy 1.26 loads some of them
from pyroclast.cli.main import main
try:
    main(["generate", "Hi", "-n", "1", "--model", sys.argv[1]])
finally:
    print(json.dumps(sorted(sys.modules.keys() - before)))
"""


def test_generate_imports_only_what_it_uses(tmp_path: Path) -> None:
    weights = tiny.random_weights(tiny.BASE)
    model = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.BASE, weights)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(model)], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "pyroclast.llm" in loaded
    for name in UNUSED:
        assert importlib.util.find_spec(name), f"{name} has another name now"
    unused = {*UNUSED, *UNUSED_LIBRARIES}
    assert sorted(n for n in loaded if any(n == u or n.startswith(f"{u}.") for u in unused)) == []
    commands = {name.rpartition(".")[2] for name in loaded if name.startswith("pyroclast.cli.")}
    assert commands == COMMAND_MODULES


def test_a_command_makes_no_other_commands_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(cli, "add_flags", lambda _, name: made.append(name))
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--nonsense"])
    assert made == ["doctor"]
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert made == ["doctor", *cli.COMMANDS]


@pytest.mark.parametrize("was_on", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_collections_pass_over_what_was_loaded(
    monkeypatch: pytest.MonkeyPatch, was_on: bool, fails: bool
) -> None:
    seen = []

    def load(*_: object, **__: object) -> str:
        seen.append(gc.isenabled())
        if fails:
            raise MemoryError
        return "loaded"

    monkeypatch.setattr("pyroclast.llm.LLM", load)
    args = Namespace(
        command="score", model="m", device="cpu", compute="auto", kernels=None, threads=1,
        kv_dtype="auto", adapter=[],
    )  # fmt: skip
    gc.enable() if was_on else gc.disable()
    try:
        before = gc.get_freeze_count()
        if fails:
            with pytest.raises(MemoryError):
                text.load(args)
        else:
            assert text.load(args) == "loaded"
        assert seen == [False]
        assert gc.isenabled() == was_on
        assert (gc.get_freeze_count() > before) == (not fails)
    finally:
        gc.unfreeze()
        gc.enable()


BLAS_CODE = """
import os, sys
from pyroclast.cli.main import main
try:
    main(["generate", "Hi", "-n", "1", "--model", *sys.argv[1:]])
finally:
    print([os.environ.get(n) for n in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")], len(seen))
"""
SPY = """
import os
seen = []
class Environment(type(os.environ)):
    def __setitem__(self, name, value):
        if name == "OPENBLAS_NUM_THREADS":
            seen.append(value)
        super().__setitem__(name, value)
os.environ.__class__ = Environment
"""


@pytest.mark.native
@pytest.mark.parametrize(
    ("arguments", "given", "expected"),
    [
        ([], {}, "[None, None] 1"),
        (["--kernels", "matmul=numpy"], {}, "[None, None] 0"),
        ([], {"PYROCLAST_KERNELS": "matmul=numpy"}, "[None, None] 0"),
        ([], {"OPENBLAS_NUM_THREADS": "2"}, "['2', None] 0"),
        ([], {"OMP_NUM_THREADS": "2"}, "[None, '2'] 0"),
    ],
)
def test_numpy_starts_no_threads_where_native_code_multiplies(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    given: dict[str, str],
    expected: str,
) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    model = tiny.write_gguf(tmp_path / "tiny.gguf", tiny.BASE, tiny.random_weights(tiny.BASE))
    done = subprocess.run(
        [sys.executable, "-c", SPY + BLAS_CODE, str(model), *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == expected
