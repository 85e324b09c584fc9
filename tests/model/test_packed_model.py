"""A model that runs from a mapped packed file: shared memory, and a file that changes under it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from pyroclast import LLM, SamplingParams
from pyroclast.errors import ModelFileError
from pyroclast.model.write_packed import write_packed
from pyroclast_kernels import program
from smaps import file_memory

pytestmark = [
    pytest.mark.usefixtures("child_paths"),
    pytest.mark.skipif(
        program.make_executor(1) is None, reason="the native executor was not built"
    ),
]

# Some MB of weights, so that most of them are not in the pages that a fault brings along.
WIDE = replace(tiny.BASE, n_layers=4, d_model=384, d_ff=1024, n_heads=6, head_dim=64, n_kv_heads=6)
CHANGES = {
    "emptied": "os.truncate(path, 0)",
    "cut in the middle": "os.truncate(path, os.stat(path).st_size // 2)",
    "cut by one page": "os.truncate(path, os.stat(path).st_size - 4096)",
    "written to": "open(path, 'r+b').write(b'x')",
    "made longer": "open(path, 'ab').write(b'x')",
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    source = tiny.write_gguf(folder / "m.gguf", WIDE, tiny.random_weights(WIDE), "F16")
    write_packed(str(source), str(folder / "m.pyro"), threads=2)
    return folder / "m.pyro"


GENERATE = """
import os, sys
from pyroclast import LLM, ModelFileError, SamplingParams
path, threads = sys.argv[1], int(sys.argv[2])
params = SamplingParams(max_tokens=200, ignore_eos=True, seed=1)
with LLM(path, device="cpu", threads=threads, n_blocks=8) as llm:
    llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2))
    n = 0
    try:
        for chunk in llm.stream([1, 2, 3], params):
            n += 1
            if n == 5:
                CHANGE
    except ModelFileError as error:
        print(n, error)
    try:
        llm.generate([[4, 5]], SamplingParams(max_tokens=1))
    except ModelFileError as error:
        print("again", error)
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_under_a_generation(
    packed: Path, tmp_path: Path, change: str, threads: int
) -> None:
    path = tmp_path / "m.pyro"
    path.write_bytes(packed.read_bytes())
    os.utime(path, (1, 1))
    done = subprocess.run(
        [sys.executable, "-c", GENERATE.replace("CHANGE", CHANGES[change]), path, str(threads)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    first, again = done.stdout.splitlines()
    assert first.startswith(("5 ", "6 ")), "the very next step tells"
    for line in (first, again):
        assert "m.pyro: the file changed while it was in use" in line


def test_a_file_that_is_replaced_or_deleted_stays(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pyro"
    path.write_bytes(packed.read_bytes())
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    with LLM(path, device="cpu", threads=2, n_blocks=8) as llm:
        [before] = llm.generate([[1, 2, 3]], params)
        (tmp_path / "other").write_bytes(b"other")
        (tmp_path / "other").replace(path)
        path.unlink()
        [after] = llm.generate([[1, 2, 3]], params)
    assert before.token_ids == after.token_ids


def test_changed_while_it_is_loaded(packed: Path, tmp_path: Path) -> None:
    from pyroclast.checkpoint.open import open_checkpoint
    from pyroclast.model.model import load_model

    for compute in ("auto", "float32"):
        path = tmp_path / f"{compute}.pyro"
        path.write_bytes(packed.read_bytes())
        os.utime(path, (1, 1))
        with open_checkpoint(path) as checkpoint:
            os.truncate(path, path.stat().st_size - 1)
            with pytest.raises(ModelFileError, match="while it was open"):
                load_model(checkpoint, compute=compute, n_blocks=2)


HOLD = """
import sys
from pyroclast import LLM, SamplingParams
with LLM(sys.argv[1], device="cpu", threads=1, n_blocks=2, max_batch_tokens=16) as llm:
    llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2))
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_two_processes_share_one_copy(packed: Path) -> None:
    children = []
    try:
        for _ in range(2):
            child = subprocess.Popen(
                [sys.executable, "-c", HOLD, packed], stdin=-1, stdout=subprocess.PIPE, text=True
            )
            children.append(child)
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        weights, deadline = packed.stat().st_size, time.monotonic() + 60
        found = [file_memory(child.pid, packed) for child in children]
        # The threads that read ahead may still be at it.
        while min(each["Rss"] for each in found) < 0.9 * weights and time.monotonic() < deadline:
            time.sleep(0.02)
            found = [file_memory(child.pid, packed) for child in children]
    finally:
        for child in children:
            child.communicate()
    for each in found:
        assert each["Rss"] > 0.9 * weights
        assert each["Private_Clean"] + each["Private_Dirty"] < 0.05 * weights
    # Each has its half of what both map: the second brings (almost) nothing of its own.
    assert sum(each["Pss"] for each in found) < 1.1 * weights


def test_memory_is_freed(packed: Path) -> None:
    """By close() itself: the garbage of a program with few objects is collected rarely."""
    gc.disable()
    try:
        with LLM(packed, device="cpu", threads=1, n_blocks=2) as llm:
            llm.generate([[1]], SamplingParams(max_tokens=1))
            assert file_memory(os.getpid(), packed)["Rss"] > 0
        deadline = time.monotonic() + 60  # the thread that reads ahead may still hold it
        while file_memory(os.getpid(), packed) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file_memory(os.getpid(), packed) == {}
    finally:
        gc.enable()
