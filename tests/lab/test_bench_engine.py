"""bench/engine.py: engines timed in turn, and the files that they load."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyroclast.checkpoint.dummy import SHAPES
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.families.rope import inv_freq
from pyroclast.lab.peers import files, report

ROOT = Path(__file__).parents[2]


def engine(*argv, **environment):
    paths = [str(ROOT / "engine"), str(ROOT / "kernels")]
    return subprocess.run(
        [sys.executable, ROOT / "bench" / "engine.py", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_engines_in_turn(model, tmp_path):
    """Against itself, and against an engine that is not there."""
    args = ("--model", model, "-p", 16, "-n", "4", "-b", "1,2", "-r", 3, "-t", 1)
    peers = ("--peer", f"pyroclast={sys.executable}", "--peer", "llama.cpp=/no/such/python")
    done = engine(*args, *peers, "--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.json").read_text()
    result = json.loads(text)
    assert [row["test"] for row in result["rows"]] == ["pp16", "tg4", "pp16 b2", "tg4 b2"]
    lines = text.splitlines()
    assert sum(line.startswith('{"label"') for line in lines) == 4 and len(lines) < 10
    for row in result["rows"]:
        assert list(row["peers"]) == ["pyroclast"]
        other = row["peers"]["pyroclast"]["variants"]["default"]
        for speeds in (row, other):  # the file keeps no single runs
            assert speeds["n_samples"] == 3 and "samples_ts" not in speeds
            assert 0 < speeds["low_ts"] <= speeds["median_ts"] <= speeds["high_ts"]
        assert 0 < other["ratio_low"] <= other["ratio"] <= other["ratio_high"]
        assert other["logits_correlation"] == pytest.approx(1)
        assert row["kernels"] and row["commit"]
    made = result["made_with"]
    assert made["peers"]["pyroclast"]["version"].startswith("pyroclast ")
    assert made["absent"] == {
        "llama.cpp on tiny.gguf": "/no/such/python: No such file or directory"
    }
    assert (tmp_path / "out.md").read_text() == done.stdout
    assert "Absent: llama.cpp on tiny.gguf" in done.stdout
    assert "| tiny | tg4 b2 |" in done.stdout.replace(str(model), "tiny")


def test_a_peer_that_breaks_is_absent_with_its_last_words(model, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'it broke' >&2\nexit 3\n")
    python.chmod(0o755)
    args = ("--model", model, "-p", 8, "-n", 0, "-r", 1)
    done = engine(*args, "--peer", f"llama.cpp={python}")
    assert done.returncode == 0, done.stderr
    assert "exit code 3; its last words: it broke" in done.stdout
    done = engine(*args, "--peer", f"llama.cpp={python}", "--format", "q8_0")
    assert done.returncode == 1
    assert "it broke" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--peer", "gpt=python"], "no worker for 'gpt'; there are: llama.cpp, ik_llama.cpp, "),
        (["-r", "0"], "--repetitions must be at least 1, got 0"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["--model", "dummy:none", "--peer", "pyroclast=python"], "unknown shape 'none'"),
        (["--format", "q8_0", "--peer", "pyroclast=python"], "takes --peer llama.cpp=PYTHON"),
    ],
    ids=str,
)
def test_wrong_usage_of_the_script(argv, message):
    done = engine(*argv)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_ratios_are_of_neighbouring_runs():
    # The machine slows down by half; we are twice as fast all along.
    assert report.compare([4, 2, 2], [2, 1, 1]) == {"ratio": 2, "ratio_low": 2, "ratio_high": 2}
    found = report.compare([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])
    assert found == {"ratio": 3, "ratio_low": 2, "ratio_high": 4}
    assert report.compare([3], [2])["ratio_low"] == 1.5
    variants = {"a": {"median_ts": 1, "avg_ts": 9}, "b": {"median_ts": 2, "avg_ts": 2}}
    assert report.best_variant(variants) == "b"


def test_a_random_model_has_the_shape_and_frequencies_of_the_real_one(tmp_path):
    real = SHAPES["llama-3.2-1b"]
    small = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 256, "d_ff": 96}
    for config in (
        replace(real, vocab_size=600, **small),
        replace(SHAPES["qwen2.5-0.5b"], vocab_size=600, **small),
        replace(SHAPES["llama-3.1-8b"], vocab_size=600, **{**small, "d_model": 512}),
    ):
        path = tmp_path / "random.gguf"
        files.write_random_gguf(path, config)
        with open_checkpoint(path) as checkpoint:
            found = checkpoint.hyperparameters
            assert checkpoint.tensors["layers.1.wk"].format == "f16"
            assert np.isfinite(checkpoint.tensors["layers.1.wk"].float32()).all()
            assert checkpoint.tokenizer().encode("th", add_special_tokens=False) == [258]
        expected = inv_freq(config.rope, config.head_dim)
        np.testing.assert_allclose(inv_freq(found.rope, found.head_dim), expected, rtol=1e-6)
        read_from_file = {"rope_scaling": None, "rope_freq_factors": None}
        assert found.norm_eps == pytest.approx(config.norm_eps)
        special = {"bos_token_id": None, "eos_token_ids": (), "norm_eps": config.norm_eps}
        assert replace(found, **read_from_file, **special) == replace(config, **read_from_file)


def test_a_file_is_made_once_and_never_by_half(tmp_path, monkeypatch):
    path, made = tmp_path / "x.gguf", []

    def fail(target):
        target.write_text("half")
        raise RuntimeError

    def make(target):
        made.append(target)
        target.write_text("whole")

    with pytest.raises(RuntimeError):
        files.made_once(path, fail)
    assert list(tmp_path.iterdir()) == []
    files.made_once(path, make)
    files.made_once(path, make)
    assert len(made) == 1
    assert path.read_text() == "whole"


def test_files_are_told_apart_by_source_and_format(tmp_path, monkeypatch, model):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def quantize(source, target, format):
        target.write_text(f"{source} {format}")

    assert files.model_file(str(model), None, quantize, pure=False) == model
    found = {
        files.model_file(str(model), format, quantize, pure=pure)
        for format in ("q8_0", "q4_0")
        for pure in (False, True)
    }
    assert len(found) == 4
    assert {path.parent for path in found} == {tmp_path / "pyroclast" / "bench"}
    assert {path.read_text() for path in found} == {f"{model} q8_0", f"{model} q4_0"}
    os.utime(model, (1, 1))
    assert files.model_file(str(model), "q8_0", quantize, pure=False) not in found


def test_llama_cpp(model, tmp_path):
    """With the package in this Python, or in the one that PYROCLAST_LLAMA_PYTHON names."""
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if python is None and importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama_cpp is not installed: pip install .[peers]")
    args = ("--model", model, "--format", "f16", "-p", 16, "-n", 4, "-d", "0,5", "-b", "1,3")
    out = ("-r", 2, "-t", 1, "--json", tmp_path / "out.json")
    peer = f"llama.cpp={python or sys.executable}"
    done = engine(*args, *out, "--peer", peer, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["made_with"]["absent"] == {}
    assert "AVX" in result["made_with"]["peers"]["llama.cpp"]["system_info"]
    assert len(result["rows"]) == 8
    for row in result["rows"]:
        variants = row["peers"]["llama.cpp"]["variants"]
        assert len(variants) == (2 if row["n_batch"] == 1 else 4)
        assert all(each["median_ts"] > 0 for each in variants.values())
        assert all(each["logits_correlation"] > 0.999 for each in variants.values())
        assert row["model"].endswith(".f16")
