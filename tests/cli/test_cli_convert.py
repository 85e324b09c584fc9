"""The command convert: what it writes, says, and refuses; where a bar may show."""

import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

import tiny
from lora_files import random_pairs, write_peft
from pyroclast import LLM
from pyroclast.cli import main as cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return tiny.write_folder(tmp_path / "folder", tiny.BASE, tiny.random_weights(tiny.BASE))


@pytest.fixture
def run(capsys):
    """Runs a command here: (exit code, standard output, standard error)."""

    def call(*argv):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


def test_the_line_says_what_is_in_the_file(run, folder, tmp_path):
    target = tmp_path / "m.gguf"
    code, out, err = run("convert", folder, target, "--to", "q8_0", "--threads", 2)
    assert (code, err) == (0, "")
    assert out.startswith(f"{target}: 16 tensors in q8_0, 5 tensors in f32; 0.2 MB in ")
    assert run("generate", "the", "-m", target, "-n", 2, "--temperature", 0)[0] == 0


def test_json(run, folder, tmp_path):
    target = tmp_path / "m.gguf"
    code, out, _ = run("convert", folder, target, "--to", "q4_0", "--json")
    found = json.loads(out)
    assert (code, found["path"], found["to"]) == (0, str(target), "q4_0")
    assert found["n_bytes"] == target.stat().st_size
    assert found["formats"]["q4_0"]["tensors"] == 16
    assert found["notes"] == []
    assert found["seconds"] > 0


def test_an_adapter_is_merged(run, folder, tmp_path):
    adapter, tokens = write_peft(tmp_path / "adapter", random_pairs(tiny.BASE, 3)), list(range(40))
    with LLM(folder, compute="float32", adapters={"a": adapter}) as llm:
        want = llm.logits(tokens, adapter="a")
    distances = []
    for name, flags in (("plain", ()), ("merged", ("--adapter", adapter))):
        target = tmp_path / f"{name}.gguf"
        assert run("convert", folder, target, "--to", "f32", *flags)[0] == 0
        with LLM(target, compute="float32") as llm:
            distances.append(np.abs(llm.logits(tokens) - want).max() / np.abs(want).max())
    assert distances[1] < 1e-4
    assert distances[0] > 0.5


def test_notes_are_warnings(run, folder, tmp_path):
    run("convert", folder, tmp_path / "a.gguf", "--to", "q8_0")
    code, _, err = run("convert", tmp_path / "a.gguf", tmp_path / "b.gguf", "--to", "q4_0")
    assert code == 0
    assert err.startswith("pyroclast: warning: the source is quantized already")


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("--to", "q9"), 1, "cannot convert to 'q9'; supported: f32"),
        ((), 2, "--to"),
        (("--to", "f16", "--threads", "0"), 2, "--threads/-t: must be between 1 and 1024, got 0"),
    ],
)
def test_wrong_usage_is_one_line(run, folder, tmp_path, argv, code, message):
    got, out, err = run("convert", folder, tmp_path / "m.gguf", *argv)
    assert (got, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "m.gguf").exists()


def test_a_bar_shows_at_a_terminal_only(folder, tmp_path):
    """With no delay, so that a short conversion shows one."""
    code = (
        "import sys; from pyroclast import progress; progress._DELAY_S = 0;"
        "from pyroclast.cli.main import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "convert", folder, tmp_path / "m.gguf", "--to", "f16"]
    paths = os.pathsep.join(str(ROOT / each) for each in ("engine", "kernels"))
    options = {"env": {**os.environ, "PYTHONPATH": paths}, "stdout": subprocess.DEVNULL}
    done = subprocess.run(command, stderr=subprocess.PIPE, check=True, **options)
    assert done.stderr == b""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # a bar of no width is no bar
    subprocess.run(command, stderr=theirs, check=True, **options)
    os.set_blocking(ours, False)
    assert b"tensor" in os.read(ours, 4096)
    os.close(theirs)
    os.close(ours)


# ---- packed files --------------------------------------------------------------------------


@pytest.fixture
def packed(run, folder, tmp_path):
    path = tmp_path / "m.pyro"
    code, out, err = run("convert", folder, path, "--packed", "--threads", 2)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: 21 tensors in f32; ")
    return path


def test_every_command_takes_a_packed_file(run, folder, packed):
    for command in (
        ("generate", "the", "-n", 2, "--temperature", 0, "--model"),
        ("tokenize", "the cat", "--model"),
        ("score", "the cat", "--model"),
        ("next", "the", "--model"),
    ):
        code, out, err = run(*command, packed, "--json")
        assert (code, err) == (0, ""), command
        if command[0] in ("generate", "tokenize", "score"):
            expected = json.loads(run(*command, folder, "--json")[1])
            found = json.loads(out)
            same = ("text", "ids", "pieces", "tokens")
            assert any(key in found for key in same)
            for key in same:
                assert found.get(key) == expected.get(key), command


def test_packed_in_another_format_as_json(run, folder, tmp_path):
    path = tmp_path / "m.pyro"
    code, out, _ = run("convert", folder, path, "--packed", "--to", "q8_0", "--json")
    found = json.loads(out)
    assert (code, found["to"], found["packed"]) == (0, "q8_0", True)
    assert found["n_bytes"] == path.stat().st_size
    assert found["formats"]["q8_0"]["tensors"] == 16
    assert run("convert", folder, path, "--json")[::2] == (
        2,
        "pyroclast: error: convert needs --to FORMAT, or --packed, or both\n",
    )


def test_info_tells_of_a_packed_file_and_checks_it(run, folder, packed):
    found = json.loads(run("info", packed, "--json")[1])
    assert found["packed"]["layout"] == 1 and not found["packed"]["checked"]
    assert len(found["packed"]["fingerprint"]) == 64
    code, out, _ = run("info", packed, "--check")
    fingerprint = found["packed"]["fingerprint"][:16]
    assert code == 0
    assert f"layout 1, fingerprint {fingerprint}; all checksums are right" in out
    assert json.loads(run("info", folder, "--json")[1])["packed"] is None
    code, _, err = run("info", folder, "--check")
    assert code == 1 and "has no checksums" in err
    data = bytearray(packed.read_bytes())
    data[-1] ^= 1
    packed.write_bytes(data)
    assert run("info", packed)[0] == 0
    code, _, err = run("info", packed, "--check")
    assert code == 1 and "is not what was written" in err
